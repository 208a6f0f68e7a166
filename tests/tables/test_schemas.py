"""The columns that stages and users rely on."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raypipe.tables import schemas

COLUMNS = {
    "POSTS": "post_id image_url user_id likes followers comments caption n_hashtags created_at collected_at "
    "revisited_at deleted",
    "IMAGES": "post_id url status http_status attempts error host fetched_at sha256 phash n_bytes width height format "
    "image n_faces faces",
    "PREDICTIONS": "trial configuration seed epoch post_id split label probability",
}


@pytest.mark.parametrize(("name", "columns"), COLUMNS.items())
def test_columns_have_documented_order(name: str, columns: str) -> None:
    assert getattr(schemas, name).names == columns.split()


@pytest.mark.parametrize(
    ("head", "further"),
    [("binary", []), ("classes", ["class"]), ("tags", ["class"]), ("score", ["score", "predicted"])],
)
def test_prediction_columns_are_common_to_all_heads(head: str, further: list[str]) -> None:
    found = schemas.predictions_schema(head)
    assert found.names == [*schemas.PREDICTIONS.names, *further]
    assert found.field("probability").nullable == (head == "score")


def test_optional_post_columns_are_nullable() -> None:
    optional = {field.name for field in schemas.POSTS if field.nullable}
    assert optional == {"user_id", "comments", "caption", "created_at", "collected_at", "revisited_at"}


def test_times_are_microseconds_in_utc() -> None:
    times = [f.type for s in (schemas.POSTS, schemas.IMAGES) for f in s if pa.types.is_timestamp(f.type)]
    assert len(times) == 4
    assert set(times) == {pa.timestamp("us", tz="UTC")}


def test_faces_are_boxes_with_a_score() -> None:
    face = schemas.IMAGES.field("faces").type.value_type
    assert [(f.name, str(f.type)) for f in face] == [
        ("left", "int32"),
        ("top", "int32"),
        ("right", "int32"),
        ("bottom", "int32"),
        ("score", "float"),
    ]


def test_statuses_are_unique() -> None:
    assert len(set(schemas.STATUSES)) == len(schemas.STATUSES) == 16


@pytest.mark.parametrize(
    ("kind", "value"), [("class", "top"), ("continuous", 0.5), ("hashtags", ["a", "b"]), ("class", None)]
)
def test_labels_of_each_kind_fit_their_schema(kind: str, value: object) -> None:
    schema = schemas.labels_schema(schemas.LABEL_TYPES[kind])
    row = {"post_id": "1", "user_id": None, "y": 1.0, "fitted": 0.5, "score": 0.5, "label": value, "split": None}
    assert pa.Table.from_pylist([row], schema=schema).to_pylist() == [row]
    assert schema.names == list(row)
