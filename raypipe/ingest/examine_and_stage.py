"""Work of `ingest` in any process, a child of a pool or a Ray worker: examine a batch, stage rows.

Imports neither Ray nor the HTTP client, so that a child process starts faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.ingest.examine_fetched import picture_examiner
from raypipe.ingest.image_rows import StagedCounts, images_table, seconds_metadata
from raypipe.tables import TableWriter
from raypipe.tables.schemas import IMAGES


def examine_and_stage(
    batch: tuple[str, pa.Table], attempt: int, *, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter
) -> StagedCounts:
    """Examine the pictures of a FETCHED table and stage its rows as the unit that `batch` names.

    After the first `attempt`, the pictures are examined in a child process, because one may have ended the last worker.
    """
    unit, fetched = batch
    with picture_examiner(ingest, faces, isolated=attempt > 0) as examine_pictures:
        images = images_table(fetched, examine_pictures)
    return stage_rows(unit, iter([images]), writer)


def stage_rows(unit: str, images: Iterator[pa.Table], writer: TableWriter) -> StagedCounts:
    """Stage rows of `images/` as one file. Returns their counts."""
    summary, started = StagedCounts(), time.perf_counter()
    waited = 0.0

    def count_tables() -> Iterator[pa.Table]:
        nonlocal waited
        while True:
            wait_started = time.perf_counter()
            table = next(images, None)
            waited += time.perf_counter() - wait_started
            if table is None:
                return
            summary.add(table)
            yield table.replace_schema_metadata(None)

    def seconds() -> dict[bytes, bytes]:
        # Called after all rows are written, before the file is closed.
        summary.seconds["write"] = time.perf_counter() - started - waited
        return seconds_metadata(summary.seconds)

    writer.write_stream(unit, IMAGES, count_tables(), seconds)
    return summary
