"""Tables from elsewhere as plain Arrow: a file may ask for a type whose values are made by code.

Ray Data registers ``ray.data.arrow_pickled_object`` with Arrow, whose values are unpickled where one is looked at:
whoever writes a Parquet file with such a column runs code where it is read. Columns of types that are registered by
Python code are read as what they are stored as: bytes, lists, numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pyarrow.dataset as pads

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with the stored types of columns whose types code has registered; the same where there are none."""
    fields = [_field(field) for field in schema]
    return schema if fields == list(schema) else pa.schema(fields, schema.metadata)


def plain_table(table: Rows) -> Rows:
    """The table, or batch of one, with its columns as they are stored.

    Raises pa.ArrowException where such a column cannot be read so.
    """
    schema = plain_schema(table.schema)
    return table if schema == table.schema else table.cast(schema)


def open_parquet(paths: Sequence[str], filesystem: pafs.FileSystem) -> pads.Dataset:
    """Parquet files as a dataset, their columns as they are stored. Raises what pyarrow raises."""
    # It imports pandas, which a process that only writes does without.
    import pyarrow.dataset as pads

    found = pads.dataset(list(paths), filesystem=filesystem, format="parquet")
    schema = plain_schema(found.schema)
    if schema == found.schema:
        return found
    return pads.dataset(list(paths), schema=schema, filesystem=filesystem, format="parquet")


def read_parquet(path: str, filesystem: pafs.FileSystem, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file, its columns as they are stored. Raises what pyarrow raises."""
    return plain_table(pq.read_table(path, columns=None if columns is None else list(columns), filesystem=filesystem))


def _field(field: pa.Field) -> pa.Field:
    kind = _type(field.type)
    return field if kind == field.type else pa.field(field.name, kind, field.nullable)


def _type(kind: pa.DataType) -> pa.DataType:
    # Arrow's own extensions (UUIDs, say) derive from BaseExtensionType alone.
    if isinstance(kind, pa.ExtensionType):
        return _type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _type(kind.value_type), kind.ordered)
    if pa.types.is_map(kind):
        return pa.map_(_type(kind.key_type), _type(kind.item_type), kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([_field(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        value = _field(kind.value_field)
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(value, kind.list_size)
        return pa.large_list(value) if pa.types.is_large_list(kind) else pa.list_(value)
    return kind
