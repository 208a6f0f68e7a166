"""The Parquet encodings of every table that raypipe writes."""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_IMAGE_COLUMN = "image"
_MIN_PAGE_ROWS = 64


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """Arguments of `pq.write_table` and `pq.ParquetWriter` for tables of `schema`.

    Image bytes are already compressed and never repeat. They are stored plain, without a dictionary (which would hash
    each picture) and without statistics (which would copy two pictures into the footer). All other columns are
    compressed and have statistics.
    """
    return dict(_encodings(schema.remove_metadata()))


@functools.lru_cache(maxsize=32)
def _encodings(schema: pa.Schema) -> dict[str, Any]:
    leaves = _leaf_columns(schema)
    if _IMAGE_COLUMN not in leaves:
        return {"compression": "ZSTD"}
    others = [name for name in leaves if name != _IMAGE_COLUMN]
    return {
        "compression": {name: "NONE" if name == _IMAGE_COLUMN else "ZSTD" for name in leaves},
        "use_dictionary": others or False,
        "write_statistics": others or False,
        # A page holds at least this many rows. With the default of 1024, a page would hold 46 MB of pictures.
        "write_batch_size": _MIN_PAGE_ROWS,
    }


def _leaf_columns(schema: pa.Schema) -> list[str]:
    # Parquet names columns by leaf path (`faces.list.element.left`). This gives the paths in file order.
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves))]
