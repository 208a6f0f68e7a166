"""What is drawn at random in an epoch: by seed and epoch alone, whatever the number of workers or interruptions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raypipe.train.loop.workers import Rows

_ORDER, _FLIPS, _DROPOUT, _CROPS = range(4)


def epoch_order(n: int, seed: int, epoch: int) -> Rows:
    """The order of `n` training rows in `epoch`."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(n)


def epoch_flips(n: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which of `n` training rows are mirrored in `epoch`, by row."""
    return np.random.default_rng([seed, epoch, _FLIPS]).random(n) < 0.5


def epoch_crops(n: int, seed: int, epoch: int, smallest: float) -> NDArray[np.float32]:
    """Squares cut out of `n` training pictures in `epoch`, by row: [n, 3], side and centre (x, y) in the coordinates of
    `torch.nn.functional.affine_grid`, in which a picture reaches from −1 to 1.
    """
    drawn = np.random.default_rng([seed, epoch, _CROPS]).random((n, 3))
    side = np.sqrt(smallest + (1 - smallest) * drawn[:, 0])
    centre = (1 - side)[:, None] * (2 * drawn[:, 1:] - 1)
    return np.column_stack([side, centre]).astype(np.float32)


def dropout_seed(seed: int, epoch: int, rank: int) -> int:
    """Where torch's generator starts in `epoch` on the worker `rank`."""
    return int(np.random.SeedSequence([seed, epoch, _DROPOUT, rank]).generate_state(1, np.uint64)[0] >> 1)
