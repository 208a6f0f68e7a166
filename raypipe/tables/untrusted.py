"""Reads tables from other people as plain Arrow types, so that no value of a file can run code.

Ray Data registers the type ``ray.data.arrow_pickled_object`` with Arrow. Its values are unpickled when they are
accessed, so a Parquet file with such a column can run any code of its author. Columns of types that Python code
registered are therefore read as their storage types: bytes, lists, numbers. A file is refused if Arrow cannot convert
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.errors import InputError

if TYPE_CHECKING:
    import pyarrow.dataset as pads

TableOrBatch = TypeVar("TableOrBatch", pa.Table, pa.RecordBatch)

_MOST_SHOWN = 80


def plain_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """The schema with storage types in place of types that Python code registered. The same schema if it has none.

    `where` names the file in an error. Raises InputError if such a type is inside a type that Arrow cannot convert to
    its storage type (list views, unions, run-end encoding), or if types are nested too deeply.
    """
    try:
        fields = [_field(field) for field in schema]
        refused = next((field for field in fields if _has_python_type(field.type)), None)
    except RecursionError as error:
        raise InputError(f"{where}: its columns are nested too deeply") from error
    if refused is not None:
        kind = str(refused.type)
        raise InputError(
            f"{where}: column {_cut(refused.name)}: type {_cut(kind)} can run code, so it is "
            "not read; remove the column, or write plain lists"
        )
    return schema if fields == list(schema) else pa.schema(fields, schema.metadata)


def plain_table(table: TableOrBatch, where: str) -> TableOrBatch:
    """A table or record batch with all columns as storage types. `where` names its file in an error.

    Raises InputError as `plain_schema` does, and pa.ArrowException if a column cannot be converted.
    """
    schema = plain_schema(table.schema, where)
    return table if schema == table.schema else table.cast(schema)


def open_parquet(paths: Sequence[str], filesystem: pafs.FileSystem) -> pads.Dataset:
    """Parquet files as a dataset with storage types. Raises InputError as `plain_schema` does, and pyarrow's errors."""
    # pyarrow.dataset imports pandas, which a process that only writes does not need.
    import pyarrow.dataset as pads

    found = pads.dataset(list(paths), filesystem=filesystem, format="parquet")
    schema = plain_schema(found.schema, paths[0] if paths else "no file")
    if schema == found.schema:
        return found
    return pads.dataset(list(paths), schema=schema, filesystem=filesystem, format="parquet")


def read_parquet(path: str, filesystem: pafs.FileSystem, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file with storage types. Raises InputError as `plain_schema` does, and pyarrow's errors."""
    found = pq.read_table(path, columns=None if columns is None else list(columns), filesystem=filesystem)
    return plain_table(found, path)


def _field(field: pa.Field) -> pa.Field:
    kind = _type(field.type)
    return field if kind == field.type else pa.field(field.name, kind, field.nullable)


def _type(kind: pa.DataType) -> pa.DataType:
    # Arrow's own extension types (for example UUID) are BaseExtensionType only, not ExtensionType.
    if isinstance(kind, pa.ExtensionType):
        return _type(kind.storage_type)
    if isinstance(kind, pa.BaseExtensionType):
        # Some of them, for example opaque columns, may store values of any type.
        stored = _type(kind.storage_type)
        return kind if stored == kind.storage_type else stored
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


def _has_python_type(kind: pa.DataType) -> bool:
    """Whether a type, or any type inside it, is registered by Python code."""
    if isinstance(kind, pa.ExtensionType):
        return True
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    if isinstance(kind, pa.BaseExtensionType):
        inner.append(kind.storage_type)
    if pa.types.is_dictionary(kind):
        inner.append(kind.value_type)
    return any(map(_has_python_type, inner))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
