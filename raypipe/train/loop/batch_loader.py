"""Brings batches of rows to the device, from its own memory, main memory or files. The last two are read ahead."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from raypipe.train.data.mapped_rows import RowSource
from raypipe.train.loop.workers import RowIndices

_AHEAD = 3
_ROWS_AT_ONCE = 1024
RESIDENT_SHARE = 0.5
"""Share of a device's free memory that pictures or features may take. Network and activations need the rest."""


@runtime_checkable
class BatchStream(Protocol):
    """A source that reads ahead by itself: it yields batches in the order of `row_batches`."""

    def batches(self, row_batches: Sequence[RowIndices]) -> Iterator[Tensor]:
        """The rows of each batch."""
        ...


class BatchLoader:
    """Batches of a source's rows on a device. `waited` sums the seconds in which no batch was ready."""

    def __init__(self, source: RowSource, device: torch.device) -> None:
        self.source, self.device, self.waited = source, device, 0.0

    def batches(self, row_batches: Sequence[RowIndices]) -> Iterator[Tensor]:
        """The rows of each batch of `row_batches`, in order: [len(batch), …] on the device."""
        batches = self._batches(row_batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def _batches(self, row_batches: Sequence[RowIndices]) -> Iterator[Tensor]:
        if not row_batches:
            return
        if isinstance(self.source, BatchStream):
            yield from self._sent(self._pinned(batch) for batch in self.source.batches(row_batches))
        elif getattr(self.source, "device", None) == self.device:
            # One index for all batches: a small copy to the device in each step would make the host wait.
            index = torch.from_numpy(np.concatenate(row_batches)).to(self.device)
            for rows in split_rows(index, [len(rows) for rows in row_batches]):
                yield self.source[rows]
        else:
            yield from self._sent(_read_ahead(self._picked(row_batches)))

    def _picked(self, row_batches: Sequence[RowIndices]) -> Iterator[Tensor]:
        return (self._pinned(self.source[torch.from_numpy(rows)]) for rows in row_batches)

    def _pinned(self, batch: Tensor) -> Tensor:
        return batch.pin_memory() if self.device.type == "cuda" and batch.device.type == "cpu" else batch

    def _sent(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Copies batches to the device. On a GPU, the next batch is copied while the current one is used."""
        if self.device.type != "cuda":
            yield from batches
            return
        copying: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        waiting: Tensor | None = None
        for batch in batches:
            with torch.cuda.stream(copying):
                coming = batch.to(self.device, non_blocking=True)
            if waiting is not None:
                yield waiting
            # Work on a batch must start after its copy has ended. Its memory must not be reused while work uses it.
            torch.cuda.current_stream(self.device).wait_stream(copying)
            coming.record_stream(torch.cuda.current_stream(self.device))
            waiting = coming
        if waiting is not None:
            yield waiting


def _read_ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches. A thread reads up to `_AHEAD` of them in advance."""
    ready: queue.Queue[Tensor | BaseException | None] = queue.Queue(_AHEAD)
    ended = threading.Event()

    def put(item: Tensor | BaseException | None) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for batch in batches:
                put(batch)
                if ended.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name="raypipe-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()
        thread.join()


def device_of(name: str) -> torch.device:
    """The named device. A GPU gets its number, so that it equals the `device` of tensors on it."""
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def split_rows(rows: Tensor, sizes: int | list[int]) -> tuple[Tensor, ...]:
    """`rows` split into pieces of these sizes, or of one size (the last piece may be smaller)."""
    cut: tuple[Tensor, ...] = rows.split(sizes)  # type: ignore[no-untyped-call]
    return cut


def n_bytes(source: RowSource) -> int:
    """Bytes of all rows."""
    return int(np.prod(source.shape)) * source.dtype.itemsize


def to_gpu_if_room(source: RowSource, device: torch.device, memory_limit: float) -> RowSource:
    """A copy of `source` in the memory of a GPU if it needs at most `memory_limit` bytes; else `source` itself."""
    if device.type != "cuda" or n_bytes(source) > memory_limit:
        return source
    return source.to(device) if isinstance(source, Tensor) else copy_to_device(source, device)


def copy_to_device(source: RowSource, device: torch.device) -> Tensor:
    """A copy of all rows in the memory of a device. Rows are read once, in order."""
    found = torch.empty(source.shape, dtype=source.dtype, device=device)
    starts = range(0, len(source), _ROWS_AT_ONCE)
    row_batches = [np.arange(start, min(start + _ROWS_AT_ONCE, len(source))) for start in starts]
    for start, rows in zip(starts, BatchLoader(source, device).batches(row_batches), strict=True):
        found[start : start + len(rows)] = rows
    return found


def memory_for_rows(device: torch.device) -> float:
    """Bytes of the device's memory that rows may take now; 0 for a CPU."""
    return RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0
