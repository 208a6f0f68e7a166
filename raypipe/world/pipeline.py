"""The stage `world`: writes `posts/`, `truth/` and `pictures/` (drawn on all CPUs) or `images/` without bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from raypipe import tables
from raypipe.config import Config
from raypipe.processes.pool import Pool, cpus
from raypipe.progress import Progress, print_line
from raypipe.runtime import ray_session, should_use_ray
from raypipe.storage import Storage
from raypipe.tables import TableRun, TableWriter
from raypipe.tables.record import RunRecord
from raypipe.world.pictures import DrawingUnit, draw_and_stage, drawing_units, images_without_bytes
from raypipe.world.posts import HOST, GeneratedPosts, generate_posts
from raypipe.world.server import check_port, run_loop, serve
from raypipe.world.truth import TRUTH_FILE, describe_truth, expected_judge_accuracy, truth_table

_ROWS_A_FILE = 50_000
_UNITS_IN_FLIGHT_A_CPU = 2


def run(config: Config) -> RunRecord:
    """Generate the world of `config.world` and `config.seed` under the root. Returns the record of `posts/`.

    Writes `posts/`, `truth/` with ``_truth.json``, and `pictures/` (with `world.images`) or `images/` (without). With
    `world.serve` it then serves them on 127.0.0.1 until SIGINT or SIGTERM. Raises InputError if the coefficients give
    a post more than 10^12 likes. Raises StageError if the port is taken or the root has another world.
    """
    storage, options = config.open_storage(), config.world
    if options.serve:
        check_port(options.port)
    started = time.monotonic()
    posts = generate_posts(options, config.seed)
    generating = {"generate": time.monotonic() - started}
    record = _write_posts(config, storage, posts, generating)
    truth = _write_truth(config, storage, posts, record)
    if options.images:
        _write_pictures(config, storage, posts, truth)
    else:
        _write_images_without_bytes(config, storage, posts, record)
    _print_summary(config, posts)
    if options.serve:
        print_line(f"Serving {storage.root} at http://{HOST}:{options.port} until Ctrl-C (see /stats)")
        run_loop(serve(storage, options.port))
    return record


def _begin(config: Config, storage: Storage, table: str, inputs: Mapping[str, str]) -> TableRun:
    options = config.result_options("seed", "world")
    return tables.begin(storage, table, command="world", config=options, inputs=inputs, overwrite=config.overwrite)


def _write_posts(config: Config, storage: Storage, posts: GeneratedPosts, seconds: Mapping[str, float]) -> RunRecord:
    with _begin(config, storage, "posts", {}) as run:
        if run.record:
            return run.record
        writing = _write_all(run.writer, posts, posts.table, "Writing posts")
        facts: dict[str, Any] = {"funnel": posts.counts.as_dict()}
        return run.commit(rows_in=posts.counts.posts, seconds={**seconds, "write": writing}, facts=facts)


def _write_truth(config: Config, storage: Storage, posts: GeneratedPosts, source: RunRecord) -> RunRecord:
    with _begin(config, storage, "truth", {"posts": source.run_id}) as run:
        if run.record:
            return run.record
        make = partial(truth_table, posts, config.world.misbehave)
        writing = _write_all(run.writer, posts, make, "Writing truth")
        truth = describe_truth(config.world, config.seed, posts.counts)
        run.writer.write_file(TRUTH_FILE, truth.model_dump_json(indent=2).encode())
        return run.commit(rows_in=posts.counts.posts, seconds={"write": writing})


def _write_images_without_bytes(
    config: Config, storage: Storage, posts: GeneratedPosts, source: RunRecord
) -> RunRecord:
    with _begin(config, storage, "images", {"posts": source.run_id}) as run:
        if run.record:
            return run.record
        writing = _write_all(run.writer, posts, partial(images_without_bytes, posts), "Writing face counts")
        statuses = {"ok": posts.counts.present, "deleted": posts.counts.deleted}
        return run.commit(rows_in=posts.counts.posts, seconds={"write": writing}, facts={"statuses": statuses})


def _write_all(writer: TableWriter, posts: GeneratedPosts, make: Callable[[int, int], pa.Table], title: str) -> float:
    """Write all posts, 50,000 rows per file. Returns the seconds it took."""
    started, n, done = time.monotonic(), posts.counts.posts, writer.units_done()
    with Progress(title, n, "posts") as progress:
        for number, start in enumerate(range(0, n, _ROWS_A_FILE)):
            stop, unit = min(n, start + _ROWS_A_FILE), f"{number:06d}"
            if unit not in done:
                writer.write(unit, make(start, stop))
            progress.advance(stop - start)
    return time.monotonic() - started


def _write_pictures(config: Config, storage: Storage, posts: GeneratedPosts, source: RunRecord) -> RunRecord:
    with _begin(config, storage, "pictures", {"truth": source.run_id}) as run:
        if run.record:
            return run.record
        started = time.monotonic()
        done = run.writer.units_done()
        with Progress("Drawing pictures", posts.counts.present, "pictures") as progress:
            waiting = []
            for drawing_unit in drawing_units(posts):
                if drawing_unit.unit in done:
                    progress.advance(len(drawing_unit.post_ids))
                else:
                    waiting.append(drawing_unit)
            _draw_pictures(config, run.writer, waiting, progress)
        deleted = {"deleted": posts.counts.deleted} if posts.counts.deleted else {}
        seconds = {"draw": time.monotonic() - started}
        return run.commit(rows_in=posts.counts.posts, dropped=deleted, seconds=seconds)


def _draw_pictures(config: Config, writer: TableWriter, waiting: list[DrawingUnit], progress: Progress) -> None:
    if not waiting:
        return
    if should_use_ray(config):
        with ray_session(config):
            _draw_on_ray(writer, waiting, config.seed, progress)
        return
    work = partial(draw_and_stage, seed=config.seed, writer=writer)
    with Pool(work, min(config.ray.num_cpus or cpus(), len(waiting))) as pool:
        for n in pool.map(waiting):
            progress.advance(n)


def _draw_on_ray(writer: TableWriter, waiting: list[DrawingUnit], seed: int, progress: Progress) -> None:
    import ray

    def work(drawing_unit: DrawingUnit) -> int:
        return draw_and_stage(drawing_unit, 0, seed=seed, writer=writer)

    task = ray.remote(num_cpus=1)(work)
    most = _UNITS_IN_FLIGHT_A_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    remaining = iter(waiting)
    running: list[ray.ObjectRef[int]] = []
    # Few tasks at a time: a world of the paper's size has thousands of units, and Ctrl-C should not leave them queued.
    while True:
        while len(running) < most and (drawing_unit := next(remaining, None)) is not None:
            running.append(task.remote(drawing_unit))
        if not running:
            return
        ready, running = ray.wait(running, num_returns=1)
        for n in ray.get(ready):
            progress.advance(n)


def _print_summary(config: Config, posts: GeneratedPosts) -> None:
    counts, options, quantile = posts.counts, config.world, config.label.quantile
    print_line(
        f"World: {counts.posts:,} posts, {counts.deleted:,} deleted, {counts.with_face:,} with a face, "
        f"{counts.one_face:,} with exactly one; {counts.users:,} users, {counts.comments:,} comments"
    )
    accuracy = expected_judge_accuracy(options.effect, options.noise, quantile)
    print_line(f"A perfect judge of the picture is right on {accuracy:.1%} of the top and bottom {quantile:.0%}")
