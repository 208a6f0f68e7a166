"""How weights are updated: the paper's plain SGD, or a recipe that is usual today.

`modern` is AdamW (Loshchilov, Hutter 2019). Its rate follows a short linear warm-up and then a cosine down to 0
(Loshchilov, Hutter 2017; Goyal et al. 2017). Labels are smoothed (Szegedy et al. 2016, section 7). Pictures are cropped
at random (Szegedy et al. 2015). Validation uses a moving average of the weights (Polyak, Juditsky 1992).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raypipe.config.learning_options import Form
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.vgg import parameter_groups


@dataclass(frozen=True)
class Recipe:
    """One way to train any configuration.

    `adamw`: AdamW instead of SGD. The configuration's momentum and L2 are then not used; `weight_decay` applies to all
    parameters of two or more dimensions. `warmup`: share of all steps in which the rate grows from 0; None: the rate
    is constant. `smoothing`: share of a label that is spread over all classes. `average`: decay per step of the moving
    average of the weights (smaller at the start); None: no average. `crop`: smallest share of a picture's area that is
    cut out and enlarged; None: the whole picture. `crop` has no effect on cached features.
    """

    form: Form
    learning_rate: float
    adamw: bool = False
    weight_decay: float = 0.0
    warmup: float | None = None
    smoothing: float = 0.0
    average: float | None = None
    crop: float | None = None

    def optimizer(
        self, model: nn.Module, configuration: Configuration, lr: float, fused: bool
    ) -> torch.optim.Optimizer:
        """The optimizer of the trained parameters of `model`; `lr` is the highest rate."""
        if not self.adamw:
            return torch.optim.SGD(parameter_groups(model, configuration, lr), fused=fused)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, fused=fused)

    def rate(self, step: int, steps: int) -> float:
        """Factor of the learning rate in a step from 0 to `steps` − 1."""
        if self.warmup is None:
            return 1.0
        first = max(1, round(self.warmup * steps))
        if step < first:
            return (step + 1) / first
        return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


PAPER = Recipe("paper", learning_rate=0.001)
"""Sections 4.1 and 5.1: SGD at a constant rate of 0.001, whole pictures, hard labels."""

MODERN = Recipe(
    "modern",
    learning_rate=0.0001,
    adamw=True,
    weight_decay=0.05,
    warmup=0.05,
    smoothing=0.1,
    average=0.998,
    crop=0.5,
)

RECIPES: dict[str, Recipe] = {recipe.form: recipe for recipe in (PAPER, MODERN)}


class WeightAverage:
    """The moving average of a model's trained weights: a ← d·a + (1 − d)·w after each step, d at most `decay`."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._steps = decay, 0
        self._live = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._kept = {name: value.detach().clone() for name, value in self._live.items()}

    @property
    def tensors(self) -> list[Tensor]:
        """The averages themselves, no copies."""
        return list(self._kept.values())

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self.tensors, list(self._live.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and their average. A second call exchanges them back."""
        for name, parameter in self._live.items():
            parameter.data, self._kept[name] = self._kept[name], parameter.data

    def state(self) -> dict[str, Any]:
        """State for a checkpoint. Its tensors are the averages themselves, no copies."""
        return {"steps": self._steps, "weights": dict(self._kept)}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._steps = int(state["steps"])
        for name, value in state["weights"].items():
            self._kept[name].copy_(value)
