"""Exports in shards: several files per split. Each is built in memory and written when it has all its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from raypipe.export.plan import Plan
from raypipe.export.samples import Sample, read_samples
from raypipe.progress import Progress
from raypipe.tables import TableWriter

FileName = Callable[[str, int, int], str]
"""Takes a split, the number of a shard and the number of shards. Returns the shard's file name."""


class Shard(Protocol):
    """A file that is being built."""

    def add(self, sample: Sample) -> None:
        """Append a picture and its metadata."""

    def finish(self) -> memoryview:
        """The bytes of the whole file."""


def write_shards(
    writer: TableWriter, plan: Plan, make: Callable[[], Shard], file_name: FileName, progress: Progress
) -> int:
    """Stage the shards that an interrupted attempt has not staged. Returns the number of pictures in all shards.

    Memory holds one shard per split at a time, because pictures come in the order of `images/`.
    """
    staged = set(writer.storage.files(writer.staging))
    names: dict[tuple[int, int], str] = {}
    missing: dict[tuple[int, int], int] = {}
    wanted = np.zeros(len(plan.side), bool)
    written = 0
    for side, split in enumerate(plan.splits):
        rows = plan.shard_rows(side)
        waiting = np.zeros(len(rows), bool)
        for number, count in enumerate(rows):
            names[side, number] = file_name(split, number, len(rows))
            if names[side, number] in staged:
                written += count
            else:
                missing[side, number], waiting[number] = count, True
        mine = plan.side == side
        wanted[mine] = waiting[plan.shard[mine]]
    progress.advance(written)
    shards: dict[tuple[int, int], Shard] = {}
    added: dict[tuple[int, int], int] = dict.fromkeys(missing, 0)
    for sample in read_samples(writer.storage, plan, wanted):
        place = (sample.side, sample.shard)
        if place not in shards:
            shards[place] = make()
        shards[place].add(sample)
        added[place] += 1
        progress.advance()
        if added[place] == missing[place]:
            writer.write_file(names[place], shards.pop(place).finish())
            written += added[place]
    return written
