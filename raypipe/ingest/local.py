"""`ingest` without Ray: this process fetches, and children of it look into what came and stage the rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.ingest.examine import decodes
from raypipe.ingest.progress_text import Note, every_second
from raypipe.ingest.redo import Redo
from raypipe.ingest.shard import ShardFetcher
from raypipe.ingest.staged import drop_doubles, staged_ids
from raypipe.ingest.units import batch_rows, fetched_table, shards
from raypipe.ingest.work import look_and_stage
from raypipe.processes.pool import Pool, cpus
from raypipe.progress import Progress
from raypipe.runtime import wants_ray
from raypipe.tables import TableWriter
from raypipe.tables.compact import merge, merge_plan


def is_enough(config: Config) -> bool:
    """Whether this machine does it without Ray: Ray is not wanted, nor several fetchers."""
    return not wants_ray(config) and (config.ingest.fetchers or 1) == 1


def title(config: Config) -> str:
    """What the progress is of."""
    return "Counting faces" if config.faces.only else "Fetching pictures"


def unfetched(posts: pa.Table, done: pa.ChunkedArray, redo: Redo | None) -> pa.Table:
    """Those of the posts that are to be fetched and have no staged row yet."""
    wanted = posts.filter(pc.is_in(posts["post_id"], redo.asked)) if redo else posts
    return wanted.filter(pc.invert(pc.is_in(wanted["post_id"], done))) if len(done) else wanted


def fetch_here(config: Config, posts: pa.Table, writer: TableWriter, redo: Redo | None = None) -> None:
    """Stage a row of `images/` for every one of `posts` that has none yet; with `redo`, carry over or redo its rows.

    Raises StageError if rows cannot be written, or a child process ends again and again.
    """
    done = staged_ids(writer)
    with Progress(title(config), len(posts), "pictures") as progress:
        progress.begin(len(done))
        if redo and (groups := redo.left(done)):
            with Pool(redo.work(config, writer), _children(config, len(groups))) as pool:
                for summary in pool.map(groups):
                    progress.advance(summary.rows)
        if len(wanted := unfetched(posts, done, redo)):
            _fetch(config, wanted, writer, Note(progress))
    # An attempt on Ray may have been killed before it had dropped its own.
    drop_doubles(writer, len(posts))


def _fetch(config: Config, wanted: pa.Table, writer: TableWriter, note: Note) -> None:
    rows = batch_rows(len(wanted), config.ingest.block_rows)
    with (
        ShardFetcher(config.ingest, config.faces, rows) as fetcher,
        every_second(lambda: note.hosts(fetcher.hosts_waiting)),
    ):
        if not decodes(config.ingest, config.faces):
            for shard in shards(wanted, 1):
                for _ in fetcher.stage_files(shard, shard["prefix"][0].as_py(), writer, note.add_table):
                    pass
            return
        work = functools.partial(look_and_stage, ingest=config.ingest, faces=config.faces, writer=writer)
        with Pool(work, _children(config, -(-len(wanted) // rows))) as pool:
            for shard in shards(wanted, 1):
                for summary in pool.map(_batches(fetcher, shard)):
                    note.add(summary.rows, summary.statuses)


def _batches(fetcher: ShardFetcher, shard: pa.Table) -> Iterator[tuple[str, pa.Table] | None]:
    """Units of FETCHED tables; None while nothing comes."""
    number, prefix = 0, shard["prefix"][0].as_py()
    for results in fetcher.batches(shard):
        yield (f"{prefix}-{number:06d}", fetched_table(results)) if results else None
        number += bool(results)


def _children(config: Config, n_units: int) -> int:
    return min(config.faces.workers or config.ray.num_cpus or cpus(), n_units)


def merge_here(config: Config, writer: TableWriter) -> None:
    """Make files of about `ingest.file_mb` out of many small ones."""
    for names in merge_plan(writer, config.ingest.file_mb * 2**20):
        merge(writer, names)
