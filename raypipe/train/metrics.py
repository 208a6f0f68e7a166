"""Measures of predictions, and the share of the hardware's peak FLOP/s that a training uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

from raypipe.statistics.ranks import average_ranks

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
"""Dense bfloat16 FLOP/s by a part of the device's name, from NVIDIA's data sheets. The first match counts."""


def binary_accuracy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of labels that are 1 if and only if their probability is above 0.5 (Keras' `binary_accuracy`).

    Both [n], or [n, tags]. Raises ValueError on no rows or different lengths.
    """
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(probabilities)} probabilities for {len(labels)} labels")
    return float(np.mean((np.asarray(probabilities) > 0.5) == (np.asarray(labels) > 0.5)))


def figure_of_merit(val_accuracy: float | None, val_loss: float | None) -> float:
    """The number that selects the best epoch and the best trial: validation accuracy, or −loss if it is None."""
    if val_accuracy is not None:
        return val_accuracy
    return -math.inf if val_loss is None or math.isnan(val_loss) else -val_loss


def mean_and_sd(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n − 1) over the seeds that have a value. Each is None if too few seeds have one."""
    known = [value for value in values if value is not None]
    return (fmean(known) if known else None), (stdev(known) if len(known) > 1 else None)


def average_precision(probabilities: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Σ (Rₖ − Rₖ₋₁)·Pₖ over the distinct probabilities from the highest down, with recall R and precision P at each.

    Both [n]. Random predictions give about the prevalence. None if no label is 1.
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
    """1 − Σ(label − predicted)² / Σ(label − mean of labels)², both [n]. None if all labels are equal."""
    truth = np.asarray(labels, np.float64)
    total = float(np.sum((truth - truth.mean()) ** 2)) if len(truth) else 0.0
    return None if total == 0 else 1 - float(np.sum((truth - predicted) ** 2)) / total


def rmse(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Root mean squared error, both [n], in the labels' unit."""
    return math.sqrt(float(np.mean((np.asarray(labels, np.float64) - predicted) ** 2)))


def spearman(predicted: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Spearman's rank correlation, both [n]. Ties get their mean rank. None if all values of either are equal."""
    one, other = average_ranks(predicted), average_ranks(labels)
    if len(one) == 0 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """The device's dense FLOP/s in bfloat16. None for other arithmetic or if the device's peak is not known."""
    if device.type != "cuda" or dtype != "bfloat16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_BFLOAT16.items() if part in name), None)


def forward_flops(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """FLOPs of one forward pass per row of `inputs`, [n, …], counted as in `training_flops`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(inputs)
    return float(counter.get_total_flops()) / len(inputs)


def training_flops(model: nn.Module, inputs: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> float:
    """FLOPs of one forward and backward pass per row of `inputs`: normalised images, [n, 3, s, s], or features, [n, d].

    `forward` is the model or its trained part. A multiplication and an addition count as two: 92.6e9 for configuration
    C at 224 pixels. Gradients are reset.
    """
    training = model.training
    # In evaluation mode, running statistics of batch normalisation do not change.
    model.eval()
    with FlopCounterMode(display=False) as counter:
        logits = (forward or model)(inputs)
        torch.autograd.backward(binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)))
    model.train(training)
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(inputs)
