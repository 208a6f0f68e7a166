"""VGG-16 (Simonyan & Zisserman, 2014, column D) and its kin with a last layer of their own: for two classes one
logistic unit, as the paper's section 4.1 has it; for other targets see `raypipe.train.networks.heads`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from raypipe.errors import ConfigError, InputError
from raypipe.train.data.target import BINARY, Target
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.init import Scheme, initialise
from raypipe.train.networks.keras_file import POOLED_FEATURES
from raypipe.train.networks.weights import FC_WIDTH, VGG16, LoadedWeights, title

_CHANNELS = 512
_STRIDE = 32
_HIDDEN = ("classifier.0", "classifier.3")


class Network(nn.Module, ABC):
    """Images, float [n, 3, s, s], to the outputs of a last layer `logit`: [n] of one unit, [n, k] of k.

    `frozen`: what comes before does not learn, so that its `n_features` can be computed once for each picture.
    """

    frozen: bool
    n_features: int
    logit: nn.Linear

    @property
    @abstractmethod
    def frozen_part(self) -> nn.Module:
        """What stays in evaluation mode where the network is frozen."""

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Features [n, n_features] of images."""

    def hidden(self, features: Tensor) -> Tensor:
        """What stands between the features and the last layer."""
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Outputs [n] or [n, k] of what `extract` gave; the last layer is always computed in float32."""
        hidden = self.hidden(features)
        with torch.autocast(hidden.device.type, enabled=False):
            # Of several units nothing is squeezed.
            logits: Tensor = self.logit(hidden.float()).squeeze(1)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Outputs [n] or [n, k]."""
        return self.classify(self.extract(images))

    def train(self, mode: bool = True) -> Self:
        """Training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.frozen_part.eval()
        return self


class VGG(Network):
    """The VGG of that `name`, by default VGG-16: images, float [n, 3, s, s], to the outputs of the last layer, [n] of
    one unit, [n, k] of `n_outputs` = k.

    Layers have torchvision's names (`features.*`, `classifier.0`, `classifier.3`); the last layer is `logit`.
    `full` adds the two hidden FC layers; `pooled` brings the last pooling layer to 7×7 by averaging, which FC layers
    trained at 224 pixels need and which changes nothing at 224.
    """

    def __init__(
        self, configuration: Configuration, *, image_size: int, pooled: bool, n_outputs: int = 1, name: str = VGG16
    ) -> None:
        # Slow to import, and most processes of a training build no network.
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
        """The hidden FC layers, where the configuration has them."""
        hidden: Tensor = self.classifier(features)
        return hidden

    @property
    def frozen_part(self) -> nn.Module:
        """The convolutions."""
        convolutions: nn.Module = self.features
        return convolutions


def _hidden_layers(n_features: int, dropout: float) -> nn.Sequential:
    # Places that hold no dropout are kept, so that names stay torchvision's.
    def drop() -> nn.Module:
        return nn.Dropout(dropout) if dropout else nn.Identity()

    first, second = nn.Linear(n_features, FC_WIDTH), nn.Linear(FC_WIDTH, FC_WIDTH)
    return nn.Sequential(first, nn.ReLU(inplace=True), drop(), second, nn.ReLU(inplace=True), drop())


def flat_features(image_size: int) -> int:
    """Features of the last pooling layer: 512·⌊s/32⌋², 25,088 at 224 pixels."""
    return _CHANNELS * (image_size // _STRIDE) ** 2


def build_model(
    configuration: Configuration,
    *,
    image_size: int,
    weights: LoadedWeights,
    seed: int,
    fresh_fc: bool = False,
    init: Scheme = "lsuv",
    target: Target = BINARY,
    name: str = VGG16,
) -> VGG:
    """VGG-16, or the VGG of another `name`, in `configuration` for square images of `image_size` pixels, on the CPU,
    float32; for `target`, by default two classes.

    Layers that `weights` has are loaded; convolutions it lacks start by `init` (`lsuv` needs `unit_variance_init`
    afterwards, which sees data), FC layers likewise, and the last layer is Glorot-uniform with zero bias (paper,
    section 4.1), for a score zero, unless `weights` are a raypipe checkpoint's of the same target whose last layer
    takes as many features: B may go on from A.
    With loaded convolutions, fresh FC layers are Glorot-uniform too. `seed` fixes all that is random.
    Raises ConfigError where the image is too small, or where the configuration has FC layers, `weights` has
    convolutions without them, and `fresh_fc` is false; InputError where loaded FC layers do not fit `image_size`.
    """
    if image_size < _STRIDE:
        raise ConfigError(
            f"train.image_size: {image_size} is not allowed: {title(name)} needs at least {_STRIDE} pixels"
        )
    loaded_fc = weights.fc if configuration.full else None
    if configuration.full and loaded_fc is None and weights.convolutions is not None and not fresh_fc:
        raise ConfigError(
            f"train.weights: {weights.name} has no FC layers, which configuration {configuration.name} needs; "
            "set --train.fresh_fc true to start them fresh, or choose weights that have them, such as imagenet"
        )
    pooled = loaded_fc is not None and _is_pooled(loaded_fc, image_size, weights.name)
    model = _empty(name, configuration, image_size, pooled, target.n_outputs)
    state = {**(weights.convolutions or {}), **(loaded_fc or {})}
    state.update(weights.last_layer_for(target, model.logit))
    model.load_state_dict(state, strict=False)
    scheme: Scheme = init if weights.convolutions is None else "glorot"
    generator = torch.Generator().manual_seed(seed)
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or f"{path}.weight" in state:
            continue
        if path == "logit":
            start_last_layer(layer, target, generator)
        else:
            initialise(layer, scheme, generator)
    return model


def start_last_layer(layer: nn.Conv2d | nn.Linear, target: Target, generator: torch.Generator) -> None:
    """A fresh last layer, in place: Glorot-uniform with zero bias (paper, section 4.1), for a score zero."""
    initialise(layer, "glorot", generator)
    if target.kind == "score":
        # It then says the mean of all scores; random outputs of so long a feature vector would have to be unlearned.
        nn.init.zeros_(layer.weight)


def restore_model(
    configuration: Configuration, *, image_size: int, state: Mapping[str, Tensor], name: str = VGG16
) -> VGG:
    """The model whose `state_dict` was kept as `state`. Raises InputError where it is another configuration's."""
    has_fc = "classifier.0.weight" in state
    if has_fc != configuration.full:
        found = "with" if has_fc else "without"
        raise InputError(f"checkpoint: a network {found} FC layers is not configuration {configuration.name}")
    n_outputs = len(state["logit.weight"]) if "logit.weight" in state else 1
    pooled = has_fc and _is_pooled(state, image_size, "checkpoint")
    model = _empty(name, configuration, image_size, pooled, n_outputs)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        first = str(error).split("\n\t")[-1]
        raise InputError(
            f"checkpoint: is not one of configuration {configuration.name} at {image_size} pixels: {first}"
        ) from error
    return model


def _empty(name: str, configuration: Configuration, image_size: int, pooled: bool, n_outputs: int) -> VGG:
    # On the meta device first: torch's own random initialisation of 134 million weights takes seconds.
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
        f"{name}: its first FC layer takes {n_inputs} features; images of {image_size} pixels give "
        f"{flat_features(image_size)}, or {POOLED_FEATURES} averaged: use the image size it was trained at"
    )


def parameter_groups(model: nn.Module, configuration: Configuration, lr: float) -> list[dict[str, Any]]:
    """Groups for torch's SGD: the configuration's weight decay on the weights of the first two FC layers alone."""
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
