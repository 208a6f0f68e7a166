"""Applies functions to blocks of posts, in threads of this process or as Ray tasks.

The same functions run in both, and results are returned in the order of the blocks. One machine needs no Ray for this,
because numpy and pyarrow release Python's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa

from raypipe.config import Config
from raypipe.label.blocks import Block, block_progress
from raypipe.processes.pool import cpus
from raypipe.runtime import ray_session
from raypipe.storage import Storage

T = TypeVar("T")

MIN_ROWS_FOR_RAY = 5_000_000
"""With more posts than this a cluster is used if there is one. With fewer, its tasks cost more time than they save."""


class Engine(Protocol):
    """Applies a picklable function of (block, its rows) to blocks and returns the results in their order."""

    def map(
        self, function: Callable[[Block, pa.Table], T], blocks: Sequence[Block], columns: Sequence[str], title: str
    ) -> list[T]: ...


@contextmanager
def open_engine(config: Config, storage: Storage, n_rows: int) -> Iterator[Engine]:
    """Ray tasks if `label.on_ray` is true, or is unset and there are a cluster and many rows. Otherwise threads."""
    on_ray = config.label.on_ray
    if on_ray is None:
        on_ray = bool(os.environ.get("RAY_ADDRESS")) and n_rows > MIN_ROWS_FOR_RAY
    if not on_ray:
        yield _ThreadEngine(storage, config.ray.num_cpus or cpus())
        return
    from raypipe.label.ray_engine import RayEngine

    with ray_session(config):
        yield RayEngine(storage)


@dataclass(frozen=True)
class _ThreadEngine:
    storage: Storage
    n: int

    def map(
        self, function: Callable[[Block, pa.Table], T], blocks: Sequence[Block], columns: Sequence[str], title: str
    ) -> list[T]:
        def one(block: Block) -> T:
            return function(block, block.read(self.storage, columns))

        results: list[T] = []
        with block_progress(title, blocks) as progress, ThreadPoolExecutor(self.n) as pool:
            futures = [pool.submit(one, block) for block in blocks]
            try:
                for block, future in zip(blocks, futures, strict=True):
                    results.append(future.result())
                    progress.advance(block.rows)
            finally:
                for future in futures:
                    future.cancel()
        return results
