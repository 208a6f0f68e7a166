"""The rows of `pictures/`. Each picture has its own random stream, so it does not depend on the other pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypipe.tables import TableWriter
from raypipe.tables.schemas import IMAGES
from raypipe.world.draw import draw_picture, encode_jpeg
from raypipe.world.posts import HOST, GeneratedPosts, RandomStream, random_generator

PICTURES = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)
"""`pictures/`: the JPEG bytes that the local server sends, for posts that are not deleted."""

PICTURES_PER_UNIT = 128
"""Pictures per file: about 3 MB and two seconds of work. The server reads one file at a time."""


@dataclass(frozen=True)
class DrawingUnit:
    """Drawing work: ids, face counts and looks of up to PICTURES_PER_UNIT posts. Small enough to send to a process."""

    unit: str
    post_ids: NDArray[np.int64]
    n_faces: NDArray[np.int8]
    look: NDArray[np.float64]


def drawing_units(posts: GeneratedPosts) -> Iterator[DrawingUnit]:
    """All pictures of a world as units of work, in the order of the posts."""
    present = np.flatnonzero(~posts.deleted)
    for number, start in enumerate(range(0, len(present), PICTURES_PER_UNIT)):
        rows = present[start : start + PICTURES_PER_UNIT]
        yield DrawingUnit(f"{number:06d}", posts.post_ids[rows], posts.n_faces[rows], posts.look[rows])


def draw_unit(drawing_unit: DrawingUnit, seed: int) -> pa.Table:
    """The pictures of a unit, in the schema of `pictures/`."""
    rows = []
    for number, n_faces, look in zip(
        drawing_unit.post_ids.tolist(), drawing_unit.n_faces.tolist(), drawing_unit.look.tolist(), strict=True
    ):
        rng = random_generator(seed, RandomStream.PICTURES, number)
        picture = draw_picture(rng, n_faces=n_faces, look=look)
        size = {"width": picture.width, "height": picture.height}
        rows.append({"post_id": str(number), "image": encode_jpeg(picture, rng), **size})
    return pa.Table.from_pylist(rows, schema=PICTURES)


def draw_and_stage(drawing_unit: DrawingUnit, attempt: int, *, seed: int, writer: TableWriter) -> int:
    """Draw a unit and stage it. Returns the number of its pictures. `attempt` is not used."""
    del attempt
    writer.write(drawing_unit.unit, draw_unit(drawing_unit, seed))
    return len(drawing_unit.post_ids)


def images_without_bytes(posts: GeneratedPosts, start: int, stop: int) -> pa.Table:
    """Posts `start` to `stop` in the schema of `images/`: status and face count as if fetched, without bytes."""
    rows = slice(start, stop)
    deleted, n = posts.deleted[rows], len(posts.post_ids[rows])
    columns = {
        "post_id": pa.array(map(str, posts.post_ids[rows].tolist())),
        "url": pa.array(posts.urls(start, stop)),
        "status": pa.array(np.where(deleted, "deleted", "ok")),
        "attempts": pa.array(np.zeros(n, dtype=np.int32)),
        "host": pa.array([HOST] * n),
        "n_faces": pa.array(posts.n_faces[rows].astype("int32"), mask=deleted),
    }
    return pa.table(
        [columns.get(field.name, pa.nulls(n, field.type)).cast(field.type) for field in IMAGES], schema=IMAGES
    )
