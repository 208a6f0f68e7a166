"""Small pictures with something to learn, and a network small enough to train in a test."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from raypipe.train.images import ImageSet, image_set


class Tiny(nn.Module):
    """Two convolutions, dropout and a logistic unit: images [n, 3, 16, 16] to logits [n]."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(1)
            )
            self.dropout = nn.Dropout(dropout)
            self.logit = nn.Linear(8 * 3 * 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit(self.dropout(self.body(images))).squeeze(1)


def draw(n: int, seed: int, size: int = 16) -> ImageSet:
    """Noise, with the left half brighter in red where the label is 1: learnable, also mirrored."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.float32)
    pixels = rng.integers(0, 200, (n, 3, size, size))
    pixels[:, 0, :, : size // 2] += (labels * 50).astype(int)[:, None, None]
    return image_set(pixels.astype(np.uint8), labels, [f"p{seed}-{i}" for i in range(n)])
