"""Divides the posts of a root into blocks of rows. Every pass reads its columns again, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe import tables
from raypipe.progress import Progress
from raypipe.storage import Storage
from raypipe.tables.untrusted import plain_table

T = TypeVar("T")

BLOCK_ROWS = 2**20
"""Approximate number of rows of a block. A thread or task holds one block in memory at a time."""

_ROWS_TO_SHOW = 2_000_000
_READERS = 8


@dataclass(frozen=True)
class Block:
    """Some row groups of a table's files, in order. `pieces` are (path, first group, last group + 1)."""

    number: int
    rows: int
    pieces: tuple[tuple[str, int, int], ...]

    def read(self, storage: Storage, columns: Sequence[str]) -> pa.Table:
        """The named columns of the block's rows. Raises StageError if a file cannot be read."""
        parts = []
        for path, first, last in self.pieces:
            with (
                storage.errors("read", path),
                pq.ParquetFile(path, filesystem=storage.filesystem, pre_buffer=not storage.is_local) as file,
            ):
                found = file.read_row_groups(range(first, last), columns=list(columns), use_threads=False)
            parts.append(plain_table(found, path))
        return pa.concat_tables(parts).select(list(columns))


def divide_into_blocks(storage: Storage, table: str, rows: int = BLOCK_ROWS) -> list[Block]:
    """The blocks of a complete table. Each has some consecutive row groups, about `rows` rows in total."""
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


def block_progress(title: str, blocks: Sequence[Block]) -> Progress | _NoProgress:
    """Progress over the rows of blocks. Silent if there are few rows."""
    rows = sum(block.rows for block in blocks)
    return Progress(title, rows, "posts") if rows > _ROWS_TO_SHOW else _NoProgress()


class _NoProgress:
    """Shows no progress, for work that takes a second or two."""

    def __enter__(self) -> _NoProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, n: int) -> None:
        """Does nothing."""
