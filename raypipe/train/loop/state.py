"""What a training is asked for, what an epoch came to, and all that resuming needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raypipe.train.loop.choices import Compile
from raypipe.train.loop.features import DType
from raypipe.train.loop.recipe import PAPER, Recipe
from raypipe.train.networks.heads import Predictions


@dataclass(frozen=True)
class LoopOptions:
    """How long and on what to train; `batch_size` counts over all workers.

    The last epoch is that of number `epochs`, or earlier the first that is `patience` epochs after the best one, or
    whose training accuracy is `saturation` or more.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = PAPER.learning_rate
    flips: bool = True
    seed: int = 0
    dtype: DType = "float32"
    patience: int | None = None
    saturation: float | None = None
    recipe: Recipe = PAPER
    device: str = "cpu"
    cache_features: bool = True
    micro_batch: int | None = None
    """Pictures of a batch that go through the network at a time on one worker; all of them where absent. Halved where
    the device's memory does not suffice."""
    compile: Compile = "none"
    """torch.compile's mode; not for frozen networks."""


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Training loss and accuracy are means over the epoch's batches while the weights move, as in Keras.

    Accuracies are None, and `metrics` more of the validation set, as the head has it (`raypipe.train.networks.heads`).
    `images_per_s`: training pictures by seconds of training, validation not counted; the first epoch on cached
    features includes computing them. `data_wait`: share of that time in which no picture was ready. `mfu`: share of
    the device's peak arithmetic, None where no peak is known. `val_probabilities`: the head's predictions, float32 [n]
    or [n, k], in the set's order.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float | None
    images_per_s: float
    data_wait: float
    mfu: float | None
    val_probabilities: Predictions
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class LoopState:
    """All that resuming needs after `epoch` epochs. Its tensors are the live ones: save or copy them."""

    configuration: str
    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    best_epoch: int
    best_merit: float
    """See `raypipe.train.metrics.figure_of_merit`."""
    ended: bool = False
    """Whether training went no further, though epochs were left."""
    average: dict[str, Any] | None = None
    """The moving average of the weights, where the recipe keeps one."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model to use: with averaged weights, where there are such."""
        return {**self.model, **(self.average["weights"] if self.average else {})}

    @property
    def is_best(self) -> bool:
        """Whether no earlier epoch was as good on the validation set."""
        return self.epoch == self.best_epoch

    def save(self, path: str | Path) -> None:
        """Writes one file."""
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: str | Path) -> LoopState:
        """What `save` wrote, on the CPU; executes no code from the file."""
        return cls(**torch.load(path, map_location="cpu", weights_only=True))
