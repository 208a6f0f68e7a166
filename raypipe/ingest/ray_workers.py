"""Ray actors and tasks for `ingest`: fetching, examining and writing, with their metrics."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.ingest.batch_fetcher import BatchFetcher
from raypipe.ingest.examine_and_stage import examine_and_stage
from raypipe.ingest.examine_fetched import needs_decoding
from raypipe.ingest.fetching.budgets import BudgetGrant, BudgetReport
from raypipe.ingest.image_rows import StagedCounts, fetched_table
from raypipe.tables import TableWriter


class FetchActor:
    """A Ray actor with a `BatchFetcher`. It yields what it has fetched.

    If pictures are decoded, it yields one row per batch, with the FETCHED table as bytes. So a batch stays one block on
    its way to a CPU, however Ray splits blocks. If pictures are not decoded, it stages the rows itself and yields what
    `examine_batch` would return.
    """

    def __init__(
        self,
        ingest: IngestOptions,
        faces: FaceOptions,
        rows: int,
        writer: TableWriter,
        budget_actor: Any,
        fetchers: int,
        attempt: int,
    ) -> None:
        async def exchange(name: str, report: BudgetReport) -> BudgetGrant:
            grant: BudgetGrant | None = await budget_actor.exchange.remote(name, report, attempt)
            if grant is None:
                # The attempt of this actor has failed. Nothing waits for it, and Ray does not end it.
                os._exit(0)
            return grant

        self._needs_decoding, self._writer = needs_decoding(ingest, faces), writer
        # There is no __exit__: the fetcher ends with its actor.
        self._fetcher = BatchFetcher(ingest, faces, rows, exchange=exchange, fetchers=fetchers).__enter__()

    def __call__(self, shard: pa.Table) -> Iterator[pa.Table]:
        prefix = shard["prefix"][0].as_py()
        if not self._needs_decoding:
            for summary in self._fetcher.stage_files(shard, prefix, self._writer):
                yield record_metrics(summary)
            return
        for number, results in enumerate(filter(None, self._fetcher.batches(shard))):
            fetched = _to_bytes(fetched_table(results))
            yield pa.table({"unit": [f"{prefix}-{number:06d}"], "fetched": fetched})


def _to_bytes(table: pa.Table) -> pa.Array:
    """Return a table as one binary value, with a single copy."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data = sink.getvalue()
    offsets = pa.py_buffer(struct.pack("=qq", 0, data.size))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def examine_batch(batch: pa.Table, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter) -> pa.Table:
    """Examine a batch that `FetchActor` fetched and stage its rows. Returns the summary row for the driver."""
    fetched = pa.ipc.open_stream(batch["fetched"].chunk(0)[0].as_buffer()).read_all()
    unit = batch["unit"][0].as_py()
    return record_metrics(examine_and_stage((unit, fetched), task_attempt(), ingest=ingest, faces=faces, writer=writer))


def redo_group(group: pa.Table, work: Callable[[pa.Table, int], StagedCounts]) -> pa.Table:
    """Stage the rows of a row group with `RedoPlan.stage_function`. Returns the summary row for the driver."""
    return record_metrics(work(group, task_attempt()))


def task_attempt() -> int:
    """Return how often the worker of this task has died. A picture may have ended it."""
    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())


def record_metrics(summary: StagedCounts) -> pa.Table:
    """Add a summary to the metrics and return its row for the driver."""
    counters = _counters()
    for status, number in summary.statuses.items():
        counters["pictures"].inc(number, tags={"status": status})
    # Ray's counters reject 0.
    if summary.n_bytes:
        counters["bytes"].inc(summary.n_bytes)
    for step, seconds in summary.seconds.items():
        if seconds > 0:
            counters["seconds"].inc(seconds, tags={"step": step})
    return summary.row()


@functools.cache
def _counters() -> dict[str, Counter]:
    return {
        "pictures": Counter("raypipe_ingest_pictures", "pictures that are finished", ("status",)),
        "bytes": Counter("raypipe_ingest_bytes", "bytes of pictures"),
        "seconds": Counter("raypipe_ingest_seconds", "seconds of work, summed over processes", ("step",)),
    }
