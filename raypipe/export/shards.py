"""Exports in shards: several files per split. Each is built in memory and written when it has all its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from raypipe.export.export_plan import ExportPlan
from raypipe.export.samples import ExportSample, read_samples
from raypipe.progress import Progress
from raypipe.tables import TableWriter

ShardNamer = Callable[[str, int, int], str]
"""Takes a split, the number of a shard and the number of shards. Returns the shard's file name."""


class ShardBuilder(Protocol):
    """A file that is being built."""

    def add(self, sample: ExportSample) -> None:
        """Append a picture and its metadata."""

    def finish(self) -> memoryview:
        """The bytes of the whole file."""


def write_shards(
    writer: TableWriter, plan: ExportPlan, make: Callable[[], ShardBuilder], file_name: ShardNamer, progress: Progress
) -> int:
    """Stage the shards that an interrupted attempt has not staged. Returns the number of pictures in all shards.

    Memory holds one shard per split at a time, because pictures come in the order of `images/`.
    """
    staged = set(writer.storage.files(writer.staging))
    names: dict[tuple[int, int], str] = {}
    missing: dict[tuple[int, int], int] = {}
    wanted = np.zeros(len(plan.split_index), bool)
    written = 0
    for split_index, split in enumerate(plan.splits):
        rows = plan.shard_rows(split_index)
        is_missing = np.zeros(len(rows), bool)
        for number, count in enumerate(rows):
            names[split_index, number] = file_name(split, number, len(rows))
            if names[split_index, number] in staged:
                written += count
            else:
                missing[split_index, number], is_missing[number] = count, True
        in_split = plan.split_index == split_index
        wanted[in_split] = is_missing[plan.shard[in_split]]
    progress.advance(written)
    shards: dict[tuple[int, int], ShardBuilder] = {}
    added: dict[tuple[int, int], int] = dict.fromkeys(missing, 0)
    for sample in read_samples(writer.storage, plan, wanted):
        place = (sample.split_index, sample.shard)
        if place not in shards:
            shards[place] = make()
        shards[place].add(sample)
        added[place] += 1
        progress.advance()
        if added[place] == missing[place]:
            writer.write_file(names[place], shards.pop(place).finish())
            written += added[place]
    return written
