"""The columns of raypipe's tables. Stages and other programs that open the Parquet files rely on them."""

from __future__ import annotations

from typing import get_args

import pyarrow as pa

from raypipe.config.base import FailedStatus

SCHEMA_VERSION = 1

_TIMESTAMP = pa.timestamp("us", tz="UTC")

POSTS = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("likes", pa.int64(), nullable=False),
        pa.field("followers", pa.int64(), nullable=False),
        pa.field("comments", pa.int64()),
        pa.field("caption", pa.string()),
        pa.field("n_hashtags", pa.int32(), nullable=False),
        pa.field("created_at", _TIMESTAMP),
        pa.field("collected_at", _TIMESTAMP),
        pa.field("revisited_at", _TIMESTAMP),
        pa.field("deleted", pa.bool_(), nullable=False),
    ]
)
"""`posts/`. Columns of the input that raypipe does not know follow these, unchanged."""

FACE = pa.struct(
    [
        pa.field("left", pa.int32()),
        pa.field("top", pa.int32()),
        pa.field("right", pa.int32()),
        pa.field("bottom", pa.int32()),
        pa.field("score", pa.float32()),
    ]
)

IMAGES = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("http_status", pa.int32()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("host", pa.string()),
        pa.field("fetched_at", _TIMESTAMP),
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.uint64()),
        pa.field("n_bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("n_faces", pa.int32()),
        pa.field("faces", pa.list_(FACE)),
    ]
)
"""`images/`: one row per post, also on failure. Face boxes are in pixels of the original image."""

STATUSES = ("ok", *get_args(FailedStatus), "deleted")

LABEL_TYPES = {"class": pa.string(), "continuous": pa.float64(), "hashtags": pa.list_(pa.string())}


def labels_schema(label_type: pa.DataType) -> pa.Schema:
    """`labels/`. `label_type`: string for classes, float64 for `continuous`, list of strings for `hashtags`."""
    return pa.schema(
        [
            pa.field("post_id", pa.string(), nullable=False),
            pa.field("user_id", pa.string()),
            pa.field("y", pa.float64()),
            pa.field("fitted", pa.float64()),
            pa.field("score", pa.float64()),
            pa.field("label", label_type),
            pa.field("split", pa.string()),
        ]
    )


PREDICTIONS = pa.schema(
    [
        pa.field("trial", pa.string(), nullable=False),
        pa.field("configuration", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
    ]
)
"""`predictions/` of `train/NAME/` and `sweep/`: one row per image, with the best epoch's positive-class probability."""


TABLE1_COLUMNS = ("configuration", "seeds", "max_val_accuracy", "epochs", "final_val_accuracy", "test_accuracy")
"""Columns of `table1.csv` of `train/NAME/` and `sweep/`. Columns for further measures of the head follow."""


def predictions_schema(head: str) -> pa.Schema:
    """The schema of `predictions/` for a head (see `raypipe.train.data.target`): `PREDICTIONS` for two classes.

    For more classes and for tags it also has `class`, with one row per image and class. For a score it also has `score`
    and `predicted`, and the probability is null.
    """
    if head in ("classes", "tags"):
        return PREDICTIONS.append(pa.field("class", pa.string(), nullable=False))
    if head == "score":
        place = PREDICTIONS.get_field_index("probability")
        schema = PREDICTIONS.set(place, pa.field("probability", pa.float64()))
        for name in ("score", "predicted"):
            schema = schema.append(pa.field(name, pa.float64(), nullable=False))
        return schema
    return PREDICTIONS
