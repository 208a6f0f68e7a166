"""Accuracy and its interval, and how much of the hardware's arithmetic a training run uses."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

_PEAK_BFLOAT16 = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 FLOP/s by a part of the device's name, from NVIDIA's data sheets; the first match counts."""


def binary_accuracy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of rows whose probability is above 0.5 exactly where the label is 1 (Keras' `binary_accuracy`).

    Both [n]. Raises ValueError on no rows or different lengths.
    """
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(probabilities)} probabilities for {len(labels)} labels")
    return float(np.mean((np.asarray(probabilities) > 0.5) == (np.asarray(labels) > 0.5)))


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


def training_flops(model: nn.Module, images: Tensor) -> float:
    """FLOPs of one forward and backward pass for one image; `images`: normalised, [n, 3, s, s], on the model's device.

    A multiplication and an addition count as two: 92.6e9 for configuration C at 224 pixels. Gradients are dropped.
    """
    with FlopCounterMode(display=False) as counter:
        logits = model(images)
        torch.autograd.backward(binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)))
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(images)
