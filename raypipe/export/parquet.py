"""Parquet for Hugging Face `datasets`: pictures and classes are features, described in the schema's metadata."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.export.export_plan import LabelKind
from raypipe.export.samples import ExportSample
from raypipe.tables.schemas import FACE

# Readers that shuffle or stream read one row group at a time.
_GROUP_ROWS = 100

# Arrow prints C++ type names, but features use those of NumPy.
_NAMES = {"double": "float64", "float": "float32"}


def make_schema(kind: LabelKind | None, classes: tuple[str, ...]) -> pa.Schema:
    """Columns `image`, `label` and `score` (if there are labels), `post_id`, `width`, `height`, `n_faces`, `faces`."""
    label = {"class": pa.int64(), "continuous": pa.float64(), "hashtags": pa.list_(pa.string())}
    fields = [pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))]
    fields += [pa.field("label", label[kind])] if kind else []
    fields += [pa.field("post_id", pa.string())]
    fields += [pa.field("score", pa.float64())] if kind else []
    fields += [pa.field(name, pa.int32()) for name in ("width", "height", "n_faces")]
    fields += [pa.field("faces", pa.list_(FACE))]
    features = {field.name: _feature(field, classes if kind == "class" else ()) for field in fields}
    # https://huggingface.co/docs/datasets: what `Features.arrow_schema` writes and `Features.from_arrow_schema` reads.
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _feature(field: pa.Field, classes: tuple[str, ...]) -> Any:
    if field.name == "image":
        return {"_type": "Image"}
    if field.name == "label" and classes:
        return {"names": list(classes), "_type": "ClassLabel"}
    return _value(field.type)


def _value(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        # A list of one feature, because `datasets` reads it in the same way before and after version 4.
        return [_value(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _value(field.type) for field in kind}
    return {"dtype": _NAMES.get(str(kind), str(kind)), "_type": "Value"}


class ParquetShard:
    """One shard in memory, in row groups of 100 pictures. The pictures' bytes are not changed."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = pa.BufferOutputStream()
        plain = [name for name in schema.names if name not in ("image", "faces")]
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="NONE", use_dictionary=False, write_statistics=plain
        )
        self._rows: list[dict[str, Any]] = []

    def add(self, sample: ExportSample) -> None:
        """Append a picture and its metadata."""
        row = sample.metadata_dict() | {"image": {"bytes": sample.image, "path": sample.file_name}}
        if sample.code is not None:
            row["label"] = sample.code
        self._rows.append(row)
        if len(self._rows) == _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def finish(self) -> memoryview:
        """The bytes of the whole file."""
        self._flush()
        self._writer.close()
        return memoryview(self._sink.getvalue())
