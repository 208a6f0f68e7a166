"""The last layer: what its outputs mean, the loss they learn by, and how good they are. A head a kind of target.

Outputs have the shape [n] where the last layer has one unit, [n, k] where it has k.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from raypipe.errors import InputError
from raypipe.statistics.ranks import roc_auc
from raypipe.train import metrics
from raypipe.train.data.target import Target

Predictions = NDArray[np.float32]


class Head(ABC):
    """How a `target` is learned. Labels are those of `Target.encode`, as tensors."""

    dtype: ClassVar[torch.dtype] = torch.float32
    has_accuracy: ClassVar[bool] = True
    nothing_to_learn: ClassVar[str] = "are of one class"
    max_gradient: ClassVar[float | None] = None
    """A step's gradient is shortened to this norm where it is longer; None: never."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as `losses` and `hits` take them."""
        return labels

    def smoothed(self, targets: Tensor, share: float) -> Tensor:
        """Targets of which a `share` is spread over both answers or all classes (Szegedy et al. 2016, equation 10)."""
        return targets * (1 - share) + share / 2 if share else targets

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each picture, [n], in the outputs' type."""

    @abstractmethod
    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether, or to what share, each picture is right, [n]; zeros where no accuracy is defined."""

    @abstractmethod
    def activations(self, outputs: Tensor) -> Tensor:
        """Probabilities, [n] for two classes, else [n, k]; for a score the score itself, [n], in the label's unit.

        In the outputs' type, on their device.
        """

    def predictions(self, outputs: Tensor) -> Predictions:
        """The `activations`, computed in float64 and kept as float32."""
        found: Predictions = self.activations(outputs.cpu().double()).float().numpy()
        return found

    def accuracy(self, predictions: Predictions, labels: NDArray[Any]) -> float | None:
        """Share of right answers; for tags of all pictures and tags; None for a score."""
        return metrics.binary_accuracy(predictions, labels)

    def metrics(self, predictions: Predictions, labels: NDArray[Any]) -> dict[str, Any]:  # noqa: ARG002
        """Further measures by name; a value is None where it is not defined."""
        return {}

    def check(self, train: Tensor, val: Tensor) -> None:
        """Raises InputError where labels are not this head's, or all training labels are alike."""
        shape = (len(self.target.names),) if self.target.kind == "tags" else ()
        for labels in (train, val):
            if labels.dtype != self.dtype or tuple(labels.shape[1:]) != shape:
                found = f"{labels.dtype} {['n', *labels.shape[1:]]}".replace("'", "")
                raise InputError(f"training: labels of {found} are not those of a head of {self.target}")
        if bool((train == train[0]).all()):
            raise InputError(
                f"training: all {len(train)} training images {self.nothing_to_learn}: there is nothing to learn"
            )

    def as_metadata(self) -> dict[str, str]:
        """For a checkpoint, whose metadata are strings."""
        return self.target.as_metadata()


class TwoClasses(Head):
    """One logistic unit, binary cross-entropy; the paper's (section 4.1)."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs > 0) == (targets > 0.5)

    def activations(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class Classes(Head):
    """k softmax units, cross-entropy. Accuracy: the share of pictures whose likeliest class is theirs."""

    dtype = torch.int64

    def smoothed(self, targets: Tensor, share: float) -> Tensor:
        if not share:
            return targets
        k = len(self.target.names)
        return F.one_hot(targets, k) * (1 - share) + share / k

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets

    def activations(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def accuracy(self, predictions: Predictions, labels: NDArray[Any]) -> float | None:
        return float(np.mean(predictions.argmax(axis=1) == labels))

    def check(self, train: Tensor, val: Tensor) -> None:
        super().check(train, val)
        highest = int(torch.cat([train, val]).max())
        if highest >= len(self.target.names):
            raise InputError(f"training: class number {highest} of {len(self.target.names)} ({self.target})")


class Tags(Head):
    """A sigmoid unit a tag, binary cross-entropy averaged over tags. Accuracy is Keras' `binary_accuracy`, likewise.

    Metrics: means over tags of the area under the ROC curve and of average precision, and both for each tag beside
    its prevalence, the share of pictures that carry it, and its accuracy.
    """

    nothing_to_learn = "carry the same hashtags"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = self._by_tag(outputs)
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none").mean(1)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((self._by_tag(outputs) > 0) == (targets > 0.5)).float().mean(1)

    def activations(self, outputs: Tensor) -> Tensor:
        return self._by_tag(outputs).sigmoid()

    def metrics(self, predictions: Predictions, labels: NDArray[Any]) -> dict[str, Any]:
        tags = {
            tag: {
                "prevalence": float(labels[:, i].mean()),
                "accuracy": metrics.binary_accuracy(predictions[:, i], labels[:, i]),
                "roc_auc": roc_auc(predictions[:, i], labels[:, i]),
                "average_precision": metrics.average_precision(predictions[:, i], labels[:, i]),
            }
            for i, tag in enumerate(self.target.names)
        }

        def mean(name: str) -> float | None:
            known = [value for values in tags.values() if (value := values[name]) is not None]
            return float(np.mean(known)) if known else None

        return {"roc_auc": mean("roc_auc"), "average_precision": mean("average_precision"), "tags": tags}

    def _by_tag(self, outputs: Tensor) -> Tensor:
        # The model gives [n] where there is one tag.
        return outputs.reshape(-1, len(self.target.names))


class Score(Head):
    """One linear unit, squared error of the score standardised by the training split's `mean` and `sd`.

    The loss is therefore 1 where a model says nothing but the mean. Metrics: R², root mean squared error in the
    score's unit, and Spearman's rank correlation.
    Its gradient grows with the error, unlike that of a cross-entropy: on VGG-16's long feature vectors plain SGD at the
    paper's learning rate would overshoot ever further. It is therefore clipped: Pascanu et al. (2013), algorithm 1.
    """

    dtype = torch.float64
    has_accuracy = False
    nothing_to_learn = "have the same score"
    max_gradient = 1.0

    def __init__(self, target: Target, mean: float, sd: float) -> None:
        super().__init__(target)
        self.mean, self.sd = mean, sd

    def targets(self, labels: Tensor) -> Tensor:
        return ((labels - self.mean) / self.sd).float()

    def smoothed(self, targets: Tensor, share: float) -> Tensor:  # noqa: ARG002
        return targets

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets.to(outputs.dtype), reduction="none")

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(outputs)

    def activations(self, outputs: Tensor) -> Tensor:
        return outputs * self.sd + self.mean

    def accuracy(self, predictions: Predictions, labels: NDArray[Any]) -> float | None:  # noqa: ARG002
        return None

    def metrics(self, predictions: Predictions, labels: NDArray[Any]) -> dict[str, Any]:
        return {
            "r2": metrics.r_squared(predictions, labels),
            "rmse": metrics.rmse(predictions, labels),
            "spearman": metrics.spearman(predictions, labels),
        }

    def as_metadata(self) -> dict[str, str]:
        return {**super().as_metadata(), "scale": json.dumps([self.mean, self.sd])}


_HEADS: dict[str, type[Head]] = {"binary": TwoClasses, "classes": Classes, "tags": Tags}


def head_of(target: Target, train_labels: Tensor) -> Head:
    """The head of a target; a score is standardised by the labels of the training split."""
    if target.kind != "score":
        return _HEADS[target.kind](target)
    scores = train_labels.double()
    # Scores that are all alike have no deviation; `check` says so.
    return Score(target, float(scores.mean()), float(scores.std(correction=0)) or 1.0)


def head_from_metadata(kept: Mapping[str, str]) -> Head:
    """The head that a checkpoint's metadata tell of. Raises KeyError or ValueError where they tell of none."""
    target = Target.from_metadata(kept)
    if target is None:
        raise KeyError("classes")
    if target.kind != "score":
        return _HEADS[target.kind](target)
    mean, sd = json.loads(kept["scale"])
    return Score(target, float(mean), float(sd))
