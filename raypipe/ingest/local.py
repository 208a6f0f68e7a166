"""`ingest` without Ray: this process fetches, and its child processes examine the pictures and stage the rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.ingest.batch_fetcher import BatchFetcher
from raypipe.ingest.examine_and_stage import examine_and_stage
from raypipe.ingest.examine_fetched import needs_decoding
from raypipe.ingest.image_rows import batch_rows, fetched_table, split_posts
from raypipe.ingest.progress_text import FetchProgressText, call_every_second
from raypipe.ingest.redo import RedoPlan
from raypipe.ingest.staged_rows import drop_duplicate_rows, staged_ids
from raypipe.processes.pool import Pool, cpus
from raypipe.progress import Progress
from raypipe.runtime import should_use_ray
from raypipe.tables import TableWriter
from raypipe.tables.compact import merge, merge_groups


def runs_without_ray(config: Config) -> bool:
    """Whether this machine works without Ray: neither Ray nor several fetchers are wanted."""
    return not should_use_ray(config) and (config.ingest.fetchers or 1) == 1


def progress_title(config: Config) -> str:
    """Return the title of the progress bar."""
    return "Counting faces" if config.faces.only else "Fetching pictures"


def posts_to_fetch(posts: pa.Table, done: pa.ChunkedArray, redo: RedoPlan | None) -> pa.Table:
    """Return the posts that must be fetched and have no staged row yet."""
    wanted = posts.filter(pc.is_in(posts["post_id"], redo.ids_to_fetch)) if redo else posts
    return wanted.filter(pc.invert(pc.is_in(wanted["post_id"], done))) if len(done) else wanted


def fetch_locally(config: Config, posts: pa.Table, writer: TableWriter, redo: RedoPlan | None = None) -> None:
    """Stage a row of `images/` for each of `posts` that has none yet. With `redo`, carry over or redo the old rows.

    Raises StageError if rows cannot be written, or if a child process ends again and again.
    """
    done = staged_ids(writer)
    with Progress(progress_title(config), len(posts), "pictures") as progress:
        progress.resume_from(len(done))
        if redo and (groups := redo.remaining_groups(done)):
            with Pool(redo.stage_function(config, writer), _children(config, len(groups))) as pool:
                for summary in pool.map(groups):
                    progress.advance(summary.rows)
        if len(wanted := posts_to_fetch(posts, done, redo)):
            _fetch(config, wanted, writer, FetchProgressText(progress))
    # An attempt on Ray may have been killed before it dropped its duplicate rows.
    drop_duplicate_rows(writer, len(posts))


def _fetch(config: Config, wanted: pa.Table, writer: TableWriter, progress_text: FetchProgressText) -> None:
    rows = batch_rows(len(wanted), config.ingest.block_rows)
    with (
        BatchFetcher(config.ingest, config.faces, rows) as fetcher,
        call_every_second(lambda: progress_text.show_waiting_hosts(fetcher.hosts_waiting)),
    ):
        if not needs_decoding(config.ingest, config.faces):
            for shard in split_posts(wanted, 1):
                for _ in fetcher.stage_files(shard, shard["prefix"][0].as_py(), writer, progress_text.add_table):
                    pass
            return
        work = functools.partial(examine_and_stage, ingest=config.ingest, faces=config.faces, writer=writer)
        with Pool(work, _children(config, -(-len(wanted) // rows))) as pool:
            for shard in split_posts(wanted, 1):
                for summary in pool.map(_batches(fetcher, shard)):
                    progress_text.add(summary.rows, summary.statuses)


def _batches(fetcher: BatchFetcher, shard: pa.Table) -> Iterator[tuple[str, pa.Table] | None]:
    """Yield units of FETCHED tables, and None while no results come."""
    number, prefix = 0, shard["prefix"][0].as_py()
    for results in fetcher.batches(shard):
        yield (f"{prefix}-{number:06d}", fetched_table(results)) if results else None
        number += bool(results)


def _children(config: Config, n_units: int) -> int:
    return min(config.faces.workers or config.ray.num_cpus or cpus(), n_units)


def merge_locally(config: Config, writer: TableWriter) -> None:
    """Merge many small files into files of about `ingest.file_mb`."""
    for names in merge_groups(writer, config.ingest.file_mb * 2**20):
        merge(writer, names)
