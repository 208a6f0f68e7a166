"""Results passed between two threads: batches by number, bytes and age, held back if too many wait, none lost."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.fetching.batches import BatchLimits, ResultBatcher
from raypipe.ingest.fetching.client import FetchResult


def result(number: int, n_bytes: int = 10) -> FetchResult:
    return FetchResult(str(number), "http://h/x", "ok", 200, 1, None, "h", None, b"x" * n_bytes, 0.0)


def collect(batcher: ResultBatcher) -> list[list[int]]:
    return [[int(item.post_id) for item in batch] for batch in batcher.batches() if batch]


def ignore(_on: bool) -> None:
    pass


def test_batches_by_number_and_bytes() -> None:
    batcher = ResultBatcher(7, BatchLimits(3, 1000, 60), 10_000, ignore)
    for i in range(7):
        batcher.put(result(i))
    assert collect(batcher) == [[0, 1, 2], [3, 4, 5], [6]]
    batcher = ResultBatcher(4, BatchLimits(100, 20, 60), 10_000, ignore)
    for i in range(4):
        batcher.put(result(i, 15))
    assert collect(batcher) == [[0, 1], [2, 3]]


def test_no_results_give_no_batches() -> None:
    assert collect(ResultBatcher(0, BatchLimits(3, 10, 60), 100, ignore)) == []


def test_old_results_are_released_before_batch_is_full() -> None:
    batcher = ResultBatcher(3, BatchLimits(100, 1000, 0.1), 1000, ignore)
    found: list[list[int]] = []
    reader = threading.Thread(target=lambda: found.extend(collect(batcher)))
    reader.start()
    for i in range(3):
        batcher.put(result(i))
        time.sleep(0.4)
    reader.join(10)
    assert found == [[0], [1], [2]]


def test_empty_batch_is_yielded_on_timeout() -> None:
    batcher = ResultBatcher(1, BatchLimits(100, 1000, 0.05), 1000, ignore)
    batches = batcher.batches()
    assert next(batches) == []
    batcher.put(result(0))
    assert [len(batch) for batch in batches] == [1]


def test_failure_is_raised_in_waiting_reader() -> None:
    batcher = ResultBatcher(2, BatchLimits(100, 1000, 60), 1000, ignore)
    batcher.put(result(0))
    threading.Timer(0.1, batcher.fail, [KeyError("never meant to be")]).start()
    with pytest.raises(KeyError, match="never meant to be"):
        next(batcher.batches())


def test_fetching_pauses_when_full_and_resumes_half_empty() -> None:
    told: list[bool] = []
    batcher = ResultBatcher(10, BatchLimits(2, 10**6, 60), 50, told.append)
    for i in range(10):
        batcher.put(result(i))
    assert told == [True]
    batches = batcher.batches()
    next(batches)
    next(batches)
    next(batches)
    assert told == [True]
    next(batches)
    assert told == [True, False]
    assert [item.post_id for batch in batches for item in batch] == ["8", "9"]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9), st.integers(1, 100))
def test_each_result_is_yielded_once_in_order(sizes: list[int], rows: int, n_bytes: int) -> None:
    batcher = ResultBatcher(len(sizes), BatchLimits(rows, n_bytes, 60), 100, ignore)

    def write() -> None:
        for i, size in enumerate(sizes):
            batcher.put(result(i, size))

    writer = threading.Thread(target=write)
    writer.start()
    found = collect(batcher)
    writer.join(10)
    assert [number for batch in found for number in batch] == list(range(len(sizes)))
    assert all(len(batch) <= rows for batch in found)
    assert all(sum(sizes[i] for i in batch[:-1]) < n_bytes for batch in found)
