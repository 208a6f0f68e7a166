"""Reads the rows that an unfinished run of `images/` has staged so far, and drops duplicate ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.ingest.counts import ImageCounts
from raypipe.ingest.image_rows import seconds_of
from raypipe.tables import TableWriter
from raypipe.tables.compact import read_parts, staged_parts
from raypipe.tables.schemas import IMAGES
from raypipe.tables.untrusted import read_parquet

_READERS = 8


def staged_columns(writer: TableWriter, columns: list[str]) -> pa.Table:
    """Return columns of all staged rows."""
    return read_parts(writer, pa.schema([IMAGES.field(name) for name in columns]))


def staged_ids(writer: TableWriter) -> pa.ChunkedArray:
    """Return the post_ids of all staged rows."""
    return staged_columns(writer, ["post_id"])["post_id"]


def count_staged(writer: TableWriter) -> ImageCounts:
    """Return counts over all staged rows, also those of earlier attempts, and the seconds spent on them."""
    image_counts = ImageCounts()
    image_counts.add(staged_columns(writer, list(ImageCounts.COLUMNS)))

    def seconds(name: str) -> dict[str, float]:
        path = writer.storage.path(writer.staging, name)
        with writer.storage.errors("read", f"{writer.staging}/{name}"):
            return seconds_of(pq.read_metadata(path, filesystem=writer.storage.filesystem).metadata)

    with ThreadPoolExecutor(_READERS) as pool:
        for spent in pool.map(seconds, staged_parts(writer)):
            image_counts.add_seconds(spent)
    return image_counts


def drop_duplicate_rows(writer: TableWriter, n_posts: int) -> int:
    """Drop rows that were staged twice. Returns how many.

    Ray may count a task as lost that still writes its unit, after another attempt has fetched the same posts. Each
    rewritten file replaces the old one in one step, so this can be repeated after a kill.
    """
    ids = staged_ids(writer)
    if len(ids) <= n_posts:
        return 0
    seen: set[str] = set()
    dropped = 0
    storage = writer.storage
    for name in staged_parts(writer):
        path = storage.path(writer.staging, name)
        with storage.errors("read", f"{writer.staging}/{name}"):
            mine = read_parquet(path, storage.filesystem, ["post_id"])["post_id"].to_pylist()
        keep = np.array([post_id not in seen for post_id in mine])
        seen.update(mine)
        if not keep.all():
            dropped += int((~keep).sum())
            with storage.errors("read", f"{writer.staging}/{name}"):
                rows = read_parquet(path, storage.filesystem)
            writer.rewrite(name, rows.filter(pa.array(keep)))
    return dropped
