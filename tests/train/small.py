"""Small learnable pictures, and a network small enough to train in a test."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from raypipe.train.data.images import ImageSet, image_set
from raypipe.train.data.target import Target

TARGETS = {
    "binary": Target("binary", ("bottom", "top")),
    "classes": Target("classes", ("q1", "q2", "q3")),
    "tags": Target("tags", ("sea", "sun", "cat")),
    "score": Target("score", ()),
}


class Tiny(nn.Module):
    """Two convolutions, dropout and a last layer: images [n, 3, 16, 16] to outputs [n] or [n, n_outputs]."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, n_outputs: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(1)
            )
            self.dropout = nn.Dropout(dropout)
            self.logit = nn.Linear(8 * 3 * 3, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(self.dropout(self.body(images))).squeeze(1)


def draw(n: int, seed: int, size: int = 16) -> ImageSet:
    """Noise whose left half has more red if the label is 1. Learnable also if mirrored."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.float32)
    pixels = rng.integers(0, 200, (n, 3, size, size))
    pixels[:, 0, :, : size // 2] += (labels * 50).astype(int)[:, None, None]
    return image_set(pixels.astype(np.uint8), labels, [f"p{seed}-{i}" for i in range(n)])


def draw_labelled(target: Target, n: int, seed: int, size: int = 16) -> ImageSet:
    """Noise with one brighter colour per class or tag. For scores, red grows with the score."""
    rng = np.random.default_rng([seed, 7])
    light = np.zeros((n, 3))
    if target.kind == "score":
        labels: np.ndarray = 5 + 2 * rng.normal(size=n)
        light[:, 0] = 25 * (labels - 5)
    elif target.kind == "tags":
        labels = (rng.random((n, len(target.names))) < 0.4).astype(np.float32)
        light[:, : labels.shape[1]] = 25 * labels
    else:
        codes = rng.integers(0, len(target.names), n)
        labels = codes.astype(np.int64 if target.kind == "classes" else np.float32)
        light[np.arange(n), codes] = 25
    pixels = np.clip(rng.integers(60, 180, (n, 3, size, size)) + light[:, :, None, None], 0, 255).astype(np.uint8)
    return image_set(pixels, labels, [f"p{seed}-{i}" for i in range(n)], labels.dtype.type)
