"""The rows of pictures/, and of images/ without bytes."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from raypipe.config.data_options import WorldOptions
from raypipe.tables.schemas import IMAGES
from raypipe.world.pictures import (
    PICTURES,
    PICTURES_PER_UNIT,
    DrawingUnit,
    draw_unit,
    drawing_units,
    images_without_bytes,
)
from raypipe.world.posts import generate_posts


def test_orders_contain_all_present_posts_in_order() -> None:
    posts = generate_posts(WorldOptions(posts=1_000), 0)
    all_orders = list(drawing_units(posts))
    assert np.array_equal(
        np.concatenate([drawing_unit.post_ids for drawing_unit in all_orders]), posts.post_ids[~posts.deleted]
    )
    assert all(len(drawing_unit.post_ids) == PICTURES_PER_UNIT for drawing_unit in all_orders[:-1])
    assert len({drawing_unit.unit for drawing_unit in all_orders}) == len(all_orders)


def test_pictures_do_not_depend_on_unit() -> None:
    numbers, faces, looks = np.array([5, 6, 7]), np.array([0, 1, 2], dtype=np.int8), np.array([-1.0, 0.5, 2.0])
    together = draw_unit(DrawingUnit("0", numbers, faces, looks), 9)
    apart = [draw_unit(DrawingUnit("0", numbers[i : i + 1], faces[i : i + 1], looks[i : i + 1]), 9) for i in (0, 1, 2)]
    assert together.equals(pa.concat_tables(apart))
    assert not together.equals(draw_unit(DrawingUnit("0", numbers, faces, looks), 10))


def test_picture_rows_hold_valid_jpegs() -> None:
    table = draw_unit(DrawingUnit("0", np.array([1, 2]), np.array([1, 0], dtype=np.int8), np.zeros(2)), 0)
    assert table.schema == PICTURES
    for row in table.to_pylist():
        with Image.open(io.BytesIO(row["image"])) as image:
            assert image.format == "JPEG"
            assert image.size == (row["width"], row["height"])


def test_rows_without_bytes_carry_status_and_faces() -> None:
    posts = generate_posts(WorldOptions(posts=300), 0)
    table = pa.concat_tables([images_without_bytes(posts, 0, 100), images_without_bytes(posts, 100, 300)])
    table.validate(full=True)
    assert table.schema == IMAGES
    assert table["image"].null_count == table["sha256"].null_count == 300
    for status, n_faces, planted in zip(
        table["status"].to_pylist(), table["n_faces"].to_pylist(), posts.n_faces.tolist(), strict=True
    ):
        assert (status, n_faces) == (("deleted", None) if planted < 0 else ("ok", planted))
