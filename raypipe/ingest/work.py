"""What any process can do for `ingest`, a child of a pool or a Ray worker: look into a batch, stage rows.

Imports neither Ray nor the client that fetches: a child process starts sooner without them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from raypipe.config.data import FaceOptions, IngestOptions
from raypipe.ingest.examine import looking
from raypipe.ingest.units import Summary, images_table, seconds_metadata
from raypipe.tables import TableWriter
from raypipe.tables.schemas import IMAGES


def look_and_stage(
    batch: tuple[str, pa.Table], attempt: int, *, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter
) -> Summary:
    """Look into the pictures of a FETCHED table, and stage its rows as the unit that the batch names.

    After the first `attempt` each picture is looked into in a further process: one of them may have ended the first.
    """
    unit, fetched = batch
    with looking(ingest, faces, apart=attempt > 0) as look:
        images = images_table(fetched, look)
    return stage(unit, iter([images]), writer)


def stage(unit: str, images: Iterator[pa.Table], writer: TableWriter) -> Summary:
    """Stage rows of `images/` as one file; what was staged."""
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
        # Asked for when all rows are written, before the file is closed.
        summary.seconds["write"] = time.perf_counter() - started - waited
        return seconds_metadata(summary.seconds)

    writer.write_stream(unit, IMAGES, counted(), seconds)
    return summary
