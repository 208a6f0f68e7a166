"""Encodings of Parquet files: pictures are stored verbatim, other columns compressed with statistics."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables.parquet_encodings import encodings
from raypipe.tables.schemas import IMAGES, POSTS

FACE = {"left": 1, "top": 2, "right": 3, "bottom": 4, "score": 0.5}


def written(tmp_path: Path, table: pa.Table) -> Path:
    writer = TableWriter(Storage(str(tmp_path)), "images", "0123abcd")
    writer.write("00000", table)
    return Path(writer.storage.path(writer.staging, writer.part_name("00000")))


def columns(path: Path) -> dict[str, pq.ColumnChunkMetaData]:
    group = pq.read_metadata(path).row_group(0)
    return {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}


def test_only_pictures_are_uncompressed_without_statistics(tmp_path: Path) -> None:
    image = {"post_id": "1", "url": "u", "status": "ok", "attempts": 1, "image": bytes(5000), "faces": [FACE]}
    table = pa.Table.from_pylist([image], schema=IMAGES).append_column("a.b", pa.array(["dotted"]))
    path = written(tmp_path, table)
    found = columns(path)
    assert len(found) == len(IMAGES) - 1 + len(FACE) + 1
    assert {name for name, c in found.items() if c.compression == "UNCOMPRESSED"} == {"image"}
    assert {name for name, c in found.items() if not c.is_stats_set} == {"image"}
    assert set(found["image"].encodings) <= {"PLAIN", "RLE"}
    assert not found["image"].has_dictionary_page
    assert found["status"].has_dictionary_page
    assert {c.compression for name, c in found.items() if name != "image"} == {"ZSTD"}
    assert pq.read_table(path).equals(table)


def test_picture_bytes_are_stored_verbatim(tmp_path: Path) -> None:
    picture = bytes(range(256)) * 16
    table = pa.table({"post_id": ["1", "2"], "image": [picture, picture]})
    assert written(tmp_path, table).read_bytes().count(picture) == 2


def test_other_tables_are_compressed_with_statistics_throughout(tmp_path: Path) -> None:
    post = {"post_id": "1", "image_url": "u", "likes": 1, "followers": 2, "n_hashtags": 0, "deleted": False}
    found = columns(written(tmp_path, pa.Table.from_pylist([post], schema=POSTS)))
    assert {c.compression for c in found.values()} == {"ZSTD"}
    assert all(c.is_stats_set for c in found.values())


def test_table_with_only_pictures_is_written(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x"]})
    found = columns(written(tmp_path, table))
    assert (found["image"].compression, found["image"].has_dictionary_page) == ("UNCOMPRESSED", False)


def test_schema_metadata_is_kept_and_changes_no_encoding(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x"], "post_id": ["1"]})
    marked = table.replace_schema_metadata({b"raypipe.seconds": b"{}"})
    assert encodings(marked.schema) == encodings(table.schema)
    assert pq.read_schema(written(tmp_path, marked)).metadata == {b"raypipe.seconds": b"{}"}


def test_picture_pages_are_small(tmp_path: Path) -> None:
    """A writer holds a page in memory. With pyarrow's defaults, 1024 pictures would be one page."""
    table = pa.table({"image": [bytes(20_000)] * 1000})
    rows, n_bytes = 64, 20_000
    chunk = columns(written(tmp_path, table))["image"]
    header = 100
    pages = -(-1000 // rows)
    # Each page after the first adds a header. Uncompressed data grows by nothing else.
    assert 1000 * (n_bytes + 4) + 10 * pages < chunk.total_compressed_size < 1000 * (n_bytes + 4) + header * pages
