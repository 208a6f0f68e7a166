"""Builds any classifier of torchvision or timm by name, with a new last layer. Also builds VGG-16.

Names are those of `torchvision.models` (``resnet50``, ``convnext_tiny``, ``vit_b_16``), and ``timm/NAME`` if timm is
installed. VGG-11, 13 and 19 follow the paper's configurations as VGG-16 does. For other networks, A trains only the
last layer on a frozen body. B, C and D train the whole network, D with dropout before the last layer. They have no FC
layers and no L2 as VGG has. Dropout inside a body stays as the library sets it.
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
from raypipe.train.networks.initial_weights import InitScheme
from raypipe.train.networks.keras_file import KERAS
from raypipe.train.networks.vgg import Network, build_vgg, init_last_layer, restore_vgg
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
# Layers for second outputs in training. Their papers add these to the loss; raypipe's loss has no term for them.
_AUXILIARY = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
# torchvision's weights of these two networks were trained on pixels from -1 to 1. A pretrained network converts
# torchvision's usual normalisation to that range (transform_input), but its state dict does not say so. Here the
# preprocessing has the range from -1 to 1. Each checkpoint keeps it, so prediction uses what training used.
_MINUS_ONE_TO_ONE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255)


class Classifier(Network):
    """A `body` and a last layer `logit`: images, float [n, 3, s, s], to outputs [n] of one unit, [n, k] of k units."""

    def __init__(self, body: nn.Module, n_features: int, configuration: Configuration, n_outputs: int) -> None:
        super().__init__()
        self.frozen, self.n_features = configuration.frozen, n_features
        self.body = body
        self.dropout = nn.Dropout(configuration.dropout) if configuration.dropout else nn.Identity()
        self.logit = nn.Linear(n_features, n_outputs)
        if self.frozen:
            self.body.requires_grad_(False)

    def extract(self, images: Tensor) -> Tensor:
        """The body's output, flattened: [n, n_features]."""
        return torch.flatten(self.body(images), 1)

    def hidden(self, features: Tensor) -> Tensor:
        """The features, with dropout in training if the configuration has it."""
        dropped: Tensor = self.dropout(features)
        return dropped

    @property
    def frozen_part(self) -> nn.Module:
        """All layers but the last."""
        return self.body


@dataclass(frozen=True)
class Backbone:
    """A library's classifier without its last layer. `last`: names of that layer. `preprocessing`: normalisation."""

    module: nn.Module
    last: tuple[str, ...]
    preprocessing: Preprocessing

    def features(self, image_size: int, model: str) -> int:
        """Number of features per picture. Raises ConfigError if the network cannot take `image_size` pixels."""
        was_training = self.module.training
        try:
            with torch.no_grad():
                found = self.module.eval()(torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(f"train.image_size: {image_size} does not fit {model}: {one_line(error)}") from error
        finally:
            self.module.train(was_training)
        return int(found.flatten(1).shape[1])


def load_network_weights(model: str, weights: str) -> LoadedWeights:
    """The weights from which training of `model` starts, and their normalisation.

    `weights` is ``imagenet`` (the library's own), ``random``, ``auto``, or a file: a state dict of the library, with
    or without its last layer, or a raypipe checkpoint. For VGG-11 to 19 this calls `load_weights`.
    Raises ConfigError on an unknown name. Raises InputError if weights cannot be fetched, a file cannot be read, or a
    layer is missing, unknown or of the wrong shape.
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
            f"train.weights: {weights} of {model} cannot be fetched: {one_line(error)}; set random or auto"
        ) from error
    if weights == "random":
        return replace(load_weights("random"), preprocessing=body.preprocessing)
    if weights == "imagenet":
        return LoadedWeights(f"{weights} of {model}", None, None, body.preprocessing, body=body.module.state_dict())
    return _from_file(weights, model, body)


def _from_file(name: str, model: str, body: Backbone) -> LoadedWeights:
    file = read_file(name, model)
    logit = kept_last_layer(file.state)
    prefix = "body." if logit else ""
    shapes = {f"{prefix}{key}": tuple(value.shape) for key, value in body.module.state_dict().items()}
    found = check_layers(name, file.state, shapes, model)
    # timm's files of these networks also have the auxiliary layers.
    dropped = (*body.last, *(layer for layers in _AUXILIARY.values() for layer in layers))
    others = ("logit.",) if logit else tuple(f"{layer}." for layer in dropped)
    more = next((key for key in file.state if key not in shapes and not key.startswith(others)), None)
    if more is not None:
        raise InputError(f"train.weights: {name}: layer {more} is not in {model}; see --train.model")
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
    init: InitScheme = "lsuv",
    target: Target = BINARY,
) -> Network:
    """The named network in `configuration`, on the CPU, float32. `build_vgg` builds VGG-11 to 19.

    For other networks, the body is loaded, or the library initialises it with `seed`. The last layer is Glorot-uniform
    with zero bias (zero for a score), unless `weights` are of a raypipe checkpoint of the same target. Raises
    ConfigError if the network cannot take the image size.
    """
    if model in BLOCKS:
        return build_vgg(
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
        init_last_layer(network.logit, target, torch.Generator().manual_seed(seed))
    return network


def restore_network(
    model: str, configuration: Configuration, *, image_size: int, state: Mapping[str, Tensor]
) -> Network:
    """The network with the state dict `state`. Raises InputError if `state` is of another network."""
    if model in BLOCKS:
        return restore_vgg(configuration, image_size=image_size, state=state, name=model)
    if "logit.weight" not in state:
        raise InputError(f"checkpoint: does not fit {model}: it has no layer logit")
    n_outputs, n_features = state["logit.weight"].shape
    network = Classifier(_body(model, pretrained=False).module, n_features, configuration, n_outputs)
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        first = str(error).split("\n\t")[-1]
        raise InputError(f"checkpoint: does not fit {model}: {first}") from error
    return network


def _body(model: str, pretrained: bool) -> Backbone:
    """The named classifier without its last layer. Raises ConfigError if no library has it."""
    if model.startswith(_TIMM):
        return _from_timm(model.removeprefix(_TIMM), pretrained)
    return _from_torchvision(model, pretrained)


def _from_torchvision(name: str, pretrained: bool) -> Backbone:
    # Imported here: it is slow, and most processes of a training build no network.
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"train.model: {name!r} is not a classifier of torchvision ({', '.join(known[:4])}, …) or timm/NAME"
        )
    weights = models.get_model_weights(name).DEFAULT
    second = _AUXILIARY.get(name, ())
    # With pretrained weights, torchvision requires the auxiliary outputs.
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
        return Backbone(body, (last,), _MINUS_ONE_TO_ONE)
    wanted = weights.transforms()
    return Backbone(body, (last,), Preprocessing(tuple(wanted.mean), tuple(wanted.std), 1 / 255))


def last_layer(network: nn.Module) -> str:
    """The path of the layer of a torchvision network that computes the classes."""
    # Without linear layers it is a convolution, for example in SqueezeNet.
    layers = [(path, part) for path, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    linear = [path for path, part in layers if isinstance(part, nn.Linear)]
    return str((linear or [layers[-1][0]])[-1])


def _from_timm(name: str, pretrained: bool) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"train.model: timm/{name} needs the package timm: pip install 'raypipe[timm]'") from error
    if not timm.is_model(name):
        raise ConfigError(f"train.model: {name!r} is not a classifier of timm")
    body: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    wanted = timm.data.resolve_model_data_config(body)
    last = body.pretrained_cfg.get("classifier", ())
    return Backbone(
        body,
        (last,) if isinstance(last, str) else tuple(last),
        Preprocessing(tuple(wanted["mean"]), tuple(wanted["std"]), 1 / 255),
    )
