"""Passes results, in batches, from the event loop that fetches to the thread that processes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raypipe.ingest.fetching.client import FetchResult


@dataclass(frozen=True)
class BatchLimits:
    """A batch ends at `rows` results, at `n_bytes` bytes of pictures, or `seconds` after its first result. If there is
    no result, it ends `seconds` after it was requested.
    """

    rows: int
    n_bytes: int
    seconds: float


class ResultBatcher:
    """Collects `total` results. The event loop calls `put`, and another thread consumes `batches`.

    If more than `room` bytes wait to be taken, `set_paused(True)` is called. When at most half of `room` still waits,
    `set_paused(False)` is called.
    """

    def __init__(self, total: int, limits: BatchLimits, room: int, set_paused: Callable[[bool], None]) -> None:
        self._left = total
        self._limits = limits
        self._room = room
        self._set_paused = set_paused
        self._is_paused = False
        self._results: list[FetchResult] = []
        self._bytes = 0
        self._first_at = 0.0
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def put(self, result: FetchResult) -> None:
        """Add one result."""
        with self._changed:
            if not self._results:
                self._first_at = time.monotonic()
            self._results.append(result)
            self._bytes += len(result.body or b"")
            self._left -= 1
            if not self._left or self._full() or len(self._results) == 1:
                self._changed.notify()
            if self._bytes > self._room and not self._is_paused:
                # Inside the lock, so that the calls of `set_paused` stay in order.
                self._is_paused = True
                self._set_paused(True)

    def fail(self, error: BaseException) -> None:
        """Make the consumer raise `error` instead of getting a batch. No more results may follow."""
        with self._changed:
            self._error = error
            self._changed.notify()

    def batches(self) -> Iterator[list[FetchResult]]:
        """Yield batches until all results are taken. A batch is empty if nothing came for `BatchLimits.seconds`.

        Raises the error that `fail` got.
        """
        while self._left or self._results:
            yield self._next()

    def _full(self) -> bool:
        return len(self._results) >= self._limits.rows or self._bytes >= self._limits.n_bytes

    def _next(self) -> list[FetchResult]:
        with self._changed:
            waiting_since = time.monotonic()
            while self._left and not self._full() and self._error is None:
                age = time.monotonic() - (self._first_at if self._results else waiting_since)
                if age >= self._limits.seconds:
                    break
                self._changed.wait(self._limits.seconds - age)
            if self._error is not None:
                raise self._error
            batch = self._take()
            if self._is_paused and self._bytes <= self._room / 2:
                self._is_paused = False
                self._set_paused(False)
        return batch

    def _take(self) -> list[FetchResult]:
        """Remove and return the oldest results, as many as make a batch."""
        count = size = 0
        for result in self._results[: self._limits.rows]:
            count += 1
            size += len(result.body or b"")
            if size >= self._limits.n_bytes:
                break
        batch, self._results = self._results[:count], self._results[count:]
        self._bytes -= size
        self._first_at = time.monotonic()
        return batch
