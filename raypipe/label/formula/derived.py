"""Derived columns for formulas, computed from the columns of posts/: age, hour, weekday, length of the caption.

If posts/ has a column with the same name, that column is used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_US_A_DAY = 86_400_000_000


@dataclass(frozen=True)
class DerivedColumn:
    """A derived column: the columns of posts/ that it needs, its type, and how it is computed from a block."""

    needs: tuple[str, ...]
    type: pa.DataType
    compute: Callable[[pa.Table], pa.ChunkedArray]


def _age_days(posts: pa.Table) -> pa.ChunkedArray:
    read = pc.coalesce(posts["revisited_at"], posts["collected_at"])
    age = pc.subtract(read, posts["created_at"]).cast(pa.int64())
    return pc.divide(age.cast(pa.float64()), float(_US_A_DAY))


def _caption_length(posts: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.utf8_length(posts["caption"]), 0).cast(pa.int64())


DERIVED_COLUMNS = {
    "age_days": DerivedColumn(("created_at", "collected_at", "revisited_at"), pa.float64(), _age_days),
    "hour": DerivedColumn(("created_at",), pa.int64(), lambda posts: pc.hour(posts["created_at"])),
    "weekday": DerivedColumn(("created_at",), pa.int64(), lambda posts: pc.day_of_week(posts["created_at"])),
    "caption_length": DerivedColumn(("caption",), pa.int64(), _caption_length),
}
"""``age_days``: days from creation until likes were read (at the revisit, else when collected). ``hour`` (0–23, UTC)
and ``weekday`` (0 is Monday) of the creation. ``caption_length`` in characters, 0 if there is no caption.
"""


def source_columns(name: str, schema: pa.Schema) -> tuple[str, ...]:
    """The columns of posts/ from which the variable `name` of a formula is computed."""
    return DERIVED_COLUMNS[name].needs if name in DERIVED_COLUMNS and name not in schema.names else (name,)


def all_source_columns(names: Iterable[str], schema: pa.Schema) -> list[str]:
    """The columns of posts/ from which several variables are computed."""
    return [column for name in names for column in source_columns(name, schema)]


def variable_type(name: str, schema: pa.Schema) -> pa.DataType:
    """The Arrow type of a variable."""
    return schema.field(name).type if name in schema.names else DERIVED_COLUMNS[name].type


def variable_values(name: str, posts: pa.Table, as_class: bool = False) -> pa.ChunkedArray:
    """The values of a variable in a block of posts. Numbers become float64, and dictionary-encoded values are decoded.

    In float64 no product of counts overflows, and 1 − 2 is −1 even if the column's type is unsigned. Integers that are
    classes (`as_class`) stay integers.
    """
    values = posts[name] if name in posts.column_names else DERIVED_COLUMNS[name].compute(posts)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not is_number(values.type) or (as_class and pa.types.is_integer(values.type)):
        return values
    return as_floats(values)


def as_floats(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers as float64. Integers beyond 2⁵³ are rounded."""
    return values.cast(pa.float64(), safe=False)


def is_number(kind: pa.DataType) -> bool:
    """Whether a formula treats values of an Arrow type as numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
