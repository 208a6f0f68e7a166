"""Any classifier of torchvision or timm by its name, with a last layer of its own, through the same door as VGG-16.

Names: those of `torchvision.models` (``resnet50``, ``convnext_tiny``, ``vit_b_16``), and ``timm/NAME`` where timm is
installed. The paper's configurations then mean: A, a frozen body and a last layer; B to D, all of it, D with dropout
before the last layer. What is VGG-16's own (its FC layers, L2 on them) has no counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from raypipe.errors import ConfigError, InputError, one_line
from raypipe.train.configurations import Configuration
from raypipe.train.init import Scheme
from raypipe.train.model import Network, build_model, restore_model, start_last_layer
from raypipe.train.target import BINARY, Target
from raypipe.train.weights import TORCHVISION, LoadedWeights, Preprocessing, imagenet_or_random, load_weights

VGG = "vgg16"
_TIMM = "timm/"


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


def load_network_weights(model: str, weights: str) -> LoadedWeights:
    """The weights that training `model` starts from, and how it wants pictures normalised.

    For VGG-16 see `load_weights`; for others `weights` is ``imagenet`` (the library's own), ``random`` or ``auto``.
    Raises ConfigError on a name that is not known, InputError where weights cannot be fetched.
    """
    if model == VGG:
        return load_weights(weights)
    if weights not in ("imagenet", "random", "auto"):
        raise ConfigError(
            f"train.weights: {weights!r} is not allowed for train.model {model}: imagenet, random or auto "
            f"(files of weights are read for {VGG})"
        )
    if weights == "auto":
        return imagenet_or_random(partial(load_network_weights, model))
    try:
        body, _, preprocessing = _body(model, weights == "imagenet")
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"train.weights: {weights} of {model} cannot be fetched: {one_line(error)}; choose random, or auto"
        ) from error
    if weights == "random":
        return replace(load_weights("random"), preprocessing=preprocessing)
    return LoadedWeights(f"{weights} of {model}", None, None, preprocessing, body=body.state_dict())


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
    """The named network in `configuration`, on the CPU, float32; VGG-16 as `build_model` makes it.

    Of others the body is loaded, or starts as its library has it, by `seed`; the last layer is Glorot-uniform with zero
    bias.
    """
    if model == VGG:
        return build_model(
            configuration,
            image_size=image_size,
            weights=weights,
            seed=seed,
            fresh_fc=fresh_fc,
            init=init,
            target=target,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, n_features, _ = _body(model, pretrained=False)
    if weights.body is not None:
        body.load_state_dict(dict(weights.body))
    network = Classifier(body, n_features, configuration, target.n_outputs)
    start_last_layer(network.logit, target, torch.Generator().manual_seed(seed))
    return network


def restore_network(
    model: str, configuration: Configuration, *, image_size: int, state: Mapping[str, Tensor]
) -> Network:
    """The network whose `state_dict` was kept as `state`. Raises InputError where it is another one's."""
    if model == VGG:
        return restore_model(configuration, image_size=image_size, state=state)
    body, n_features, _ = _body(model, pretrained=False)
    network = Classifier(body, n_features, configuration, len(state["logit.weight"]))
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise InputError(f"checkpoint: is not one of {model}: {one_line(error)}") from error
    return network


def _body(model: str, pretrained: bool) -> tuple[nn.Module, int, Preprocessing]:
    """The named classifier without its last layer, its number of features, and how it wants pictures."""
    if model.startswith(_TIMM):
        return _from_timm(model.removeprefix(_TIMM), pretrained)
    return _from_torchvision(model, pretrained)


def _from_torchvision(name: str, pretrained: bool) -> tuple[nn.Module, int, Preprocessing]:
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"train.model: {name!r} is no classifier of torchvision ({', '.join(known[:4])}, …), nor timm/NAME"
        )
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    body = models.get_model(name, weights=weights)
    last, layer = last_linear(body)
    parent, _, child = last.rpartition(".")
    setattr(body.get_submodule(parent), child, nn.Identity())
    if weights is None:
        return body, layer.in_features, TORCHVISION
    wanted = weights.transforms()
    return body, layer.in_features, Preprocessing(tuple(wanted.mean), tuple(wanted.std), 1 / 255)


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and layer of the last linear layer, which tells classes apart in a network of torchvision's."""
    return [(path, part) for path, part in network.named_modules() if isinstance(part, nn.Linear)][-1]


def _from_timm(name: str, pretrained: bool) -> tuple[nn.Module, int, Preprocessing]:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"train.model: timm/{name} needs the package timm: pip install timm") from error
    if not timm.is_model(name):
        raise ConfigError(f"train.model: {name!r} is no classifier of timm")
    body: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    wanted = timm.data.resolve_model_data_config(body)
    return body, int(body.num_features), Preprocessing(tuple(wanted["mean"]), tuple(wanted["std"]), 1 / 255)
