"""Work of `ingest` in any process, a child of a pool or a Ray worker: examine a batch, stage rows.

Imports neither Ray nor the HTTP client, so that a child process starts faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.ingest.examine import looking
from raypipe.ingest.units import Summary, images_table, seconds_metadata
from raypipe.tables import TableWriter
from raypipe.tables.schemas import IMAGES


def look_and_stage(
    batch: tuple[str, pa.Table], attempt: int, *, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter
) -> Summary:
    """Examine the pictures of a FETCHED table and stage its rows as the unit that `batch` names.

    After the first `attempt`, the pictures are examined in a child process, because one may have ended the last worker.
    """
    unit, fetched = batch
    with looking(ingest, faces, apart=attempt > 0) as look:
        images = images_table(fetched, look)
    return stage(unit, iter([images]), writer)


def stage(unit: str, images: Iterator[pa.Table], writer: TableWriter) -> Summary:
    """Stage rows of `images/` as one file. Returns their counts."""
    summary, started = Summary(), time.perf_counter()
    waited = 0.0

    def counted() -> Iterator[pa.Table]:
        nonlocal waited
        while True:
            asked = time.perf_counter()
            table = next(images, None)
            waited += time.perf_counter() - asked
            if table is None:
                return
            summary.add(table)
            yield table.replace_schema_metadata(None)

    def seconds() -> dict[bytes, bytes]:
        # Called after all rows are written, before the file is closed.
        summary.seconds["write"] = time.perf_counter() - started - waited
        return seconds_metadata(summary.seconds)

    writer.write_stream(unit, IMAGES, counted(), seconds)
    return summary
