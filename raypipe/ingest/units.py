"""Units of work: some posts whose pictures are fetched, looked into and written together, as Arrow tables all the way.

`orders` → `fetched_table` → `images_table`: a row a post at each step, whatever happens to its picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import FaceOptions, IngestOptions
from raypipe.errors import one_line
from raypipe.ingest.faces import FaceDetector
from raypipe.ingest.fetch import Fetcher, FetchResult, host_of
from raypipe.ingest.pictures import Picture, examine
from raypipe.schemas import IMAGES

_FEWEST_ROWS = 16
_UNITS_AT_LEAST = 64

ORDER = pa.schema(
    [
        pa.field("unit", pa.string()),
        pa.field("post_id", pa.string()),
        pa.field("image_url", pa.string()),
        pa.field("deleted", pa.bool_()),
    ]
)
"""What is asked of one unit: its posts."""

_ANSWERED = ("post_id", "url", "status", "http_status", "attempts", "error", "host", "fetched_at")
FETCHED = pa.schema(
    [
        pa.field("unit", pa.string()),
        *(IMAGES.field(name) for name in _ANSWERED),
        pa.field("body", pa.binary()),
        pa.field("seconds", pa.float64()),
    ]
)
"""What came of asking: the first columns of `images/`, the bytes that arrived, and the seconds each took."""


def unit_rows(n_posts: int, block_rows: int) -> int:
    """Posts in a unit: `block_rows`, or fewer where there are few posts, so that all CPUs have some.

    It depends on nothing else, so that a resumed run cuts the same units wherever it runs.
    """
    return min(block_rows, max(_FEWEST_ROWS, -(-n_posts // _UNITS_AT_LEAST)))


def orders(posts: pa.Table, rows: int) -> Iterator[tuple[str, pa.Table]]:
    """(name, ORDER table) of each unit of `rows` posts, in the posts' order. `posts` has ORDER's last three columns."""
    for number, start in enumerate(range(0, len(posts), rows)):
        part, name = posts.slice(start, rows), f"{number:06d}"
        unit = pa.repeat(pa.scalar(name), len(part))
        yield name, pa.table([unit, *(part[field.name] for field in list(ORDER)[1:])], schema=ORDER)


async def fetch_unit(order: pa.Table, fetcher: Fetcher) -> pa.Table:
    """Ask for a unit's pictures; deleted posts are not asked for. A FETCHED table in the order's order."""
    rows = order.to_pylist()
    asked = [(row["post_id"], row["image_url"]) for row in rows if not row["deleted"]]
    answers = iter(await fetcher.fetch_many(asked))
    results = [_deleted(row["post_id"], row["image_url"]) if row["deleted"] else next(answers) for row in rows]
    return fetched_table(rows[0]["unit"], results)


def fetched_table(unit: str, results: Sequence[FetchResult]) -> pa.Table:
    """A FETCHED table of results, in their order."""
    columns = {field.name: [getattr(r, field.name) for r in results] for field in FETCHED if field.name != "unit"}
    arrays = [pa.array(columns[field.name], field.type) for field in list(FETCHED)[1:]]
    return pa.table([pa.repeat(pa.scalar(unit), len(results)), *arrays], schema=FETCHED)


def _deleted(post_id: str, url: str) -> FetchResult:
    return FetchResult(post_id, url, "deleted", None, 0, None, host_of(url), None, None, 0.0)


@dataclass
class Times:
    """Seconds of one process spent on a unit, by step."""

    decode: float = 0.0
    detect: float = 0.0


@dataclass(frozen=True)
class _Seen:
    """What a picture's bytes hold, its faces (None where they were not counted), and what went wrong."""

    picture: Picture
    faces: list[dict[str, Any]] | None = None
    error: str | None = None


def images_table(
    fetched: pa.Table, ingest: IngestOptions, faces: FaceOptions, detector: FaceDetector | None, times: Times
) -> pa.Table:
    """Rows of `images/` for a FETCHED table: bytes looked into, faces counted where there is a `detector`.

    Whatever a picture does to its decoder becomes its row's status. Bytes are kept of whole pictures only.
    """
    bodies, statuses = fetched["body"], fetched["status"].to_pylist()
    seen = [
        _look(bodies[i].as_buffer(), ingest, faces, detector, times) if status == "ok" else None
        for i, status in enumerate(statuses)
    ]
    pictures = [None if item is None else item.picture for item in seen]
    status = [now.status if now else then for then, now in zip(statuses, pictures, strict=True)]
    error = [now.error if now else then for then, now in zip(fetched["error"].to_pylist(), seen, strict=True)]
    columns: dict[str, Any] = {name: fetched[name] for name in _ANSWERED} | {
        name: [getattr(picture, name) if picture else None for picture in pictures]
        for name in ("sha256", "phash", "n_bytes", "width", "height", "format")
    }
    columns |= {
        "status": status,
        "error": error,
        "image": pc.if_else(pc.equal(pa.array(status), "ok"), bodies, pa.scalar(None, pa.binary())),
        "faces": [item and item.faces for item in seen],
        "n_faces": [len(item.faces) if item and item.faces is not None else None for item in seen],
    }
    return pa.table([_typed(columns[field.name], field.type) for field in IMAGES], schema=IMAGES)


def _typed(values: Any, kind: pa.DataType) -> Any:
    return pa.array(values, kind) if isinstance(values, list) else values


def _look(
    body: pa.Buffer, ingest: IngestOptions, faces: FaceOptions, detector: FaceDetector | None, times: Times
) -> _Seen:
    started = time.perf_counter()
    picture, pixels = examine(memoryview(body), ingest.max_pixels, None if detector is None else faces.max_side)
    decoded = time.perf_counter()
    times.decode += decoded - started
    if detector is None or pixels is None:
        return _Seen(picture, error=picture.error)
    try:
        found = detector.detect(pixels, (picture.width or pixels.width, picture.height or pixels.height))
    except Exception as problem:  # a whole picture that the detector cannot take stays one, its faces uncounted
        return _Seen(picture, error=f"faces not counted: {one_line(problem)}")
    finally:
        times.detect += time.perf_counter() - decoded
    return _Seen(picture, [asdict(face) for face in found])
