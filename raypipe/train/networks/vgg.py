"""VGG-16 (Simonyan & Zisserman, 2014, column D) and VGG-11, 13, 19, with a new last layer. For two classes it is one
logistic unit (paper, section 4.1). For other targets see `raypipe.train.networks.heads`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from raypipe.errors import ConfigError, InputError
from raypipe.train.data.target import BINARY, Target
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.initial_weights import InitScheme, initialise
from raypipe.train.networks.keras_file import POOLED_FEATURES
from raypipe.train.networks.weights import FC_WIDTH, VGG16, LoadedWeights, title

_CHANNELS = 512
_STRIDE = 32
_HIDDEN = ("classifier.0", "classifier.3")


class Network(nn.Module, ABC):
    """Images, float [n, 3, s, s], to the outputs of a last layer `logit`: [n] of one unit, [n, k] of k units.

    `frozen`: the part that computes the `n_features` does not learn, so they can be computed once per picture.
    """

    frozen: bool
    n_features: int
    logit: nn.Linear

    @property
    @abstractmethod
    def frozen_part(self) -> nn.Module:
        """The part that stays in evaluation mode if the network is frozen."""

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Features [n, n_features] of images."""

    def hidden(self, features: Tensor) -> Tensor:
        """Output of the layers between the features and the last layer."""
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Outputs [n] or [n, k] for the output of `extract`. The last layer is always computed in float32."""
        hidden = self.hidden(features)
        with torch.autocast(hidden.device.type, enabled=False):
            # With several units, squeeze changes nothing.
            logits: Tensor = self.logit(hidden.float()).squeeze(1)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Outputs [n] or [n, k]."""
        return self.classify(self.extract(images))

    def train(self, mode: bool = True) -> Self:
        """Sets training mode. If the network is frozen, its frozen part stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.frozen_part.eval()
        return self


class VGG(Network):
    """The named VGG: images, float [n, 3, s, s], to outputs, [n] of one unit, [n, k] of `n_outputs` = k units.

    Layers have torchvision's names (`features.*`, `classifier.0`, `classifier.3`). The last layer is `logit`. A `full`
    configuration adds the two hidden FC layers. `pooled` averages the last pooling layer to 7×7. FC layers trained at
    224 pixels need that at other sizes. It changes nothing at 224 pixels.
    """

    def __init__(
        self, configuration: Configuration, *, image_size: int, pooled: bool, n_outputs: int = 1, name: str = VGG16
    ) -> None:
        # Imported here: it is slow, and most processes of a training build no network.
        from torchvision.models import get_model

        super().__init__()
        n_features = POOLED_FEATURES if pooled else flat_features(image_size)
        self.frozen, self.n_features = configuration.frozen, n_features
        self.features = get_model(name, weights=None, init_weights=False).features
        self.pool = nn.AdaptiveAvgPool2d(7) if pooled else nn.Identity()
        self.classifier = _hidden_layers(n_features, configuration.dropout) if configuration.full else nn.Sequential()
        self.logit = nn.Linear(FC_WIDTH if configuration.full else n_features, n_outputs)
        if self.frozen:
            self.features.requires_grad_(False)

    def extract(self, images: Tensor) -> Tensor:
        """The flattened last pooling layer, [n, 512·(s/32)²], in channel, height, width order."""
        return torch.flatten(self.pool(self.features(images)), 1)

    def hidden(self, features: Tensor) -> Tensor:
        """Output of the hidden FC layers, if the configuration has them; else the features."""
        hidden: Tensor = self.classifier(features)
        return hidden

    @property
    def frozen_part(self) -> nn.Module:
        """The convolutions."""
        convolutions: nn.Module = self.features
        return convolutions


def _hidden_layers(n_features: int, dropout: float) -> nn.Sequential:
    # Without dropout, an identity takes its place, so that the layers keep torchvision's names.
    def drop() -> nn.Module:
        return nn.Dropout(dropout) if dropout else nn.Identity()

    first, second = nn.Linear(n_features, FC_WIDTH), nn.Linear(FC_WIDTH, FC_WIDTH)
    return nn.Sequential(first, nn.ReLU(inplace=True), drop(), second, nn.ReLU(inplace=True), drop())


def flat_features(image_size: int) -> int:
    """Number of features of the last pooling layer: 512·⌊s/32⌋², 25,088 at 224 pixels."""
    return _CHANNELS * (image_size // _STRIDE) ** 2


def build_vgg(
    configuration: Configuration,
    *,
    image_size: int,
    weights: LoadedWeights,
    seed: int,
    fresh_fc: bool = False,
    init: InitScheme = "lsuv",
    target: Target = BINARY,
    name: str = VGG16,
) -> VGG:
    """The named VGG in `configuration` for square images of `image_size` pixels and for `target`, on the CPU, float32.

    Layers that `weights` has are loaded. If it has no convolutions, convolutions and missing FC layers start by `init`
    (for `lsuv`, call `unit_variance_init` on data afterwards). If it has convolutions, fresh FC layers are
    Glorot-uniform. The last layer is Glorot-uniform with zero bias (paper, section 4.1), or zero for a score. It is
    loaded instead if `weights` are of a raypipe checkpoint of the same target with as many features, so B can start
    from A. `seed` fixes all random weights. Raises ConfigError if the images are too small. Raises ConfigError if the
    configuration has FC layers, `weights` has convolutions but no FC layers, and `fresh_fc` is false. Raises
    InputError if loaded FC layers do not fit `image_size`.
    """
    if image_size < _STRIDE:
        raise ConfigError(
            f"train.image_size: {image_size} is not allowed: {title(name)} needs at least {_STRIDE} pixels"
        )
    loaded_fc = weights.fc if configuration.full else None
    if configuration.full and loaded_fc is None and weights.convolutions is not None and not fresh_fc:
        raise ConfigError(
            f"train.weights: {weights.name} has no FC layers, which configuration {configuration.name} needs; "
            "set --train.fresh_fc true for new ones, or choose weights with FC layers, for example imagenet"
        )
    pooled = loaded_fc is not None and _is_pooled(loaded_fc, image_size, weights.name)
    model = _empty(name, configuration, image_size, pooled, target.n_outputs)
    state = {**(weights.convolutions or {}), **(loaded_fc or {})}
    state.update(weights.last_layer_for(target, model.logit))
    model.load_state_dict(state, strict=False)
    scheme: InitScheme = init if weights.convolutions is None else "glorot"
    generator = torch.Generator().manual_seed(seed)
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or f"{path}.weight" in state:
            continue
        if path == "logit":
            init_last_layer(layer, target, generator)
        else:
            initialise(layer, scheme, generator)
    return model


def init_last_layer(layer: nn.Conv2d | nn.Linear, target: Target, generator: torch.Generator) -> None:
    """Initialises the last layer in place: Glorot-uniform with zero bias (paper, section 4.1); zero for a score."""
    initialise(layer, "glorot", generator)
    if target.kind == "score":
        # A zero layer predicts the mean score. Random weights on so many features give errors to unlearn first.
        nn.init.zeros_(layer.weight)


def restore_vgg(
    configuration: Configuration, *, image_size: int, state: Mapping[str, Tensor], name: str = VGG16
) -> VGG:
    """The model with the state dict `state`. Raises InputError if `state` is of another configuration."""
    has_fc = "classifier.0.weight" in state
    if has_fc != configuration.full:
        found = "with" if has_fc else "without"
        raise InputError(f"checkpoint: a network {found} FC layers does not fit configuration {configuration.name}")
    n_outputs = len(state["logit.weight"]) if "logit.weight" in state else 1
    pooled = has_fc and _is_pooled(state, image_size, "checkpoint")
    model = _empty(name, configuration, image_size, pooled, n_outputs)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        first = str(error).split("\n\t")[-1]
        raise InputError(
            f"checkpoint: does not fit configuration {configuration.name} at {image_size} pixels: {first}"
        ) from error
    return model


def _empty(name: str, configuration: Configuration, image_size: int, pooled: bool, n_outputs: int) -> VGG:
    # Created on the meta device, because torch's own initialisation of 134 million weights takes seconds.
    with torch.device("meta"):
        model = VGG(configuration, image_size=image_size, pooled=pooled, n_outputs=n_outputs, name=name)
    return model.to_empty(device="cpu")


def _is_pooled(fc: Mapping[str, Tensor], image_size: int, name: str) -> bool:
    n_inputs = fc["classifier.0.weight"].shape[1]
    if n_inputs == flat_features(image_size):
        return False
    if n_inputs == POOLED_FEATURES:
        return True
    raise InputError(
        f"{name}: its first FC layer takes {n_inputs} features, but images of {image_size} pixels give "
        f"{flat_features(image_size)}, or {POOLED_FEATURES} averaged; use the image size of its training"
    )


def parameter_groups(model: nn.Module, configuration: Configuration, lr: float) -> list[dict[str, Any]]:
    """Groups for torch's SGD. Only the weights of the first two FC layers get the configuration's weight decay."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_fc = name.removesuffix(".weight") in _HIDDEN and name.endswith(".weight")
            (decayed if configuration.weight_decay and is_fc else rest).append(parameter)
    shared = {"lr": lr, "momentum": configuration.momentum}
    groups = [{"params": rest, "weight_decay": 0.0, **shared}]
    if decayed:
        groups.append({"params": decayed, "weight_decay": configuration.weight_decay, **shared})
    return groups
