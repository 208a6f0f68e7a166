"""The stage `ingest`: posts checked, pictures fetched and their faces counted in one streaming pipeline on Ray Data."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from raypipe import tables
from raypipe.config import Config, FaceOptions, IngestOptions
from raypipe.errors import RaypipeError, StageError, one_line
from raypipe.ingest.faces import FaceDetector
from raypipe.ingest.fetch import Fetcher
from raypipe.ingest.posts import ingest_posts
from raypipe.ingest.tally import Tally, failures_in_words, funnel_in_words
from raypipe.ingest.units import Times, fetch_unit, images_table, orders, unit_rows
from raypipe.progress import Progress, say
from raypipe.records import RunRecord
from raypipe.runtime import cause, ray_session
from raypipe.storage import Storage
from raypipe.tables import TableWriter

_FEWEST_UNITS_IN_FLIGHT = 8
_BYTES_AHEAD, _BYTES_AHEAD_A_CPU = 2**29, 2**26
_RETRIES = 3
_STEPS = ("fetch", "decode", "detect", "write")


def run(config: Config) -> RunRecord:
    """Check the posts of `config.posts`, or take the root's own `posts/`; fetch their pictures and count faces.

    Writes `posts/` and `posts_rejected/` (with `config.posts`) and `images/` (unless `ingest.fetch` is false); returns
    the record of the last. Raises InputError where the posts cannot be used, StageError where there are none, another
    run's results stand there, or a picture's row cannot be written.
    """
    storage = config.open_storage()
    posts = ingest_posts(config) if config.posts else tables.get_record(storage, "posts")
    if not config.ingest.fetch:
        return posts
    return _ingest_images(config, storage, posts)


def _ingest_images(config: Config, storage: Storage, posts: RunRecord) -> RunRecord:
    run = tables.begin(
        storage,
        "images",
        command="ingest",
        config=config.result_options("ingest", "faces"),
        inputs={"posts": posts.run_id},
        overwrite=config.overwrite,
    )
    with run:
        if run.record:
            return run.record
        started = time.monotonic()
        spent = _stream(config, storage, run.writer)
        tally = _tally(run.writer)
        facts = tally.facts() | {"work_seconds": spent}
        seconds = {"fetch_and_detect": time.monotonic() - started}
        record = run.commit(rows_in=posts.rows_out, seconds=seconds, facts=facts)
    say(funnel_in_words(facts))
    for line in failures_in_words(tally):
        say(line)
    return record


def _stream(config: Config, storage: Storage, writer: TableWriter) -> dict[str, float]:
    """Fetch, look into and stage every unit that is not staged yet; seconds by step, summed over workers."""
    posts = tables.read_table(storage, "posts", ["post_id", "image_url", "deleted"])
    rows, done = unit_rows(len(posts), config.ingest.block_rows), writer.units_done()
    waiting = [order for unit, order in orders(posts, rows) if unit not in done]
    left = sum(map(len, waiting))
    spent = dict.fromkeys(_STEPS, 0.0)
    title = "Fetching pictures, counting faces" if config.faces.enabled else "Fetching pictures"
    with ray_session(config), Progress(title, len(posts), "pictures") as progress:
        progress.set(len(posts) - left)
        if not waiting:
            return spent
        good = seen = 0
        try:
            for summary in _dataset(config, writer, waiting, rows).iter_rows():
                seen, good = seen + summary["rows"], good + summary["ok"]
                for step in _STEPS:
                    spent[step] += summary[step]
                progress.advance(summary["rows"], f"{good / seen:.0%} ok")
        except Exception as error:  # Ray wraps whatever a worker met; the line shows what that was
            first = cause(error)
            if isinstance(first, RaypipeError):
                raise first from error
            where = storage.uri("images")
            raise StageError(f"{where}: {one_line(first)}; the same command goes on where it stopped") from error
    return {step: round(value, 3) for step, value in spent.items()}


def _dataset(config: Config, writer: TableWriter, waiting: list[pa.Table], rows: int) -> Any:
    """A lazy Ray dataset with a row of numbers a unit; running it does the work."""
    import ray.data
    from ray.data import ActorPoolStrategy, ExecutionResources, TaskPoolStrategy

    ingest, faces = config.ingest, config.faces
    # Each fetcher has its share of a host's budget, so there are never more of them than requests allowed.
    fetchers = min(ingest.fetchers, ingest.per_host)
    at_a_time = max(_FEWEST_UNITS_IN_FLIGHT, -(-2 * ingest.fan_out // rows))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    stream = ray.data.from_arrow(waiting)
    # A unit is one block all the way, whatever its bytes: its file is written whole, once.
    stream.context.target_max_block_size = None
    # How far fetching may run ahead of detection, and how much a kill may cost.
    stream.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=_BYTES_AHEAD + cpus * _BYTES_AHEAD_A_CPU
    )
    fetched = stream.map_batches(
        _FetchUnits,
        fn_constructor_args=(ingest, 1.0 / fetchers),
        compute=ActorPoolStrategy(
            size=fetchers,
            max_tasks_in_flight_per_actor=at_a_time,
            max_concurrent_calls_per_actor=at_a_time,
            enable_true_multi_threading=True,
        ),
        # Fetching waits more than it works: it takes no CPU from detection.
        num_cpus=0,
        batch_size=None,
        batch_format="pyarrow",
    )
    return fetched.map_batches(
        functools.partial(_finish_unit, ingest=ingest, faces=faces, writer=writer),
        compute=TaskPoolStrategy(size=faces.workers),
        num_cpus=1,
        # Ray's default is for ever: a picture that ends its decoder natively would be tried until someone looks.
        max_retries=_RETRIES,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
    )


class _FetchUnits:
    """A fetch actor: one client on an event loop of its own, which all units in flight share."""

    def __init__(self, options: IngestOptions, share: float) -> None:
        self._loop = _new_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._fetcher = self._wait_for(Fetcher(options, share=share).__aenter__())

    def __call__(self, order: pa.Table) -> pa.Table:
        return self._wait_for(fetch_unit(order, self._fetcher))

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@functools.cache
def _detector(options: FaceOptions) -> FaceDetector | None:
    return FaceDetector(options) if options.enabled else None


def _finish_unit(fetched: pa.Table, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter) -> pa.Table:
    unit = fetched["unit"][0].as_py()
    times = Times()
    images = images_table(fetched, ingest, faces, _detector(faces), times)
    started = time.perf_counter()
    writer.write(unit, images)
    return pa.table(
        {
            "unit": [unit],
            "rows": [len(images)],
            "ok": [images["status"].to_pylist().count("ok")],
            "fetch": [sum(fetched["seconds"].to_pylist())],
            "decode": [times.decode],
            "detect": [times.detect],
            "write": [time.perf_counter() - started],
        }
    )


def _tally(writer: TableWriter) -> Tally:
    """Counts over all staged units, those of earlier attempts too."""
    storage, tally = writer.storage, Tally()
    paths = [storage.path(writer.staging, writer.part_name(unit)) for unit in sorted(writer.units_done())]
    if paths:
        staged = pads.dataset(paths, filesystem=storage.filesystem, format="parquet")
        for batch in staged.to_batches(columns=list(tally.COLUMNS)):
            tally.add(pa.Table.from_batches([batch]))
    return tally
