"""How good predictions are, with intervals, and how much of the hardware's arithmetic a training run uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

Floats = NDArray[np.float64]

_PEAK_BFLOAT16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}
"""Dense bfloat16 FLOP/s by a part of the device's name, from NVIDIA's data sheets; the first match counts."""


def binary_accuracy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of labels that are 1 exactly where their probability is above 0.5 (Keras' `binary_accuracy`).

    Both [n], or [n, tags]. Raises ValueError on no rows or different lengths.
    """
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(probabilities)} probabilities for {len(labels)} labels")
    return float(np.mean((np.asarray(probabilities) > 0.5) == (np.asarray(labels) > 0.5)))


def figure_of_merit(val_accuracy: float | None, val_loss: float | None) -> float:
    """What chooses the best epoch and the best trial, larger is better: validation accuracy, or −loss without one."""
    if val_accuracy is not None:
        return val_accuracy
    return -math.inf if val_loss is None or math.isnan(val_loss) else -val_loss


def over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n − 1) over the seeds that have a value; None where too few have."""
    known = [value for value in values if value is not None]
    return (fmean(known) if known else None), (stdev(known) if len(known) > 1 else None)


def average_ranks(values: NDArray[Any]) -> Floats:
    """Ranks 1…n of `values` [n]; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place.reshape(-1)], np.float64)


def roc_auc(probabilities: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Area under the ROC curve: how often a picture with label 1 has the higher probability, ties counting a half.

    Both [n]; by ranks, as Mann & Whitney's U (1947). None where only one label occurs.
    """
    positive = np.asarray(labels) > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    u = average_ranks(probabilities)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def average_precision(probabilities: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Σ (Rₖ − Rₖ₋₁)·Pₖ over each distinct probability from the highest down, with recall R and precision P there.

    Both [n]. Chance gives about the prevalence. None where no label is 1.
    """
    positive = np.asarray(labels) > 0.5
    if not positive.any():
        return None
    order = np.argsort(-np.asarray(probabilities), kind="stable")
    found, ordered = np.cumsum(positive[order]), np.asarray(probabilities)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    recall = found[last_of_ties] / found[-1]
    precision = found[last_of_ties] / (last_of_ties + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def r_squared(predicted: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """1 − Σ(label − predicted)² / Σ(label − mean of labels)², both [n]; None where all labels are equal."""
    truth = np.asarray(labels, np.float64)
    total = float(np.sum((truth - truth.mean()) ** 2)) if len(truth) else 0.0
    return None if total == 0 else 1 - float(np.sum((truth - predicted) ** 2)) / total


def rmse(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Root mean squared error, both [n], in the labels' unit."""
    return math.sqrt(float(np.mean((np.asarray(labels, np.float64) - predicted) ** 2)))


def spearman(predicted: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Spearman's rank correlation of two [n], ties sharing their mean rank; None where either has one value only."""
    one, other = average_ranks(predicted), average_ranks(labels)
    if len(one) == 0 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def spearman_interval(rho: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of Spearman's correlation by Fisher's z with variance (1 + ρ²/2)/(n − 3): Bonett & Wright (2000),
    Psychometrika 65:23. (−1, 1) on fewer than four pictures."""
    if n < 4:
        return -1.0, 1.0
    inside = min(max(rho, -1 + 1e-12), 1 - 1e-12)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return math.tanh(math.atanh(inside) - half), math.tanh(math.atanh(inside) + half)


def auc_interval(auc: float, n_positive: int, n_negative: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of an area under the ROC curve: Newcombe (2006), Statistics in Medicine 25:559, method 5.

    The ends θ are where |auc − θ| is z standard errors, by Hanley & McNeil's variance at θ; as with Wilson's interval
    an area of 1 on few pictures has a wide one. Raises ValueError where either label is absent.
    """
    if n_positive < 1 or n_negative < 1:
        raise ValueError(f"no area under the curve of {n_positive} positive and {n_negative} negative labels")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spare = (n_positive + n_negative) / 2 - 1

    def too_far(theta: float) -> bool:
        spread = theta * (1 - theta) * (1 + spare * (1 - theta) / (2 - theta) + spare * theta / (1 + theta))
        return abs(auc - theta) > z * math.sqrt(spread / (n_positive * n_negative))

    def end(outer: float) -> float:
        near, far = auc, outer
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if too_far(middle) else (middle, far)
        return near

    return end(0.0), end(1.0)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `successes` in `n` (Wilson, 1927, JASA 22:209).

    Raises ValueError unless 0 ≤ successes ≤ n, n > 0 and 0 < confidence < 1.
    """
    if not (n > 0 and 0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(f"no interval for {successes} of {n} at a confidence of {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Exact at the ends, where rounding would leave 1e-17.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """The device's dense FLOP/s in bfloat16, None for other arithmetic or where no data sheet is known."""
    if device.type != "cuda" or dtype != "bfloat16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_BFLOAT16.items() if part in name), None)


def forward_flops(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """FLOPs of one forward pass for one of `inputs`, [n, …], counted as in `training_flops`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(inputs)
    return float(counter.get_total_flops()) / len(inputs)


def training_flops(model: nn.Module, inputs: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> float:
    """FLOPs of one forward and backward pass for one of `inputs`, as `forward` (the model, or what of it is trained)
    takes them: normalised images, [n, 3, s, s], or features, [n, d].

    A multiplication and an addition count as two: 92.6e9 for configuration C at 224 pixels. Gradients are dropped.
    """
    training = model.training
    # Running means of normalised batches are to stay what they are.
    model.eval()
    with FlopCounterMode(display=False) as counter:
        logits = (forward or model)(inputs)
        torch.autograd.backward(binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)))
    model.train(training)
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(inputs)
