"""Any classifier of torchvision or timm by its name, with a last layer of its own, through the same door as VGG-16.

Names: those of `torchvision.models` (``resnet50``, ``convnext_tiny``, ``vit_b_16``), and ``timm/NAME`` where timm is
installed. VGG-11, 13 and 19 are in the paper's configurations what VGG-16 is. For others these mean: A, a frozen body
and a last layer; B to D, all of it, D with dropout before the last layer. What is VGG's own (its FC layers, L2 on them)
has no counterpart; dropout within a body is its library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raypipe.errors import ConfigError, InputError, one_line
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.data.target import BINARY, Target
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.init import Scheme
from raypipe.train.networks.keras_file import KERAS
from raypipe.train.networks.vgg import Network, build_model, restore_model, start_last_layer
from raypipe.train.networks.weights import (
    BLOCKS,
    LoadedWeights,
    check_layers,
    connect_timeout,
    imagenet_or_random,
    kept_last_layer,
    load_weights,
    read_file,
)

_TIMM = "timm/"
# Layers of second outputs of training, which their paper weighs into a loss of its own: they have no place in ours.
_AUXILIARY = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
# torchvision's weights of these two were trained by others on pixels from -1 to 1. It turns its own normalisation into
# that inside a network which it loads them into (transform_input), and no state dict tells. Here the normalisation is
# that itself: it is kept with each checkpoint, which so predicts as it was trained.
_MINUS_ONE_TO_ONE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255)


class Classifier(Network):
    """Images, float [n, 3, s, s], to the outputs of `logit` over what `body` gives: [n] of one unit, [n, k] of k."""

    def __init__(self, body: nn.Module, n_features: int, configuration: Configuration, n_outputs: int) -> None:
        super().__init__()
        self.frozen, self.n_features = configuration.frozen, n_features
        self.body = body
        self.dropout = nn.Dropout(configuration.dropout) if configuration.dropout else nn.Identity()
        self.logit = nn.Linear(n_features, n_outputs)
        if self.frozen:
            self.body.requires_grad_(False)

    def extract(self, images: Tensor) -> Tensor:
        """What the body gives before its own last layer, flattened: [n, n_features]."""
        return torch.flatten(self.body(images), 1)

    def hidden(self, features: Tensor) -> Tensor:
        """The features, some of them dropped in training where the configuration has dropout."""
        dropped: Tensor = self.dropout(features)
        return dropped

    @property
    def frozen_part(self) -> nn.Module:
        """All but the last layer."""
        return self.body


@dataclass(frozen=True)
class Body:
    """A library's classifier without its last layer, which `last` names; how it wants pictures normalised."""

    module: nn.Module
    last: tuple[str, ...]
    preprocessing: Preprocessing

    def features(self, image_size: int, model: str) -> int:
        """How many it gives for a picture. Raises ConfigError where it takes none of `image_size` pixels."""
        was_training = self.module.training
        try:
            with torch.no_grad():
                found = self.module.eval()(torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(f"train.image_size: {image_size} does not suit {model}: {one_line(error)}") from error
        finally:
            self.module.train(was_training)
        return int(found.flatten(1).shape[1])


def load_network_weights(model: str, weights: str) -> LoadedWeights:
    """The weights that training `model` starts from, and how it wants pictures normalised.

    `weights` is ``imagenet`` (the library's own), ``random``, ``auto``, or a file: a state dict of the library's, with
    or without its last layer, or a checkpoint of raypipe's. For VGG-16 and its kin see `load_weights`, which it calls.
    Raises ConfigError on a name that is not known; InputError where weights cannot be fetched, a file cannot be read,
    or a layer is missing, unknown or of the wrong shape.
    """
    if model in BLOCKS:
        return load_weights(weights, model)
    if weights == "imagenet-caffe" or weights.lower().endswith(KERAS):
        raise ConfigError(
            f"train.weights: {weights!r} is not allowed for train.model {model}, only for {', '.join(BLOCKS)}"
        )
    if weights == "auto":
        return imagenet_or_random(partial(load_network_weights, model))
    try:
        with connect_timeout():
            body = _body(model, weights == "imagenet")
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"train.weights: {weights} of {model} cannot be fetched: {one_line(error)}; choose random, or auto"
        ) from error
    if weights == "random":
        return replace(load_weights("random"), preprocessing=body.preprocessing)
    if weights == "imagenet":
        return LoadedWeights(f"{weights} of {model}", None, None, body.preprocessing, body=body.module.state_dict())
    return _from_file(weights, model, body)


def _from_file(name: str, model: str, body: Body) -> LoadedWeights:
    file = read_file(name, model)
    logit = kept_last_layer(file.state)
    prefix = "body." if logit else ""
    shapes = {f"{prefix}{key}": tuple(value.shape) for key, value in body.module.state_dict().items()}
    found = check_layers(name, file.state, shapes, model)
    # timm's files of these networks have them, too.
    dropped = (*body.last, *(layer for layers in _AUXILIARY.values() for layer in layers))
    others = ("logit.",) if logit else tuple(f"{layer}." for layer in dropped)
    more = next((key for key in file.state if key not in shapes and not key.startswith(others)), None)
    if more is not None:
        raise InputError(f"train.weights: {name}: layer {more} is none of {model}; see --train.model")
    state = {key.removeprefix(prefix): value for key, value in found.items()}
    preprocessing = file.preprocessing or body.preprocessing
    return LoadedWeights(name, None, None, preprocessing, logit=logit, target=file.target, body=state)


def build_network(
    model: str,
    configuration: Configuration,
    *,
    image_size: int,
    weights: LoadedWeights,
    seed: int,
    fresh_fc: bool = False,
    init: Scheme = "lsuv",
    target: Target = BINARY,
) -> Network:
    """The named network in `configuration`, on the CPU, float32; VGG-16 and its kin as `build_model` makes them.

    Of others the body is loaded, or starts as its library has it, by `seed`; the last layer is Glorot-uniform with zero
    bias, unless `weights` are a raypipe checkpoint's of the same target. Raises ConfigError on an image size that the
    network does not take.
    """
    if model in BLOCKS:
        return build_model(
            configuration,
            image_size=image_size,
            weights=weights,
            seed=seed,
            fresh_fc=fresh_fc,
            init=init,
            target=target,
            name=model,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = _body(model, pretrained=False)
    if weights.body is not None:
        body.module.load_state_dict(dict(weights.body))
    n_features = body.features(image_size, model)
    network = Classifier(body.module, n_features, configuration, target.n_outputs)
    last = weights.last_layer_for(target, network.logit)
    if last:
        network.load_state_dict(last, strict=False)
    else:
        start_last_layer(network.logit, target, torch.Generator().manual_seed(seed))
    return network


def restore_network(
    model: str, configuration: Configuration, *, image_size: int, state: Mapping[str, Tensor]
) -> Network:
    """The network whose `state_dict` was kept as `state`. Raises InputError where it is another one's."""
    if model in BLOCKS:
        return restore_model(configuration, image_size=image_size, state=state, name=model)
    if "logit.weight" not in state:
        raise InputError(f"checkpoint: is not one of {model}: it has no layer logit")
    n_outputs, n_features = state["logit.weight"].shape
    network = Classifier(_body(model, pretrained=False).module, n_features, configuration, n_outputs)
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        first = str(error).split("\n\t")[-1]
        raise InputError(f"checkpoint: is not one of {model}: {first}") from error
    return network


def _body(model: str, pretrained: bool) -> Body:
    """The named classifier without its last layer. Raises ConfigError where no library has it."""
    if model.startswith(_TIMM):
        return _from_timm(model.removeprefix(_TIMM), pretrained)
    return _from_torchvision(model, pretrained)


def _from_torchvision(name: str, pretrained: bool) -> Body:
    # Slow to import, and most processes of a training build no network.
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"train.model: {name!r} is no classifier of torchvision ({', '.join(known[:4])}, …), nor timm/NAME"
        )
    weights = models.get_model_weights(name).DEFAULT
    second = _AUXILIARY.get(name, ())
    # Where it fetches weights torchvision insists on its second outputs.
    more = {"transform_input": False, "init_weights": not pretrained, "aux_logits": pretrained} if second else {}
    body = models.get_model(name, weights=weights if pretrained else None, **more)
    if second:
        body.aux_logits = False
        for layer in second:
            setattr(body, layer, None)
    last = last_layer(body)
    parent, _, child = last.rpartition(".")
    setattr(body.get_submodule(parent), child, nn.Identity())
    if second:
        return Body(body, (last,), _MINUS_ONE_TO_ONE)
    wanted = weights.transforms()
    return Body(body, (last,), Preprocessing(tuple(wanted.mean), tuple(wanted.std), 1 / 255))


def last_layer(network: nn.Module) -> str:
    """Where the layer is that tells classes apart in a network of torchvision's."""
    # Convolutions do its work where there is no linear one, as in SqueezeNet.
    layers = [(path, part) for path, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    linear = [path for path, part in layers if isinstance(part, nn.Linear)]
    return str((linear or [layers[-1][0]])[-1])


def _from_timm(name: str, pretrained: bool) -> Body:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"train.model: timm/{name} needs the package timm: pip install 'raypipe[timm]'") from error
    if not timm.is_model(name):
        raise ConfigError(f"train.model: {name!r} is no classifier of timm")
    body: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    wanted = timm.data.resolve_model_data_config(body)
    last = body.pretrained_cfg.get("classifier", ())
    return Body(
        body,
        (last,) if isinstance(last, str) else tuple(last),
        Preprocessing(tuple(wanted["mean"]), tuple(wanted["std"]), 1 / 255),
    )
