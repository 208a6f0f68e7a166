"""The pictures of a plan, streamed from the files of `images/`. Memory holds a part of one file at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe import tables
from raypipe.errors import StageError, one_line
from raypipe.export.export_plan import ExportPlan
from raypipe.export.safe_names import extension, safe_key
from raypipe.storage import Storage
from raypipe.tables.untrusted import plain_table

_BATCH = 64
_BUFFER = 2**24
_METADATA_COLUMNS = ["post_id", "n_bytes", "width", "height", "format", "n_faces", "faces"]


@dataclass(frozen=True, slots=True)
class ExportSample:
    """One picture with its label. `code` is the number of its class."""

    split_index: int
    shard: int
    split: str
    post_id: str
    image: bytes
    format: str | None
    label: str | float | list[str] | None
    code: int | None
    score: float | None
    width: int | None
    height: int | None
    n_faces: int | None
    faces: list[dict[str, Any]] | None

    @property
    def key(self) -> str:
        """The safe name of the post."""
        return safe_key(self.post_id)

    @property
    def file_name(self) -> str:
        """``KEY.jpg``, with the extension of the picture's true format."""
        return f"{self.key}.{extension(self.format, self.image)}"

    def metadata_dict(self) -> dict[str, Any]:
        """The picture's metadata as JSON types."""
        names = ("post_id", "label", "score", "split", "width", "height", "n_faces", "faces")
        return {name: getattr(self, name) for name in names}


def json_line(value: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(value, allow_nan=False).encode()


def read_samples(storage: Storage, plan: ExportPlan, rows: npt.NDArray[np.bool_]) -> Iterator[ExportSample]:
    """The pictures that `rows` [n] marks, in the order of `images/`. For other files, only the footer is read.

    Raises StageError if `images/` cannot be read or a picture's number of bytes differs from its row's.
    """
    start = 0
    for path in tables.data_paths(storage, "images"):
        try:
            # Reads through a buffer, because the scanner of datasets holds several times a file's bytes in memory.
            with pq.ParquetFile(path, filesystem=storage.filesystem, buffer_size=_BUFFER) as file:
                stop = start + file.metadata.num_rows
                if rows[start:stop].any():
                    for stored in file.iter_batches(_BATCH, columns=[*_METADATA_COLUMNS, "image"]):
                        batch = plain_table(stored, path)
                        end = start + len(batch)
                        yield from _samples(storage, plan, batch, start, np.flatnonzero(rows[start:end]))
                        start = end
                start = stop
        except (OSError, pa.ArrowInvalid) as error:
            raise StageError(
                f"{path}: cannot be read: {one_line(error)}; repair it, or ingest into another --root"
            ) from error


def _samples(
    storage: Storage, plan: ExportPlan, batch: pa.RecordBatch, start: int, chosen: npt.NDArray[np.int64]
) -> Iterator[ExportSample]:
    rows = batch.select(_METADATA_COLUMNS).take(pa.array(chosen)).to_pylist()
    images = batch["image"]
    places = start + chosen
    labels: list[Any] = [None] * len(rows)
    scores: list[Any] = [None] * len(rows)
    if plan.labels is not None:
        label_rows = plan.labels.take(pa.array(plan.label_row[places]))
        labels, scores = label_rows["label"].to_pylist(), label_rows["score"].to_pylist()
    codes = plan.codes
    for place, at, row, label, score in zip(places, chosen, rows, labels, scores, strict=True):
        image = images[int(at)].as_py()
        n_bytes = row.pop("n_bytes")
        if image is None or len(image) != n_bytes:
            n_stored = "none" if image is None else f"{len(image):,}"
            raise StageError(
                f"{storage.uri('images')}: post {row['post_id']!r}: {n_bytes:,} bytes were stored, {n_stored} found"
                "; repair it, or ingest into another --root"
            )
        split_index = int(plan.split_index[place])
        yield ExportSample(
            split_index=split_index,
            shard=int(plan.shard[place]),
            split=plan.splits[split_index],
            image=image,
            label=label,
            code=codes.get(label) if isinstance(label, str) else None,
            score=score if score is not None and math.isfinite(score) else None,
            **row,
        )
