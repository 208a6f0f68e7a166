"""Inputs of a training step: pictures, or features of frozen convolutions that are computed once (configuration A).

Also passes over them without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raypipe.train.data.images import prepare_batch
from raypipe.train.data.mapped_rows import RowSource
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.loop.batch_loader import BatchLoader, memory_for_rows, split_rows
from raypipe.train.loop.workers import RowIndices, Workers
from raypipe.train.networks.vgg import Network

DType = Literal["float32", "bfloat16"]
OnBatch = Callable[[int, int], None]


def mixed_precision(device: torch.device, dtype: DType) -> AbstractContextManager[object]:
    """Autocast to bfloat16 if `dtype` is bfloat16, else no autocast. Weights stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def evaluation_batch(device: torch.device) -> int:
    """Pictures per batch in a pass without gradients. Few on a CPU, so that outputs of a layer stay in its caches."""
    return 8 if device.type == "cpu" else 64


class Inputs(Protocol):
    """Rows of a data set, batch by batch, as the network or its head takes them."""

    @property
    def waited(self) -> float:
        """Seconds in which no batch was ready, summed so far."""
        ...

    def batches(
        self,
        row_batches: Sequence[RowIndices],
        flips: NDArray[np.bool_] | None = None,
        crops: NDArray[np.float32] | None = None,
    ) -> Iterator[Tensor]:
        """The rows of each batch of `row_batches`.

        Row i is mirrored if ``flips[i]`` is true (bool [n]), and cut to the square ``crops[i]`` (float32 [n, 3], see
        `raypipe.train.loop.random_draws.epoch_crops`).
        """
        ...


class _LoaderInputs:
    """Base of inputs that take their rows from a BatchLoader."""

    _feed: BatchLoader

    @property
    def waited(self) -> float:
        """See `Inputs`."""
        return self._feed.waited


class ImageInputs(_LoaderInputs):
    """Pictures, uint8 [n, 3, s, s], that are normalised on the device: float [n, 3, s, s] in `memory_format`."""

    def __init__(
        self,
        images: RowSource,
        preprocessing: Preprocessing,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self._feed, self.preprocessing, self.device = BatchLoader(images, device), preprocessing, device
        self._format = memory_format

    def batches(
        self,
        row_batches: Sequence[RowIndices],
        flips: NDArray[np.bool_] | None = None,
        crops: NDArray[np.float32] | None = None,
    ) -> Iterator[Tensor]:
        """See `Inputs`."""
        if not row_batches:
            return
        rows, sizes = np.concatenate(row_batches), [len(rows) for rows in row_batches]
        masks = None if flips is None else split_rows(torch.from_numpy(flips[rows]).to(self.device), sizes)
        squares = None if crops is None else split_rows(torch.from_numpy(crops[rows]).to(self.device), sizes)
        for i, raw in enumerate(self._feed.batches(row_batches)):
            mask = None if masks is None else masks[i]
            square = None if squares is None else squares[i]
            yield prepare_batch(raw, self.preprocessing, mask, self.device, crops=square, memory_format=self._format)


class FeatureInputs(_LoaderInputs):
    """Cached features [n, d], returned as float32. `flipped` has those of the mirrored pictures, if any are needed."""

    def __init__(self, plain: RowSource, flipped: RowSource | None, device: torch.device) -> None:
        self._n, self._mirrors = len(plain), flipped is not None
        self._feed = BatchLoader(plain if flipped is None else ConcatenatedRows(plain, flipped), device)

    def batches(
        self,
        row_batches: Sequence[RowIndices],
        flips: NDArray[np.bool_] | None = None,
        crops: NDArray[np.float32] | None = None,  # noqa: ARG002
    ) -> Iterator[Tensor]:
        """See `Inputs`. `crops` has no effect on features."""
        if flips is not None and self._mirrors:
            row_batches = [rows + self._n * flips[rows] for rows in row_batches]
        for features in self._feed.batches(row_batches):
            yield features.float()


class ConcatenatedRows:
    """Two sources of n rows each as one source of 2n rows."""

    def __init__(self, first: RowSource, second: RowSource) -> None:
        self._first, self._second = first, second
        self.shape = torch.Size((2 * len(first), *first.shape[1:]))
        self.dtype = first.dtype
        self._held = isinstance(first, Tensor) and isinstance(second, Tensor) and first.device == second.device
        if isinstance(first, Tensor) and self._held:
            self.device = first.device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        n = len(self._first)
        in_second = rows >= n
        if self._held:
            # Both are indexed: picking rows by a mask would make the host wait for the GPU.
            mask = in_second.view(-1, *[1] * (len(self.shape) - 1))
            return torch.where(mask, self._second[rows % n], self._first[rows % n])
        found = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        found[~in_second] = self._first[rows[~in_second]].cpu()
        found[in_second] = self._second[rows[in_second] - n].cpu()
        return found


def split_into_batches(rows: RowIndices, size: int) -> list[RowIndices]:
    """`rows` in order, `size` at a time."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _evaluation_batches(
    inputs: Inputs,
    rows: RowIndices,
    device: torch.device,
    on_batch: OnBatch | None,
    flips: NDArray[np.bool_] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yields batches of `rows` in order, each with the position of its first row. Calls `on_batch` after each batch."""
    done = 0
    for batch in inputs.batches(split_into_batches(rows, evaluation_batch(device)), flips):
        yield done, batch
        done += len(batch)
        if on_batch:
            on_batch(done, len(rows))


def _forward_in_halves(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """`forward` of a batch, split into halves if the device's memory is too small for the whole batch."""
    try:
        return forward(batch)
    except torch.OutOfMemoryError:
        if len(batch) < 2:
            raise
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return torch.cat([_forward_in_halves(forward, part) for part in split_rows(batch, (len(batch) + 1) // 2)])


@torch.no_grad()
def extract_features(
    model: Network,
    images: RowSource,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    dtype: DType = "float32",
    flip: bool = False,
    workers: Workers | None = None,
    on_batch: OnBatch | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Tensor:
    """Output of `model.extract` for uint8 `images` [n, 3, s, s], mirrored if `flip` is true: `dtype` [n, d], `device`.

    In main memory instead if the device has no room for it. The workers share the work, and each returns all rows.
    With bfloat16 arithmetic, storing bfloat16 loses nothing. `on_wait` gets the seconds in which no picture was ready.
    """
    crew = workers or Workers()
    model.eval()
    inputs = ImageInputs(images, preprocessing, device)
    rows = crew.own_part(np.arange(len(images)))
    shape, kept_in = (len(rows), model.n_features), getattr(torch, dtype)
    # Several workers can only exchange tensors on their devices. A single worker can keep them in main memory.
    fits = crew.size > 1 or math.prod(shape) * kept_in.itemsize <= memory_for_rows(device)
    part = torch.empty(shape, dtype=kept_in, device=device if fits else "cpu")
    flips = np.ones(len(images), bool) if flip else None
    for start, batch in _evaluation_batches(inputs, rows, device, on_batch, flips):
        with mixed_precision(device, dtype):
            part[start : start + len(batch)] = _forward_in_halves(model.extract, batch)
    if on_wait:
        on_wait(inputs.waited)
    return crew.gather(part, len(images))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Inputs,
    rows: RowIndices,
    *,
    device: torch.device,
    dtype: DType,
    n_outputs: int = 1,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """Outputs of `forward` (`model` or a part of it) for `rows`: float32 [n], or [n, n_outputs] for several outputs."""
    model.eval()
    found = [torch.zeros((0, n_outputs) if n_outputs > 1 else 0, device=device)]
    for _, batch in _evaluation_batches(inputs, rows, device, on_batch):
        with mixed_precision(device, dtype):
            # A copy, because a compiled network may reuse the memory of its output.
            found.append(_forward_in_halves(forward, batch).to(torch.float32, copy=True))
    return torch.cat(found)
