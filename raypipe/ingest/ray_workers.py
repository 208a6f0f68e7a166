"""What Ray runs for `ingest`: fetch actors, tasks that look and write; their metrics.

Named so because it imports Ray, which the rest of `ingest` but its pipeline does not.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from raypipe.config import FaceOptions, IngestOptions
from raypipe.ingest.arrivals import Arrivals, BatchLimits
from raypipe.ingest.client import Deliver, FetchResult
from raypipe.ingest.fetch import Fetcher
from raypipe.ingest.ledger import Grant, Report
from raypipe.ingest.look import Look, decodes, looking
from raypipe.ingest.units import Summary, fetched_table, images_table, not_asked, seconds_metadata
from raypipe.schemas import IMAGES
from raypipe.tables import TableWriter

_MEGABYTE = 2**20
# Fetched bytes that wait in an actor for their turn to be looked into.
_ROOM = 64 * _MEGABYTE
_BATCH_SECONDS = 5.0
# Without faces, the fetch actor writes files itself, and slow hosts fill one for this long.
_FILE_SECONDS = 15.0
_SWITCH_SECONDS = 0.02
# Names that are looked up at a time.
_LOOKUPS = 64


class FetchShard:
    """A fetch actor: one client on an event loop of its own, and a stream of what it has fetched.

    Where pictures are decoded, it yields one row a batch, the FETCHED table as bytes: so it stays one block on its way
    to a CPU, whatever Ray makes of blocks. Where they are not, it looks at the headers, stages the rows itself, and
    yields what `finish` would.
    """

    def __init__(
        self,
        ingest: IngestOptions,
        faces: FaceOptions,
        rows: int,
        writer: TableWriter,
        desk: Any,
        fetchers: int,
        apart: bool,
    ) -> None:
        self._ingest, self._faces, self._rows, self._writer, self._apart = ingest, faces, rows, writer, apart
        # One thread fetches, one works on what came: both go on for longer before they hand the interpreter over.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._loop = _with_lookups(_new_loop())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._fetcher = self._enter(ingest, desk, fetchers)

    def __call__(self, shard: pa.Table) -> Iterator[pa.Table]:
        prefix, batches = shard["prefix"][0].as_py(), self._batches(shard)
        if not decodes(self._ingest, self._faces):
            yield from self._stage_files(prefix, batches)
            return
        for number, results in enumerate(filter(None, batches)):
            fetched = _to_bytes(fetched_table(results))
            yield pa.table({"unit": [f"{prefix}-{number:06d}"], "fetched": fetched})

    def _stage_files(self, prefix: str, batches: Iterator[list[FetchResult]]) -> Iterator[pa.Table]:
        with looking(self._ingest, self._faces, apart=self._apart) as look:
            for number, first in enumerate(filter(None, batches)):
                yield stage(f"{prefix}-{number:06d}", self._one_file(first, batches, look), self._writer)

    def _one_file(
        self, results: list[FetchResult] | None, batches: Iterator[list[FetchResult]], look: Look
    ) -> Iterator[pa.Table]:
        """Rows as they come, until they are a file or have waited long enough: in pieces small enough that the memory
        of one serves the next.
        """
        until, room = time.monotonic() + _FILE_SECONDS, self._ingest.file_mb * _MEGABYTE
        while results is not None:
            if results:
                images = images_table(fetched_table(results), look)
                yield images
                room -= images.nbytes
            results = next(batches, None) if room > 0 and time.monotonic() < until else None

    def _batches(self, shard: pa.Table) -> Iterator[list[FetchResult]]:
        limits = BatchLimits(self._rows, _ROOM // 4, _BATCH_SECONDS)

        def hold_back(on: bool) -> None:
            self._loop.call_soon_threadsafe(self._fetcher.hold_back, on)

        arrivals = Arrivals(len(shard), limits, _ROOM, hold_back)
        columns = (shard[name].to_pylist() for name in ("post_id", "image_url", "deleted"))
        wanted = []
        for post_id, url, deleted in zip(*columns, strict=True):
            if deleted:
                arrivals.put(not_asked(post_id, url))
            else:
                wanted.append((post_id, url))
        self._loop.call_soon_threadsafe(self._submit, wanted, arrivals.put)
        return arrivals.batches()

    def _submit(self, wanted: list[tuple[str, str]], deliver: Deliver) -> None:
        self._fetcher.submit(wanted, deliver)
        # What waits is no garbage for a long time: the collector need not look at it again and again.
        gc.freeze()

    def _enter(self, ingest: IngestOptions, desk: Any, fetchers: int) -> Fetcher:
        async def exchange(name: str, report: Report) -> Grant:
            grant: Grant = await desk.exchange.remote(name, report)
            return grant

        fetcher = Fetcher(ingest, exchange=exchange, fetchers=fetchers)
        return asyncio.run_coroutine_threadsafe(fetcher.__aenter__(), self._loop).result()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _with_lookups(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    # Names are looked up in threads: a few whose servers are dead must not keep all others waiting.
    loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, "lookup"))
    return loop


def _to_bytes(table: pa.Table) -> pa.Array:
    """A table as one binary value, copied once."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data = sink.getvalue()
    offsets = pa.py_buffer(struct.pack("=qq", 0, data.size))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def finish(batch: pa.Table, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter) -> pa.Table:
    """Look into a batch that `FetchShard` fetched, and stage its rows; what the driver is told of it."""
    fetched = pa.ipc.open_stream(batch["fetched"].chunk(0)[0].as_buffer()).read_all()
    with looking(ingest, faces, apart=is_retry()) as look:
        images = images_table(fetched, look)
    return stage(batch["unit"][0].as_py(), iter([images]), writer)


def is_retry() -> bool:
    """Whether the worker that ran this task before has died: a picture may have ended it."""
    return bool(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number() > 0)


def stage(unit: str, images: Iterator[pa.Table], writer: TableWriter) -> pa.Table:
    """Stage rows of `images/` as one file, count them in the metrics, and say what was staged."""
    summary, started = Summary(), time.perf_counter()
    waited = 0.0

    def counted() -> Iterator[pa.Table]:
        nonlocal waited
        asked = time.perf_counter()
        for table in images:
            waited += time.perf_counter() - asked
            summary.add(table)
            yield table.replace_schema_metadata(None)
            asked = time.perf_counter()

    def seconds() -> dict[bytes, bytes]:
        # Asked for when all rows are written, before the file is closed.
        summary.seconds["write"] = time.perf_counter() - started - waited
        return seconds_metadata(summary.seconds)

    writer.write_stream(unit, IMAGES, counted(), seconds)
    _count(summary)
    return summary.row()


def _count(summary: Summary) -> None:
    counters = _counters()
    for status, number in summary.statuses.items():
        counters["pictures"].inc(number, tags={"status": status})
    # Ray refuses to count nothing.
    if summary.n_bytes:
        counters["bytes"].inc(summary.n_bytes)
    for step, seconds in summary.seconds.items():
        if seconds > 0:
            counters["seconds"].inc(seconds, tags={"step": step})


@functools.cache
def _counters() -> dict[str, Counter]:
    return {
        "pictures": Counter("raypipe_ingest_pictures", "pictures asked for and done with", ("status",)),
        "bytes": Counter("raypipe_ingest_bytes", "bytes of pictures"),
        "seconds": Counter("raypipe_ingest_seconds", "seconds of work, summed over processes", ("step",)),
    }
