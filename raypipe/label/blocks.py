"""The posts of a root in blocks of rows, and functions applied to each: in threads of this process, or as Ray tasks.

Every pass reads its columns anew, so that memory stays bounded; the same functions run in both places, block by block,
and results come back in the blocks' order. One machine needs no Ray for this: numpy and pyarrow let go of Python's
lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe import tables
from raypipe.config import Config
from raypipe.processes.pool import cpus
from raypipe.progress import Progress
from raypipe.runtime import ray_session
from raypipe.storage import Storage
from raypipe.tables.untrusted import plain_table

T = TypeVar("T")

BLOCK_ROWS = 2**20
"""Rows of a block, about: what a thread or task holds in memory at a time."""

RAY_ROWS = 5_000_000
"""From so many posts on, a cluster is asked; below, its tasks cost more than they save."""

_ROWS_TO_SHOW = 2_000_000
_READERS = 8


@dataclass(frozen=True)
class Block:
    """Some row groups of a table's files, in order: `pieces` are (path, first group, group behind the last)."""

    number: int
    rows: int
    pieces: tuple[tuple[str, int, int], ...]

    def read(self, storage: Storage, columns: Sequence[str]) -> pa.Table:
        """The named columns of the block's rows. StorageError where a file cannot be read."""
        parts = []
        for path, first, last in self.pieces:
            with (
                storage.errors("read", path),
                pq.ParquetFile(path, filesystem=storage.filesystem, pre_buffer=not storage.is_local) as file,
            ):
                found = file.read_row_groups(range(first, last), columns=list(columns), use_threads=False)
            parts.append(plain_table(found, path))
        return pa.concat_tables(parts).select(list(columns))


def plan_blocks(storage: Storage, table: str, rows: int = BLOCK_ROWS) -> list[Block]:
    """The blocks of a complete table: neighbouring row groups of about `rows` rows together."""
    paths = tables.data_paths(storage, table)

    def groups(path: str) -> list[int]:
        metadata = pq.read_metadata(path, filesystem=storage.filesystem)
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    with storage.errors("read", table), ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(groups, paths))
    blocks: list[Block] = []
    pieces: list[tuple[str, int, int]] = []
    held = 0

    def close() -> None:
        nonlocal held
        if pieces:
            blocks.append(Block(len(blocks), held, tuple(pieces)))
            pieces.clear()
            held = 0

    for path, counts in zip(paths, sizes, strict=True):
        for group, count in enumerate(counts):
            if held and held + count > rows:
                close()
            if pieces and pieces[-1][0] == path:
                pieces[-1] = (path, pieces[-1][1], group + 1)
            else:
                pieces.append((path, group, group + 1))
            held += count
    close()
    return blocks


class Engine(Protocol):
    """Applies a picklable function of (block, its rows) to blocks and returns the results in their order."""

    def map(
        self, function: Callable[[Block, pa.Table], T], blocks: Sequence[Block], columns: Sequence[str], title: str
    ) -> list[T]: ...


@contextmanager
def open_engine(config: Config, storage: Storage, n_rows: int) -> Iterator[Engine]:
    """Threads of this process; Ray's tasks where `label.on_ray` asks for them, or a cluster is there for many rows."""
    on_ray = config.label.on_ray
    if on_ray is None:
        on_ray = bool(os.environ.get("RAY_ADDRESS")) and n_rows > RAY_ROWS
    if not on_ray:
        yield _Threads(storage, config.ray.num_cpus or cpus())
        return
    from raypipe.label.ray_blocks import RayTasks

    with ray_session(config):
        yield RayTasks(storage)


@dataclass(frozen=True)
class _Threads:
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


def block_progress(title: str, blocks: Sequence[Block]) -> Progress | _Silent:
    """Progress over the rows of blocks, where there are many."""
    rows = sum(block.rows for block in blocks)
    return Progress(title, rows, "posts") if rows > _ROWS_TO_SHOW else _Silent()


class _Silent:
    """No progress, where all is done in a second or two."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, n: int) -> None:
        """Nothing to show."""
