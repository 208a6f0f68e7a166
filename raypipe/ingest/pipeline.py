"""The stage `ingest`: checks posts, fetches pictures and counts their faces.

On one machine, a process and its children do it (`local`). If Ray is wanted, it is one streaming pipeline on Ray Data.

Staged rows are identified by their post_ids, not by how the work was divided. If an attempt ends early, for any
reason, another attempt does the posts that have no row yet, in this process or in the next.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import Counter
from textwrap import shorten
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import ConfigError, RaypipeError, StageError, one_line
from raypipe.ingest.counts import failure_lines, funnel_text
from raypipe.ingest.duplicates import duplicate_groups
from raypipe.ingest.examine_fetched import needs_decoding
from raypipe.ingest.faces import check_detector, detector_inputs
from raypipe.ingest.image_rows import TO_FETCH, batch_rows, split_posts
from raypipe.ingest.local import fetch_locally, merge_locally, posts_to_fetch, progress_title, runs_without_ray
from raypipe.ingest.posts import ingest_posts
from raypipe.ingest.progress_text import FetchProgressText
from raypipe.ingest.redo import RedoPlan, plan_redo
from raypipe.ingest.staged_rows import count_staged, drop_duplicate_rows, staged_columns, staged_ids
from raypipe.progress import Progress, print_line
from raypipe.runtime import original_error, ray_session
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables.compact import delete_merged_sources, merge, merge_groups
from raypipe.tables.record import RunRecord

_QUEUED_BYTES, _QUEUED_BYTES_PER_CPU = 2**29, 2**26
_RETRIES = 3
_MAX_FAILED_ATTEMPTS = 3
DUPLICATES = "_duplicates"
"""Folder of `images/` with the table of `duplicate_groups`."""


def run(config: Config) -> RunRecord:
    """Check the posts of `config.posts`, or use the existing `posts/`. Then fetch their pictures and count faces.

    Writes `posts/` and `posts_rejected/` (with `config.posts`) and `images/` (unless `ingest.fetch` is false). Returns
    the record of the last. Raises InputError if the posts cannot be used. Raises StageError if there are no posts, if
    results of another run exist, or if rows cannot be written. Raises ConfigError if `faces` options are invalid.
    """
    if config.faces.only and config.ingest.retry:
        raise ConfigError("faces.only: cannot be combined with ingest.retry; use one, then the other")
    if config.faces.enabled:
        check_detector(config.faces)
    storage = config.open_storage()
    posts = ingest_posts(config) if config.posts else tables.get_record(storage, "posts")
    if not config.ingest.fetch:
        return posts
    return _ingest_images(config, storage, posts)


def _ingest_images(config: Config, storage: Storage, posts: RunRecord) -> RunRecord:
    tables.finish_commit(storage, "images")
    inputs = {"posts": posts.run_id} | detector_inputs(config.faces)
    redo = plan_redo(config, storage, inputs)
    run = tables.begin(
        storage,
        "images",
        command="ingest",
        config=redo.options if redo else config.result_options("ingest", "faces"),
        inputs=inputs,
        overwrite=config.overwrite,
        revision=redo.revision if redo else None,
    )
    with run:
        if run.record:
            return run.record
        started = time.monotonic()
        delete_merged_sources(run.writer)
        rows = tables.read_table(storage, "posts", TO_FETCH.names)
        if runs_without_ray(config):
            fetch_locally(config, rows, run.writer, redo)
            streamed = time.monotonic()
            merge_locally(config, run.writer)
        else:
            with ray_session(config):
                _fetch_on_ray(config, rows, run.writer, redo)
                streamed = time.monotonic()
                _merge(config, run.writer)
        image_counts = count_staged(run.writer)
        facts = image_counts.facts() | {"duplicates": _mark_duplicates(config, run.writer)}
        seconds = image_counts.seconds | {"wall": streamed - started, "finish": time.monotonic() - streamed}
        record = run.commit(rows_in=posts.rows_out, seconds=seconds, facts=facts)
    print_line(funnel_text(facts))
    for line in failure_lines(image_counts):
        print_line(line)
    return record


def _fetch_on_ray(config: Config, posts: pa.Table, writer: TableWriter, redo: RedoPlan | None) -> None:
    """Stage a row for each post that has none yet. After a lost worker or machine, another attempt follows."""
    import ray.data
    from ray.exceptions import RayError

    from raypipe.ingest.ray_host_budgets import start_host_budgets
    from raypipe.ingest.ray_workers import redo_group

    ingest = config.ingest
    failed_attempts = attempt = 0
    with Progress(progress_title(config), len(posts), "pictures") as progress, contextlib.ExitStack() as stack:
        progress_text, budget_actor = FetchProgressText(progress), None
        progress.resume_from(len(staged_ids(writer)))
        while True:
            done = staged_ids(writer)
            progress.set(len(done))
            before = len(done)
            groups_to_redo = redo.remaining_groups(done) if redo else []
            wanted = posts_to_fetch(posts, done, redo)
            if not len(wanted) and not groups_to_redo:
                break
            try:
                if groups_to_redo and redo:
                    work = functools.partial(redo_group, work=redo.stage_function(config, writer))
                    carried = _limit_memory(ray.data.from_arrow(groups_to_redo)).map_batches(
                        work, **_cpu_task_options(config)
                    )
                    _run_dataset(carried, progress, None)
                if len(wanted):
                    # Shared by all attempts, because it remembers the pauses of hosts.
                    budget_actor = budget_actor or stack.enter_context(
                        start_host_budgets(ingest.per_host, ingest.per_host_rate, progress_text.show_waiting_hosts)
                    )
                    attempt += 1
                    ray.get(budget_actor.begin.remote(attempt))
                    _run_dataset(_dataset(config, writer, wanted, budget_actor, attempt), progress, progress_text)
            except Exception as error:  # Ray wraps a worker's exception; the message shows the original
                first, where = original_error(error), writer.storage.uri("images")
                if isinstance(first, RaypipeError):
                    raise first from error
                if not isinstance(first, RayError):
                    raise StageError(f"{where}: unexpected {type(first).__name__}: {one_line(first)}") from error
                failed_attempts = 0 if len(staged_ids(writer)) > before else failed_attempts + 1
                if failed_attempts >= _MAX_FAILED_ATTEMPTS:
                    raise StageError(f"{where}: {one_line(first)}; run the same command again to continue") from error
                reason = shorten(one_line(first), 160, placeholder=" …")
                print_line(f"  a worker or a machine was lost ({reason}); continuing with the other posts")
    drop_duplicate_rows(writer, len(posts))


def _run_dataset(dataset: Any, progress: Progress, progress_text: FetchProgressText | None) -> None:
    for summary in dataset.iter_rows():
        if progress_text is not None:
            progress_text.add(summary["rows"], json.loads(summary["statuses"]))
        else:
            progress.advance(summary["rows"])


def _dataset(config: Config, writer: TableWriter, wanted: pa.Table, budget_actor: Any, attempt: int) -> Any:
    """Return a lazy Ray dataset with one row of numbers per unit. Running it does the work."""
    import ray.data
    from ray.data import ActorPoolStrategy

    from raypipe.ingest.ray_workers import FetchActor, examine_batch

    ingest, faces = config.ingest, config.faces
    machines = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    # A cluster that starts nodes on demand may have no CPUs yet.
    fetchers = min(ingest.fetchers or machines or 1, len(wanted))
    stream = _limit_memory(ray.data.from_arrow(split_posts(wanted, fetchers)))
    fetched = stream.map_batches(
        FetchActor,
        fn_constructor_args=(
            ingest,
            faces,
            batch_rows(len(wanted), ingest.block_rows),
            writer,
            budget_actor,
            fetchers,
            attempt,
        ),
        compute=ActorPoolStrategy(size=fetchers, max_tasks_in_flight_per_actor=1, enable_true_multi_threading=True),
        # Fetching mostly waits, so it takes no CPU from detection. But Ray spreads actors over the machines only if
        # they request some resource.
        num_cpus=0,
        memory=1,
        scheduling_strategy="SPREAD",
        # A restarted actor would fetch all its pictures again. Another attempt fetches only the rest.
        max_restarts=0,
        batch_size=None,
        batch_format="pyarrow",
    )
    if not needs_decoding(ingest, faces):
        return fetched
    examine_task = functools.partial(examine_batch, ingest=ingest, faces=faces, writer=writer)
    return fetched.map_batches(examine_task, **_cpu_task_options(config))


def _cpu_task_options(config: Config) -> dict[str, Any]:
    """Return the options of `map_batches` for tasks that take one CPU each."""
    from ray.data import TaskPoolStrategy

    return {
        "compute": TaskPoolStrategy(size=config.faces.workers),
        "num_cpus": 1,
        # By default, Ray retries for ever.
        "max_retries": _RETRIES,
        "batch_size": None,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
    }


def _limit_memory(stream: Any) -> Any:
    """Make each row a separate block, and limit the bytes that the dataset holds ahead of its slowest step."""
    import ray
    from ray.data import ExecutionResources

    stream.context.target_max_block_size = 1
    # By default, each task reads its memory maps every second, which costs 1% of the time of detection.
    stream.context.memory_usage_poll_interval_s = None
    cpus = int(ray.cluster_resources().get("CPU", 1))
    stream.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=_QUEUED_BYTES + cpus * _QUEUED_BYTES_PER_CPU
    )
    return stream


def _merge(config: Config, writer: TableWriter) -> None:
    """Merge many small files into files of about `ingest.file_mb`."""
    import ray

    groups = merge_groups(writer, config.ingest.file_mb * 2**20)
    if not groups:
        return
    task = ray.remote(merge).options(max_retries=_RETRIES)
    with Progress("Merging files", len(groups), "files") as progress:
        waiting = [task.remote(writer, names) for names in groups]
        while waiting:
            ready, waiting = ray.wait(waiting)
            ray.get(ready)
            progress.advance(len(ready))


def _mark_duplicates(config: Config, writer: TableWriter) -> dict[str, int]:
    """Stage the list of duplicates next to the rows. Returns the number of posts by kind, and of groups."""
    rows = staged_columns(writer, ["post_id", "sha256", "phash", "status"])
    good = rows.filter(pc.equal(rows["status"], "ok"))
    ids, files, phashes = (good[name].combine_chunks() for name in ("post_id", "sha256", "phash"))
    groups = duplicate_groups(ids, files, phashes, config.ingest.near)
    # In a separate folder, because these are not rows of the table.
    writer.write("all", groups, folder=DUPLICATES)
    kinds = Counter(groups["kind"].to_pylist())
    return {"exact": kinds["exact"], "near": kinds["near"], "groups": pc.count_distinct(groups["group"]).as_py()}
