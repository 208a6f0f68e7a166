"""Shards are built one per split at a time, so memory does not grow with the export."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from raypipe import tables
from raypipe.export.export_plan import make_plan
from raypipe.export.shards import write_shards
from raypipe.export.tar import TarShard
from raypipe.progress import Progress
from tests.export.conftest import Made


def test_memory_holds_one_shard_per_split(make: Callable[..., Made]) -> None:
    made = make(side=250, formats=("jpg", "png"))
    storage = made.config.open_storage()
    plan = make_plan(storage, labelled=True, shard_bytes=300_000)
    alive: weakref.WeakSet[TarShard] = weakref.WeakSet()
    most = 0

    def start() -> TarShard:
        nonlocal most
        shard = TarShard()
        alive.add(shard)
        most = max(most, len(alive))
        return shard

    with (
        tables.begin(storage, "export/x", command="export", config={}, inputs={}) as run,
        Progress("Exporting", None) as progress,
    ):
        assert write_shards(run.writer, plan, start, lambda split, i, n: f"{split}-{i}-{n}", progress) == len(made.rows)
        assert progress.done == len(made.rows)
        names = storage.files(run.writer.staging)
    assert len(names) == sum(len(plan.shard_rows(side)) for side in range(3)) > 12
    assert most == 3
