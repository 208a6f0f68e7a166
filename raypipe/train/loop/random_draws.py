"""Random draws of an epoch. Except for dropout they depend only on seed and epoch, not on workers or interruptions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raypipe.train.loop.workers import RowIndices

_ORDER, _FLIPS, _DROPOUT, _CROPS = range(4)


def epoch_order(n: int, seed: int, epoch: int) -> RowIndices:
    """The order of `n` training rows in `epoch`."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(n)


def epoch_flips(n: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Whether each of `n` training rows is mirrored in `epoch`, [n]."""
    return np.random.default_rng([seed, epoch, _FLIPS]).random(n) < 0.5


def epoch_crops(n: int, seed: int, epoch: int, smallest: float) -> NDArray[np.float32]:
    """Squares to cut out of `n` training pictures in `epoch`, one row per picture: [n, 3], side and centre (x, y).

    In the coordinates of `torch.nn.functional.affine_grid`, a picture reaches from −1 to 1. Side 1 is the whole side.
    """
    drawn = np.random.default_rng([seed, epoch, _CROPS]).random((n, 3))
    side = np.sqrt(smallest + (1 - smallest) * drawn[:, 0])
    centre = (1 - side)[:, None] * (2 * drawn[:, 1:] - 1)
    return np.column_stack([side, centre]).astype(np.float32)


def dropout_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of torch's generator in `epoch` on the worker `rank`."""
    return int(np.random.SeedSequence([seed, epoch, _DROPOUT, rank]).generate_state(1, np.uint64)[0] >> 1)
