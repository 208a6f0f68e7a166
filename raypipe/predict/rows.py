"""The rows of ``predict/NAME/``: one per picture, for every kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypipe.train.data.target import Target


def schema(target: Target) -> pa.Schema:
    """The columns: always `path, probability, label, error`, then `score` or ``probability_NAME`` per class or tag."""
    label = pa.list_(pa.string()) if target.kind == "tags" else pa.string()
    fields = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("probability", pa.float64()),
        pa.field("label", label),
        pa.field("error", pa.string()),
    ]
    if target.kind in ("classes", "tags"):
        fields += [pa.field(f"probability_{name}", pa.float64()) for name in target.names]
    if target.kind == "score":
        fields.append(pa.field("score", pa.float64()))
    return pa.schema(fields)


def prediction_rows(
    target: Target, paths: Sequence[str], errors: Sequence[str | None], predictions: NDArray[np.float32]
) -> pa.Table:
    """One row per path. `predictions`, [n] or [n, k], are for the paths without an error, in their order."""
    readable = np.array([error is None for error in errors], bool)
    found = np.asarray(predictions, np.float64)
    columns: dict[str, Any] = {
        "path": list(paths),
        "probability": None,
        "label": None,
        "error": list(errors),
    }
    if target.kind == "binary":
        columns["probability"] = found.tolist()
        columns["label"] = [target.names[int(value > 0.5)] for value in found]
    elif target.kind == "classes":
        columns["probability"] = found.max(axis=1, initial=0).tolist()
        columns["label"] = [target.names[place] for place in found.argmax(axis=1)] if len(found) else []
    elif target.kind == "tags":
        columns["label"] = [[tag for tag, p in zip(target.names, row, strict=True) if p > 0.5] for row in found]
    else:
        columns["score"] = found.tolist()
    if target.kind in ("classes", "tags"):
        columns |= {f"probability_{name}": found[:, i].tolist() for i, name in enumerate(target.names)}
    wanted = schema(target)
    for name in set(columns) - {"path", "error"}:
        columns[name] = _spread(columns[name], readable)
    return pa.table([pa.array(columns[field.name], field.type) for field in wanted], schema=wanted)


def _spread(values: list[Any] | None, readable: NDArray[np.bool_]) -> list[Any]:
    """`values` in the rows of readable pictures, nulls in the others. All are null if the head has no such column."""
    if values is None:
        return [None] * len(readable)
    remaining = iter(values)
    return [next(remaining) if ok else None for ok in readable]
