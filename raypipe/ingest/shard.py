"""Fetching many posts in one process: one client on an event loop of its own, and a thread that works on what came."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import pyarrow as pa

from raypipe.config.data import FaceOptions, IngestOptions
from raypipe.ingest.examine import Look, looking
from raypipe.ingest.fetching.batches import Arrivals, BatchLimits
from raypipe.ingest.fetching.client import Deliver, FetchResult
from raypipe.ingest.fetching.fetch import Exchange, Fetcher
from raypipe.ingest.units import Summary, fetched_table, images_table, not_asked
from raypipe.ingest.work import stage
from raypipe.tables import TableWriter

_MEGABYTE = 2**20
# Fetched bytes that wait for their turn to be looked into.
_ROOM = 64 * _MEGABYTE
_BATCH_SECONDS = 5.0
# Slow hosts fill a file for this long.
_FILE_SECONDS = 15.0
_SWITCH_SECONDS = 0.02
# Names that are looked up at a time.
_LOOKUPS = 64


class ShardFetcher:
    """``with ShardFetcher(ingest, faces, rows=256) as fetcher: for results in fetcher.batches(posts): …``

    Batches have `rows` results at most. `exchange` shares each host's budget with other fetchers (`fetchers` in all).
    One stream of batches at a time; within the body, this process's threads take longer turns, and garbage that is
    there already is not looked for.
    """

    def __init__(
        self,
        ingest: IngestOptions,
        faces: FaceOptions,
        rows: int,
        *,
        exchange: Exchange | None = None,
        fetchers: int = 1,
    ) -> None:
        self._ingest, self._faces, self._rows = ingest, faces, rows
        self._loop = _new_loop()
        self._arrivals: Arrivals | None = None
        self._fetcher = Fetcher(ingest, exchange=exchange, fetchers=fetchers, on_error=self._fail)

    def __enter__(self) -> Self:
        # One thread fetches, one works on what came: both go on for longer before they hand the interpreter over.
        self._switching = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        # Names are looked up in threads: a few whose servers are dead must not keep all others waiting.
        self._loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, "lookup"))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._fetcher.__aenter__(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._fetcher.__aexit__(kind, error, trace), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            sys.setswitchinterval(self._switching)
            gc.unfreeze()

    @property
    def hosts_waiting(self) -> int:
        """Hosts that hold requests up."""

        async def count() -> int:
            return self._fetcher.hosts_waiting

        # The fetcher's own thread changes what is counted.
        return asyncio.run_coroutine_threadsafe(count(), self._loop).result()

    def batches(self, posts: pa.Table) -> Iterator[list[FetchResult]]:
        """What came of `posts` (`units.ORDER`), as it comes; an empty batch where nothing has come for some seconds."""
        limits = BatchLimits(self._rows, _ROOM // 4, _BATCH_SECONDS)

        def hold_back(on: bool) -> None:
            self._loop.call_soon_threadsafe(self._fetcher.hold_back, on)

        arrivals = self._arrivals = Arrivals(len(posts), limits, _ROOM, hold_back)
        columns = (posts[name].to_pylist() for name in ("post_id", "image_url", "deleted"))
        wanted = []
        for post_id, url, deleted in zip(*columns, strict=True):
            if deleted:
                arrivals.put(not_asked(post_id, url))
            else:
                wanted.append((post_id, url))
        self._loop.call_soon_threadsafe(self._submit, wanted, arrivals.put)
        return arrivals.batches()

    def stage_files(
        self, posts: pa.Table, prefix: str, writer: TableWriter, seen: Callable[[pa.Table], object] = len
    ) -> Iterator[Summary]:
        """Fetch `posts`, look at the pictures' headers, and stage the rows in files of about `ingest.file_mb`.

        `seen` is told each batch of rows, before its file is whole. Raises StageError where rows cannot be written.
        """
        batches = self.batches(posts)
        with looking(self._ingest, self._faces) as look:
            for number, first in enumerate(filter(None, batches)):
                yield stage(f"{prefix}-{number:06d}", self._one_file(first, batches, look, seen), writer)

    def _one_file(
        self,
        results: list[FetchResult] | None,
        batches: Iterator[list[FetchResult]],
        look: Look,
        seen: Callable[[pa.Table], object],
    ) -> Iterator[pa.Table]:
        """Rows as they come, until they are a file or have waited long enough: in pieces small enough that the memory
        of one serves the next.
        """
        until, room = time.monotonic() + _FILE_SECONDS, self._ingest.file_mb * _MEGABYTE
        while results is not None:
            if results:
                images = images_table(fetched_table(results), look)
                seen(images)
                yield images
                room -= images.nbytes
            results = next(batches, None) if room > 0 and time.monotonic() < until else None

    def _fail(self, error: BaseException) -> None:
        if self._arrivals is not None:
            self._arrivals.fail(error)

    def _submit(self, wanted: list[tuple[str, str]], deliver: Deliver) -> None:
        try:
            self._fetcher.submit(wanted, deliver)
        except Exception as error:
            self._fail(error)
        # What waits is no garbage for a long time: the collector need not look at it again and again.
        gc.freeze()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
