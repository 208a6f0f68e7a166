"""Fetches many posts in one process: one client on its own event loop, and a thread that processes the results."""

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

from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.ingest.examine_and_stage import stage_rows
from raypipe.ingest.examine_fetched import ExaminePictures, picture_examiner
from raypipe.ingest.fetching.batches import BatchLimits, ResultBatcher
from raypipe.ingest.fetching.client import FetchResult, OnResult
from raypipe.ingest.fetching.fetch import ExchangeReport, Fetcher
from raypipe.ingest.image_rows import StagedCounts, deleted_result, fetched_table, images_table
from raypipe.tables import TableWriter

_MEGABYTE = 2**20
# Limit of the fetched bytes that wait to be examined.
_ROOM = 64 * _MEGABYTE
_BATCH_SECONDS = 5.0
# A file ends after this time, even if slow hosts have not filled it.
_FILE_SECONDS = 15.0
_SWITCH_SECONDS = 0.02
# Host names that are looked up at the same time.
_LOOKUPS = 64


class BatchFetcher:
    """Fetches posts: ``with BatchFetcher(ingest, faces, rows=256) as f: for results in f.batches(posts): …``

    A batch has at most `rows` results. `exchange` shares each host's budget with other fetchers (`fetchers` in total).
    Only one stream of batches may run at a time. Within the body, this process's threads switch less often, and the
    garbage collector skips the objects that exist when posts are submitted.
    """

    def __init__(
        self,
        ingest: IngestOptions,
        faces: FaceOptions,
        rows: int,
        *,
        exchange: ExchangeReport | None = None,
        fetchers: int = 1,
    ) -> None:
        self._ingest, self._faces, self._rows = ingest, faces, rows
        self._loop = _new_loop()
        self._batcher: ResultBatcher | None = None
        self._fetcher = Fetcher(ingest, exchange=exchange, fetchers=fetchers, on_error=self._fail)

    def __enter__(self) -> Self:
        # One thread fetches and one processes results. Each keeps the interpreter for longer before it switches.
        self._switching = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        # Host names are looked up in threads, so that a few dead name servers do not block the others.
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
        """Number of hosts that make requests wait."""

        async def count() -> int:
            return self._fetcher.hosts_waiting

        # Counted on the fetcher's thread, because that thread changes the data.
        return asyncio.run_coroutine_threadsafe(count(), self._loop).result()

    def batches(self, posts: pa.Table) -> Iterator[list[FetchResult]]:
        """Return the results of `posts` (schema `TO_FETCH`) as they come. A batch is empty if nothing came for 5 s."""
        limits = BatchLimits(self._rows, _ROOM // 4, _BATCH_SECONDS)

        def set_paused(paused: bool) -> None:
            self._loop.call_soon_threadsafe(self._fetcher.set_paused, paused)

        batcher = self._batcher = ResultBatcher(len(posts), limits, _ROOM, set_paused)
        columns = (posts[name].to_pylist() for name in ("post_id", "image_url", "deleted"))
        wanted = []
        for post_id, url, deleted in zip(*columns, strict=True):
            if deleted:
                batcher.put(deleted_result(post_id, url))
            else:
                wanted.append((post_id, url))
        self._loop.call_soon_threadsafe(self._submit, wanted, batcher.put)
        return batcher.batches()

    def stage_files(
        self, posts: pa.Table, prefix: str, writer: TableWriter, seen: Callable[[pa.Table], object] = len
    ) -> Iterator[StagedCounts]:
        """Fetch `posts`, examine the pictures' headers, and stage the rows in files of about `ingest.file_mb`.

        `seen` gets each batch of rows before its file is complete. Raises StageError if rows cannot be written.
        """
        batches = self.batches(posts)
        with picture_examiner(self._ingest, self._faces) as examine_pictures:
            for number, first in enumerate(filter(None, batches)):
                yield stage_rows(
                    f"{prefix}-{number:06d}", self._one_file(first, batches, examine_pictures, seen), writer
                )

    def _one_file(
        self,
        results: list[FetchResult] | None,
        batches: Iterator[list[FetchResult]],
        examine_pictures: ExaminePictures,
        seen: Callable[[pa.Table], object],
    ) -> Iterator[pa.Table]:
        """Yield rows as they come, until they fill a file or its time is over. Each piece is so small that its memory
        is reused for the next piece.
        """
        until, bytes_left = time.monotonic() + _FILE_SECONDS, self._ingest.file_mb * _MEGABYTE
        while results is not None:
            if results:
                images = images_table(fetched_table(results), examine_pictures)
                seen(images)
                yield images
                bytes_left -= images.nbytes
            results = next(batches, None) if bytes_left > 0 and time.monotonic() < until else None

    def _fail(self, error: BaseException) -> None:
        if self._batcher is not None:
            self._batcher.fail(error)

    def _submit(self, wanted: list[tuple[str, str]], on_result: OnResult) -> None:
        try:
            self._fetcher.submit(wanted, on_result)
        except Exception as error:
            self._fail(error)
        # Waiting requests live long, so the garbage collector need not check them again and again.
        gc.freeze()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # uvloop does not exist for Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
