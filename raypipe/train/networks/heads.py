"""Heads: the meaning, loss and measures of the last layer's outputs. One head per kind of target.

Outputs have the shape [n] if the last layer has one unit, [n, k] if it has k units.
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
    """How a `target` is learned. Labels are the result of `Target.encode`, as tensors."""

    dtype: ClassVar[torch.dtype] = torch.float32
    has_accuracy: ClassVar[bool] = True
    nothing_to_learn: ClassVar[str] = "have the same class"
    max_gradient: ClassVar[float | None] = None
    """Largest norm of a step's gradient: a longer one is scaled down to it. None: no limit."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def targets(self, labels: Tensor) -> Tensor:
        """Labels in the form that `losses` and `correct` take."""
        return labels

    def smooth_targets(self, targets: Tensor, share: float) -> Tensor:
        """Targets with a `share` spread evenly over both answers or all classes (Szegedy et al. 2016, equation 10)."""
        return targets * (1 - share) + share / 2 if share else targets

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each picture, [n], in the outputs' type."""

    @abstractmethod
    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each picture is right, or its share of right tags, [n]. Zeros if no accuracy is defined."""

    @abstractmethod
    def activations(self, outputs: Tensor) -> Tensor:
        """Probabilities, [n] for two classes, [n, k] for classes and tags. For a score: scores [n] in the label's unit.

        The result has the outputs' type and device.
        """

    def predictions(self, outputs: Tensor) -> Predictions:
        """The `activations`, computed in float64 and returned as float32."""
        found: Predictions = self.activations(outputs.cpu().double()).float().numpy()
        return found

    def accuracy(self, predictions: Predictions, labels: NDArray[Any]) -> float | None:
        """Share of right answers, for tags over all pictures and tags. None for a score."""
        return metrics.binary_accuracy(predictions, labels)

    def metrics(self, predictions: Predictions, labels: NDArray[Any]) -> dict[str, Any]:  # noqa: ARG002
        """Further measures by name. A value is None if it is not defined."""
        return {}

    def check(self, train: Tensor, val: Tensor) -> None:
        """Raises InputError if labels are of another kind, or if all training labels are equal."""
        shape = (len(self.target.names),) if self.target.kind == "tags" else ()
        for labels in (train, val):
            if labels.dtype != self.dtype or tuple(labels.shape[1:]) != shape:
                found = f"{labels.dtype} {['n', *labels.shape[1:]]}".replace("'", "")
                raise InputError(f"training: labels of {found} do not fit the target {self.target}")
        if bool((train == train[0]).all()):
            raise InputError(
                f"training: all {len(train)} training images {self.nothing_to_learn}: there is nothing to learn"
            )

    def as_metadata(self) -> dict[str, str]:
        """This head as metadata of a checkpoint, which are strings."""
        return self.target.as_metadata()


class BinaryHead(Head):
    """The paper's head (section 4.1): one logistic unit, binary cross-entropy."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs > 0) == (targets > 0.5)

    def activations(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class ClassesHead(Head):
    """k softmax units, cross-entropy. Accuracy: share of pictures whose most probable class is right."""

    dtype = torch.int64

    def smooth_targets(self, targets: Tensor, share: float) -> Tensor:
        if not share:
            return targets
        k = len(self.target.names)
        return F.one_hot(targets, k) * (1 - share) + share / k

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets

    def activations(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def accuracy(self, predictions: Predictions, labels: NDArray[Any]) -> float | None:
        return float(np.mean(predictions.argmax(axis=1) == labels))

    def check(self, train: Tensor, val: Tensor) -> None:
        super().check(train, val)
        highest = int(torch.cat([train, val]).max())
        if highest >= len(self.target.names):
            raise InputError(f"training: class number {highest} for {len(self.target.names)} classes ({self.target})")


class TagsHead(Head):
    """One sigmoid unit per tag. Binary cross-entropy and accuracy (Keras' `binary_accuracy`) are means over tags.

    Metrics: means over tags of the area under the ROC curve and of average precision. Also per tag: both measures,
    accuracy, and prevalence (the share of pictures that carry the tag).
    """

    nothing_to_learn = "have the same hashtags"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = self._by_tag(outputs)
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none").mean(1)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
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
        # With one tag, the model's outputs have the shape [n].
        return outputs.reshape(-1, len(self.target.names))


class ScoreHead(Head):
    """One linear unit. Loss: squared error of the score, standardised by the training split's `mean` and `sd`.

    Predicting the mean therefore gives a loss of 1. Metrics: R², root mean squared error in the score's unit, and
    Spearman's rank correlation. The gradient of this loss grows with the error, unlike that of a cross-entropy. With
    VGG-16's long feature vectors, plain SGD at the paper's learning rate would diverge. The gradient is therefore
    clipped: Pascanu et al. (2013), algorithm 1.
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

    def smooth_targets(self, targets: Tensor, share: float) -> Tensor:  # noqa: ARG002
        return targets

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets.to(outputs.dtype), reduction="none")

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
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


_HEADS: dict[str, type[Head]] = {"binary": BinaryHead, "classes": ClassesHead, "tags": TagsHead}


def make_head(target: Target, train_labels: Tensor) -> Head:
    """The head for a target. Scores are standardised by the labels of the training split."""
    if target.kind != "score":
        return _HEADS[target.kind](target)
    scores = train_labels.double()
    # If all scores are equal, the deviation is 0, and `check` raises an error.
    return ScoreHead(target, float(scores.mean()), float(scores.std(correction=0)) or 1.0)


def head_from_metadata(metadata: Mapping[str, str]) -> Head:
    """The head that a checkpoint's metadata describe. Raises KeyError or ValueError if they describe none."""
    target = Target.from_metadata(metadata)
    if target is None:
        raise KeyError("classes")
    if target.kind != "score":
        return _HEADS[target.kind](target)
    mean, sd = json.loads(metadata["scale"])
    return ScoreHead(target, float(mean), float(sd))
