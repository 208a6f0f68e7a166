"""Pictures for the network: decoded and resized once, stored as uint8, flipped and normalised per batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from raypipe.errors import InputError
from raypipe.pictures.decoding import decode_square
from raypipe.train.data.mapped_rows import RowSource
from raypipe.train.data.preprocessing import Preprocessing


def decode_and_resize(image_bytes: bytes, size: int) -> NDArray[np.uint8]:
    """The whole picture, resized to `size` × `size` pixels as in the paper (section 5.1): uint8 [3, size, size], RGB.

    The aspect ratio is not kept. Applies the EXIF orientation. Bilinear with antialiasing. Raises InputError if the
    bytes are not a complete picture."""
    return decode_square(image_bytes, size)


@dataclass(frozen=True)
class ImageSet:
    """Labelled pictures in a fixed order: `images` uint8 [n, 3, s, s], `labels`, `post_ids` [n].

    `images` is a Tensor, or rows on a disk.

    The labels' type gives their meaning (see `raypipe.train.data.target`): float32 of 0 and 1, [n] for two classes and
    [n, tags] for tags; int64 [n], the class's number from 0; float64 [n], scores.
    Raises InputError if lengths, shapes, types or values do not fit.
    """

    images: RowSource
    labels: Tensor
    post_ids: NDArray[np.str_]

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise InputError(f"images: must be uint8 [n, 3, s, s], found {self.images.dtype} {list(shape)}")
        if not len(self.images) == len(self.labels) == len(self.post_ids):
            raise InputError(
                f"images: {len(self.images)} pictures, {len(self.labels)} labels and {len(self.post_ids)} post_ids"
            )
        if complaint := _complaint(self.labels):
            raise InputError(f"images: {complaint}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.images.shape[-1]


def _complaint(labels: Tensor) -> str | None:
    if labels.dtype == torch.float32 and labels.dim() in (1, 2):
        return None if bool(((labels == 0) | (labels == 1)).all()) else "a label is neither 0 nor 1"
    if labels.dtype == torch.int64 and labels.dim() == 1:
        return "a class has a negative number" if bool((labels < 0).any()) else None
    if labels.dtype == torch.float64 and labels.dim() == 1:
        return None if bool(labels.isfinite().all()) else "a score is not finite"
    return f"labels must be float32 [n] or [n, tags], int64 [n] or float64 [n], found {labels.dtype} {[*labels.shape]}"


def image_set(
    images: NDArray[np.uint8] | RowSource,
    labels: NDArray[Any],
    post_ids: NDArray[Any] | list[str],
    dtype: type[np.generic] = np.float32,
) -> ImageSet:
    """An ImageSet from arrays, with labels as `dtype`. `images` uint8 [n, 3, s, s] is not copied."""
    ids = np.asarray(post_ids, dtype=np.str_)
    rows = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    return ImageSet(rows, torch.from_numpy(np.asarray(labels, dtype=dtype)), ids)


def prepare_batch(
    images: Tensor,
    preprocessing: Preprocessing,
    flip_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    crops: Tensor | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """The network's input on `device` from uint8 [n, 3, s, s]. Rows with a true `flip_mask` (bool [n]) are mirrored.

    `crops` (float32 [n, 3], side and centre, see `raypipe.train.loop.random_draws.epoch_crops`) are cut out and
    enlarged to s × s, bilinearly.
    """
    target = torch.device(device)
    batch = images.to(target, non_blocking=True).contiguous(memory_format=memory_format)
    if flip_mask is not None:
        mask = flip_mask.to(target, non_blocking=True).view(-1, 1, 1, 1)
        batch = torch.where(mask, batch.flip(3), batch)
    if crops is not None and len(batch):
        batch = _cut(batch.float(), crops.to(target, non_blocking=True))
    if preprocessing.channel_order == "bgr":
        batch = batch.flip(1)
    mean, std = _statistics(preprocessing, target)
    normalised = (batch.float() * preprocessing.scale - mean) / std
    return normalised.to(dtype, memory_format=memory_format)


@lru_cache(maxsize=16)
def _statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept on the device, because a copy to it in each step would make the host wait for all running work.
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    return mean, std


def _cut(batch: Tensor, crops: Tensor) -> Tensor:
    side, x, y = crops.unbind(1)
    none = torch.zeros_like(side)
    affine = torch.stack([torch.stack([side, none, x], 1), torch.stack([none, side, y], 1)], 1)
    grid = affine_grid(affine, list(batch.shape), align_corners=False)
    return grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
