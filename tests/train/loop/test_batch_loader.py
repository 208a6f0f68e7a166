"""Batches follow their plan, for rows in any place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raypipe.errors import StageError
from raypipe.train.loop.batch_loader import (
    BatchLoader,
    BatchStream,
    memory_for_rows,
    n_bytes,
    split_rows,
    to_gpu_if_room,
)
from raypipe.train.loop.inputs import ConcatenatedRows, split_into_batches
from raypipe.train.loop.workers import RowIndices

CPU = torch.device("cpu")
ROWS = torch.arange(40.0).view(10, 4)


class OnDisk:
    """Rows that are not a tensor, so a thread reads them ahead."""

    shape, dtype = ROWS.shape, ROWS.dtype

    def __init__(self) -> None:
        self.readers: set[str] = set()

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, rows: Any) -> Tensor:
        self.readers.add(threading.current_thread().name)
        if len(rows) and int(rows.max()) >= len(ROWS):
            raise StageError("rows/9.npy: cannot read")
        return ROWS[rows]


class Streaming(OnDisk):
    """Rows that give their own batches."""

    def batches(self, row_batches: Sequence[RowIndices]) -> Iterator[Tensor]:
        return (ROWS[torch.from_numpy(rows)] for rows in row_batches)


@given(sizes=st.lists(st.integers(0, 4), max_size=8), seed=st.integers(0, 100))
@pytest.mark.parametrize("source", [ROWS, OnDisk(), Streaming()], ids=["memory", "disk", "stream"])
def test_batches_follow_row_batches(source: Any, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    row_batches = [rng.integers(0, len(ROWS), size) for size in sizes]
    found = list(BatchLoader(source, CPU).batches(row_batches))
    assert len(found) == len(row_batches)
    for batch, rows in zip(found, row_batches, strict=True):
        assert torch.equal(batch, ROWS[torch.from_numpy(rows)])


def test_read_ahead_thread_ends_with_its_reader() -> None:
    source = OnDisk()
    batches = BatchLoader(source, CPU).batches([np.array([i]) for i in range(10)])
    next(batches)
    batches.close()
    assert source.readers == {"raypipe-read-ahead"}
    assert all(thread.name != "raypipe-read-ahead" for thread in threading.enumerate())


def test_read_error_is_raised_in_loop() -> None:
    feed = BatchLoader(OnDisk(), CPU)
    found = feed.batches([np.array([1]), np.array([99])])
    assert next(found).tolist() == [ROWS[1].tolist()]
    with pytest.raises(StageError, match="cannot read"):
        next(found)
    assert feed.waited > 0


@given(rows=st.lists(st.integers(0, 19), max_size=9))
@pytest.mark.parametrize("kind", [torch.Tensor, OnDisk])
def test_two_sources_are_joined(kind: type, rows: list[int]) -> None:
    first, second = (ROWS, ROWS) if kind is torch.Tensor else (OnDisk(), OnDisk())
    both = ConcatenatedRows(first, second)
    assert len(both) == 20
    assert torch.equal(both[torch.tensor(rows, dtype=torch.int64)], torch.cat([ROWS, ROWS])[rows])


def test_rows_stay_in_main_memory_without_gpu() -> None:
    assert to_gpu_if_room(ROWS, CPU, memory_for_rows(CPU)) is ROWS
    assert n_bytes(ROWS) == 160
    assert isinstance(Streaming(), BatchStream)
    assert not isinstance(OnDisk(), BatchStream)


def test_rows_are_cut_into_pieces_and_batches() -> None:
    assert [len(part) for part in split_rows(ROWS, 4)] == [4, 4, 2]
    assert [len(part) for part in split_rows(ROWS[:0], 4)] == [0]
    assert [len(part) for part in split_rows(ROWS, [10, 0])] == [10, 0]
    assert [rows.tolist() for rows in split_into_batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
