"""Turns fetch results into rows of `images/`, as Arrow tables, in units that are examined and written together."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.ingest.examine_fetched import ExaminePictures
from raypipe.ingest.fetching.hosts import host_of
from raypipe.tables.compact import SECONDS_KEY
from raypipe.tables.schemas import IMAGES

if TYPE_CHECKING:
    from raypipe.ingest.fetching.client import FetchResult

TO_FETCH = pa.schema(
    [pa.field("post_id", pa.string()), pa.field("image_url", pa.string()), pa.field("deleted", pa.bool_())]
)
"""Schema of the posts to fetch."""

_SHARD_ROWS = 500_000
_FEWEST_ROWS, _BATCHES_AT_LEAST = 16, 64

STEPS = ("fetch", "decode", "detect", "write")
"""Steps whose seconds are recorded, summed over processes; those of `fetch` also over parallel requests."""

_FETCH_COLUMNS = ("post_id", "url", "status", "http_status", "attempts", "error", "host", "fetched_at")
_PICTURE_COLUMNS = ("sha256", "phash", "n_bytes", "width", "height", "format")
FETCHED = pa.schema(
    [
        *(IMAGES.field(name) for name in _FETCH_COLUMNS),
        pa.field("body", pa.binary()),
        pa.field("seconds", pa.float64()),
    ]
)
"""Schema of fetch results: the first columns of `images/`, the bytes received, and the seconds per picture."""


def batch_rows(n_posts: int, block_rows: int) -> int:
    """Return the pictures per batch: `block_rows`, or fewer if there are few posts, so that all CPUs get some."""
    return min(block_rows, max(_FEWEST_ROWS, -(-n_posts // _BATCHES_AT_LEAST)))


def split_posts(wanted: pa.Table, fetchers: int) -> list[pa.Table]:
    """Divide the posts among the fetchers. The column `prefix` of a shard is the prefix of its units' names."""
    n_shards = max(fetchers, -(-len(wanted) // _SHARD_ROWS))
    attempt = f"{time.time_ns() // 1_000_000:012x}"
    found = []
    for number in range(n_shards):
        rows = wanted.select(TO_FETCH.names).take(pa.array(range(number, len(wanted), n_shards))).combine_chunks()
        found.append(rows.append_column("prefix", pa.repeat(pa.scalar(f"{attempt}-{number:03d}"), len(rows))))
    return found


def fetched_table(results: Sequence[FetchResult]) -> pa.Table:
    """Return results as a FETCHED table, in the same order."""
    columns = [pa.array([getattr(r, field.name) for r in results], field.type) for field in FETCHED]
    return pa.table(columns, schema=FETCHED)


def deleted_result(post_id: str, url: str) -> FetchResult:
    """Return the result for a post that was deleted at the revisit: it is not fetched."""
    # Processes that only examine pictures import this module, but must not import aiohttp.
    from raypipe.ingest.fetching.client import FetchResult

    return FetchResult(post_id, url, "deleted", None, 0, None, host_of(url), None, None, 0.0)


def stored_table(images: pa.Table) -> pa.Table:
    """Return rows of `images/` as the FETCHED table that they came from, so that they can be examined again."""
    columns: list[Any] = [images[name] for name in _FETCH_COLUMNS]
    return pa.table([*columns, images["image"], pa.repeat(pa.scalar(0.0), len(images))], schema=FETCHED)


def images_table(fetched: pa.Table, examine_pictures: ExaminePictures) -> pa.Table:
    """Return the rows of `images/` for a FETCHED table. `picture_examiner` gives `examine_pictures`.

    If a picture cannot be decoded, the status of its row says so. Bytes are kept only of good pictures. The
    schema's metadata has the seconds of each step.
    """
    statuses = fetched["status"].to_pylist()
    bodies = fetched["body"].combine_chunks() if fetched["body"].num_chunks != 1 else fetched["body"].chunk(0)
    whole = [i for i, status in enumerate(statuses) if status == "ok"]
    views = [memoryview(bodies[i].as_buffer()) for i in whole]
    found = examine_pictures(views)
    examined: list[Any] = [None] * len(statuses)
    for i, what in zip(whole, found, strict=True):
        examined[i] = what
    status = [
        result.picture.status if result else fetched_value
        for fetched_value, result in zip(statuses, examined, strict=True)
    ]
    error = [
        result.error if result else fetched_value
        for fetched_value, result in zip(fetched["error"].to_pylist(), examined, strict=True)
    ]
    kept = pc.equal(pa.array(status), "ok")
    columns: dict[str, Any] = {name: fetched[name] for name in _FETCH_COLUMNS} | {
        name: [getattr(result.picture, name) if result else None for result in examined] for name in _PICTURE_COLUMNS
    }
    columns |= {
        "status": status,
        "error": error,
        "image": bodies if pc.all(kept).as_py() else pc.if_else(kept, bodies, pa.scalar(None, pa.binary())),
        "faces": [result and result.faces for result in examined],
        "n_faces": [len(result.faces) if result and result.faces is not None else None for result in examined],
    }
    table = pa.table([_typed(columns[field.name], field.type) for field in IMAGES], schema=IMAGES)
    seconds = {
        "fetch": pc.sum(fetched["seconds"]).as_py() or 0.0,
        "decode": sum(result.decode_seconds for result in found),
        "detect": sum(result.detect_seconds for result in found),
    }
    return table.replace_schema_metadata(seconds_metadata(seconds))


def _typed(values: Any, kind: pa.DataType) -> Any:
    return pa.array(values, kind) if isinstance(values, list) else values


def seconds_of(metadata: Mapping[bytes, bytes] | None) -> dict[str, float]:
    """Return the seconds by step from the metadata of a table or file."""
    found: dict[str, float] = json.loads((metadata or {}).get(SECONDS_KEY, b"{}"))
    return found


def seconds_metadata(seconds: Mapping[str, float]) -> dict[bytes, bytes]:
    """Return the seconds by step as metadata for a schema or file."""
    return {SECONDS_KEY: json.dumps({step: round(value, 4) for step, value in seconds.items()}).encode()}


class StagedCounts:
    """Counts of staged rows, for the driver."""

    def __init__(self) -> None:
        self.rows = 0
        self.n_bytes = 0
        self.statuses: Counter[str] = Counter()
        self.seconds = dict.fromkeys(STEPS, 0.0)

    def add(self, images: pa.Table) -> None:
        """Add rows of `images/` and the seconds in their metadata."""
        self.rows += len(images)
        self.n_bytes += pc.sum(images["n_bytes"]).as_py() or 0
        self.statuses.update(images["status"].to_pylist())
        for step, value in seconds_of(images.schema.metadata).items():
            self.seconds[step] += value

    def row(self) -> pa.Table:
        """Return one row: number of rows, counts by status as JSON, bytes, and seconds by step."""
        columns = {"rows": self.rows, "statuses": json.dumps(self.statuses), "n_bytes": self.n_bytes, **self.seconds}
        return pa.Table.from_pylist([columns])
