"""Options of a training, results of an epoch, and the state that resuming needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raypipe.train.loop.choices import Compile
from raypipe.train.loop.inputs import DType
from raypipe.train.loop.recipe import PAPER, Recipe
from raypipe.train.networks.heads import Predictions


@dataclass(frozen=True)
class LoopOptions:
    """How long and how to train. `batch_size` is the sum over all workers.

    Training ends after `epochs` epochs. It ends earlier at the first epoch that is `patience` epochs after the best
    one, or whose training accuracy is `saturation` or more.
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
    """Pictures of a batch that go through the network at a time on one worker; None: all. Halved if memory is short."""
    compile: Compile = "none"
    """torch.compile's mode. Has no effect on frozen networks."""


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Training loss and accuracy are means over the epoch's batches while the weights change, as in Keras.

    Accuracies are None if the head has none. `metrics` are the head's other measures of the validation set
    (`raypipe.train.networks.heads`). `images_per_s`: training pictures per second of training, without validation; the
    first epoch on cached features includes computing them. `data_wait`: share of that time in which no picture was
    ready. `mfu`: share of the device's peak FLOP/s, None if the peak is not known. `val_probabilities`: the head's
    predictions, float32 [n] or [n, k], in the set's order.
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
    """All that resuming needs after `epoch` epochs. Training goes on changing its tensors: save or copy them."""

    configuration: str
    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    best_epoch: int
    best_merit: float
    """See `raypipe.train.metrics.figure_of_merit`."""
    ended: bool = False
    """Whether training has ended, even if epochs are left."""
    average: dict[str, Any] | None = None
    """The moving average of the weights, if the recipe keeps one."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's state dict, with averaged weights if there are any."""
        return {**self.model, **(self.average["weights"] if self.average else {})}

    @property
    def is_best(self) -> bool:
        """Whether this epoch is better on the validation set than all before it."""
        return self.epoch == self.best_epoch

    def save(self, path: str | Path) -> None:
        """Writes one file."""
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: str | Path) -> LoopState:
        """Loads what `save` wrote, on the CPU. Executes no code from the file."""
        return cls(**torch.load(path, map_location="cpu", weights_only=True))
