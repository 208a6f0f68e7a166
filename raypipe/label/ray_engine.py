"""Applies functions to blocks of posts as Ray tasks. This is the only module of `label` that imports Ray."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import ray.data

from raypipe.errors import RaypipeError, StageError, one_line
from raypipe.label.blocks import Block, block_progress
from raypipe.runtime import original_error
from raypipe.storage import Storage

T = TypeVar("T")


@dataclass(frozen=True)
class RayEngine:
    """An `Engine` on Ray Data, with one task per block."""

    storage: Storage

    def map(
        self, function: Callable[[Block, pa.Table], T], blocks: Sequence[Block], columns: Sequence[str], title: str
    ) -> list[T]:
        """Applies `function` to each block and its rows. Results are in order. Raises StageError if a task crashes."""
        storage, wanted = self.storage, list(columns)

        def one(row: dict[str, Any]) -> dict[str, Any]:
            block: Block = pickle.loads(row["block"])
            found = function(block, block.read(storage, wanted))
            return {"number": block.number, "rows": block.rows, "result": pickle.dumps(found, protocol=5)}

        if not blocks:
            return []
        items = [{"block": pickle.dumps(block)} for block in blocks]
        stream = ray.data.from_items(items, override_num_blocks=len(items)).map(one)
        results: dict[int, T] = {}
        try:
            with block_progress(title, blocks) as progress:
                for row in stream.iter_rows():
                    results[row["number"]] = pickle.loads(row["result"])
                    progress.advance(row["rows"])
        except Exception as error:  # Ray wraps the error of a block; the message shows that error
            first = original_error(error)
            if isinstance(first, RaypipeError):
                raise first from error
            raise StageError(f"{title}, {blocks[0].pieces[0][0]} and others: {one_line(first)}") from error
        return [results[block.number] for block in blocks]
