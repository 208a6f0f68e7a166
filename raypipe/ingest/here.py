"""Fetching in this process, without Ray: where one process is enough and nobody watches through Ray."""

from __future__ import annotations

import os
import sys

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import Config
from raypipe.ingest.look import decodes
from raypipe.ingest.note import Note, every_second
from raypipe.ingest.shard import ShardFetcher
from raypipe.ingest.staged import drop_doubles, staged_ids
from raypipe.ingest.units import batch_rows, shards
from raypipe.parts import merge, merge_plan
from raypipe.progress import Progress
from raypipe.tables import TableWriter


def is_enough(config: Config) -> bool:
    """Whether one process does: nothing is decoded, Ray's dashboard is not wanted, and there is no Ray to join."""
    ray = sys.modules.get("ray")
    joined = bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())
    several = (config.ingest.fetchers or 1) > 1
    return not (decodes(config.ingest, config.faces) or config.ray.dashboard or joined or several)


def fetch_here(config: Config, posts: pa.Table, writer: TableWriter) -> None:
    """Stage a row of `images/` for every one of `posts` that has none yet."""
    done = staged_ids(writer)
    wanted = posts.filter(pc.invert(pc.is_in(posts["post_id"], done)))
    rows = batch_rows(len(wanted), config.ingest.block_rows)
    with Progress("Fetching pictures", len(posts), "pictures") as progress:
        note = Note(progress)
        progress.begin(len(done))
        with (
            ShardFetcher(config.ingest, config.faces, rows) as fetcher,
            every_second(lambda: note.hosts(fetcher.hosts_waiting)),
        ):
            for shard in shards(wanted, 1) if len(wanted) else []:
                for _ in fetcher.stage_files(shard, shard["prefix"][0].as_py(), writer, note.add_table):
                    pass
    # An attempt on Ray may have been killed before it had dropped its own.
    drop_doubles(writer, len(posts))


def merge_here(config: Config, writer: TableWriter) -> None:
    """Make files of about `ingest.file_mb` out of many small ones."""
    for names in merge_plan(writer, config.ingest.file_mb * 2**20):
        merge(writer, names)
