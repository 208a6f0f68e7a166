"""What a step of training is given: pictures, or features of frozen convolutions computed once (configuration A); and a
pass over either without training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raypipe.train.images import ImageSet, prepare_batch
from raypipe.train.model import Network
from raypipe.train.weights import Preprocessing
from raypipe.train.workers import Rows, Workers

DType = Literal["float32", "bfloat16"]
OnBatch = Callable[[int, int], None]
EVALUATION_BATCH = 64


def arithmetic(device: torch.device, dtype: DType) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where `dtype` asks for it; weights stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


class Inputs(Protocol):
    """Rows of a data set as the network or its head takes them.

    Mirrored where `flips` (bool [n]) says so; of pictures only the square that `crops` (see `epoch_crops`) names.
    """

    def __call__(
        self, rows: Rows, flips: NDArray[np.bool_] | None = None, crops: NDArray[np.float32] | None = None
    ) -> Tensor: ...


class ImageInputs:
    """Pictures, normalised on the device: float [n, 3, s, s]."""

    def __init__(self, images: Tensor, preprocessing: Preprocessing, device: torch.device) -> None:
        self.images, self.preprocessing, self.device = images, preprocessing, device

    def __call__(
        self, rows: Rows, flips: NDArray[np.bool_] | None = None, crops: NDArray[np.float32] | None = None
    ) -> Tensor:
        picked = self.images[torch.from_numpy(rows)]
        mask = None if flips is None else torch.from_numpy(flips)
        squares = None if crops is None else torch.from_numpy(crops)
        return prepare_batch(picked, self.preprocessing, mask, self.device, crops=squares)


class FeatureInputs:
    """Cached features, float32 [n, d], with a second set for the mirrored pictures where training mirrors."""

    def __init__(self, plain: Tensor, flipped: Tensor | None = None) -> None:
        self.plain, self.flipped = plain, flipped

    def __call__(
        self,
        rows: Rows,
        flips: NDArray[np.bool_] | None = None,
        crops: NDArray[np.float32] | None = None,  # noqa: ARG002
    ) -> Tensor:
        index = torch.from_numpy(rows).to(self.plain.device)
        if flips is None or self.flipped is None:
            return self.plain[index]
        mask = torch.from_numpy(flips).to(self.plain.device).view(-1, 1)
        return torch.where(mask, self.flipped[index], self.plain[index])


@torch.no_grad()
def extract_features(
    model: Network,
    images: Tensor,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    dtype: DType = "float32",
    flip: bool = False,
    workers: Workers | None = None,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """What `model.extract` gives for uint8 `images` [n, 3, s, s], all mirrored if `flip`: float32 [n, d] on `device`.

    The workers share the pass, and each has all rows at its end.
    """
    crew = workers or Workers()
    model.eval()
    inputs = ImageInputs(images, preprocessing, device)
    rows = crew.share(np.arange(len(images)))
    found = []
    for start in range(0, len(rows), EVALUATION_BATCH):
        batch = rows[start : start + EVALUATION_BATCH]
        with arithmetic(device, dtype):
            found.append(model.extract(inputs(batch, np.full(len(batch), flip))).float())
        if on_batch:
            on_batch(start + len(batch), len(rows))
    part = torch.cat([torch.zeros((0, model.n_features), device=device), *found])
    return crew.gather(part, len(images))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Inputs,
    rows: Rows,
    *,
    device: torch.device,
    dtype: DType,
    n_outputs: int = 1,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """What `forward`, `model` or a part of it, gives for `rows`: float32 [n], or [n, n_outputs] of several outputs."""
    model.eval()
    found = [torch.zeros((0, n_outputs) if n_outputs > 1 else 0, device=device)]
    for start in range(0, len(rows), EVALUATION_BATCH):
        with arithmetic(device, dtype):
            found.append(forward(inputs(rows[start : start + EVALUATION_BATCH])).float())
        if on_batch:
            on_batch(min(start + EVALUATION_BATCH, len(rows)), len(rows))
    return torch.cat(found)


def cache_features(
    model: Network,
    train: ImageSet,
    val: ImageSet,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    dtype: DType,
    flips: bool,
    workers: Workers,
    on_batch: OnBatch | None = None,
) -> tuple[FeatureInputs, FeatureInputs]:
    """Features of the training set, for both flips if `flips`, and of the validation set."""

    def extract(images: Tensor, flip: bool) -> Tensor:
        return extract_features(
            model, images, preprocessing, device=device, dtype=dtype, flip=flip, workers=workers, on_batch=on_batch
        )

    mirrored = extract(train.images, True) if flips else None
    return FeatureInputs(extract(train.images, False), mirrored), FeatureInputs(extract(val.images, False))
