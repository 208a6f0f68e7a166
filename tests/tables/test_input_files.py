"""Reading posts files of every kind, valid and broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import InputError
from raypipe.storage import Storage
from raypipe.tables import input_files
from raypipe.tables.input_files import InputRows, as_text, open_input_files

ROWS = [{"post_id": "a", "likes": 1, "age": 2.5}, {"post_id": "b", "likes": 2, "age": 3.0}]


def read(path: Path | str, limit: int | None = None, known: tuple[str, ...] = ("post_id", "likes")) -> InputRows:
    return open_input_files(str(path), Storage("unused")).read(set(known), limit)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_csv_keeps_known_columns_as_text(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes('\ufeffpost_id,likes,age,n,zip,word\na,1,2.5,3,007,x\n"b,""c""\nd",,3,4,1,\n'.encode())
    raw = read(path)
    assert raw.lines == []
    assert raw.table.to_pylist() == [
        {"post_id": "a", "likes": "1", "age": 2.5, "n": 3, "zip": "007", "word": "x"},
        {"post_id": 'b,"c"\nd', "likes": None, "age": 3.0, "n": 4, "zip": "1", "word": None},
    ]


def test_csv_rows_with_wrong_length_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("post_id,likes\na,1\nb\n\nc,2,3\nd,4\n")
    raw = read(path)
    assert raw.table["post_id"].to_pylist() == ["a", "d"]
    assert raw.lines == [("b", "wrong_number_of_fields"), ("c,2,3", "wrong_number_of_fields")]


def test_jsonl_rows_are_read_and_bad_lines_set_aside(tmp_path: Path) -> None:
    rows = [{"post_id": 1, "likes": 2.5, "tags": ["x"], "n": 1}, {"post_id": "b", "likes": True, "n": 2.5}]
    raw = read(jsonl(tmp_path / "posts.jsonl", [*rows, "{broken", "[1]", ""]))
    assert raw.table.to_pylist() == [
        {"post_id": "1", "likes": "2.5", "tags": ["x"], "n": 1.0},
        {"post_id": "b", "likes": "true", "tags": None, "n": 2.5},
    ]
    assert raw.lines == [("{broken", "not_a_json_object"), ("[1]", "not_a_json_object")]


def test_jsonl_columns_of_mixed_types_become_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"post_id": "a", "x": 1}, {"post_id": "b", "x": "two"}, {"post_id": "c", "x": {"y": [3]}}]
    assert read(jsonl(tmp_path / "a.jsonl", rows)).table["x"].to_pylist() == ["1", "two", '{"y": [3]}']
    monkeypatch.setattr(input_files, "_BLOCK_ROWS", 1)
    assert read(jsonl(tmp_path / "b.jsonl", rows)).table["x"].to_pylist() == ["1", "two", '{"y": [3]}']


def test_jsonl_half_surrogates_are_replaced(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ['{"post_id": "\\ud83d", "other": "\\ud83d"}'])
    assert read(path).table.to_pylist() == [{"post_id": "?", "other": "?"}]


def test_column_names_equal_after_replacement_are_merged(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ['{"post_id": "a", "\\ud83d": 1}', {"post_id": "b", "?": 2}])
    assert read(path).table.to_pylist() == [{"post_id": "a", "?": 1}, {"post_id": "b", "?": 2}]


@pytest.mark.parametrize(
    ("line", "reason", "kept"),
    [
        (b'{"post_id": "\xff\xc3\xa9"}', "not_utf8", '{"post_id": "\ufffdé"}'),
        (b"[" * 100_000, "nested_too_deeply", "[" * 100_000),
        (b'{"x":' * 100_000, "nested_too_deeply", '{"x":' * 100_000),
        (b'{"x":' + b"[" * 200 + b"]" * 200 + b"}", "nested_too_deeply", '{"x":' + "[" * 200 + "]" * 200 + "}"),
        (b'{"likes": ' + b"9" * 5_000 + b"}", "not_a_json_object", '{"likes": ' + "9" * 5_000 + "}"),
        (b"{}", "empty_object", "{}"),
        (b"\x00", "not_a_json_object", "\x00"),
    ],
)
def test_bad_jsonl_line_affects_no_other(tmp_path: Path, line: bytes, reason: str, kept: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"post_id": "a"}\n' + line + b'\n{"post_id": "b"}\n')
    raw = read(path)
    assert raw.table.to_pylist() == [{"post_id": "a"}, {"post_id": "b"}]
    assert raw.lines == [(kept, reason)]


@pytest.mark.parametrize(
    ("line", "reason", "kept"),
    [
        (b"\xff,3", "not_utf8", "\ufffd,3"),
        (b"c\xff", "not_utf8", "c\ufffd"),
        (b'"' + b"x" * 10_000_001 + b'",3', "field_too_long", '"' + "x" * 10_000_001 + '",3'),
        (b'c,"3', "unclosed_quote", 'c,"3'),
    ],
)
def test_bad_csv_line_affects_no_other(tmp_path: Path, line: bytes, reason: str, kept: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"post_id,likes\na,1\n" + line + b"\r\nb,2\n")
    raw = read(path)
    assert raw.table["post_id"].to_pylist() == ["a", "b"]
    assert raw.lines == [(kept, reason)]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'post_id,caption\na,"{"x" * 200_000}"\n')
    assert len(read(path).table["caption"][0].as_py()) == 200_000


def test_empty_objects_in_own_block_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "_BLOCK_ROWS", 1)
    raw = read(jsonl(tmp_path / "a.jsonl", [{"post_id": "a"}, {}, {}]))
    assert (len(raw.table), raw.lines) == (1, [("{}", "empty_object")] * 2)


@pytest.mark.parametrize("value", [{}, [{}], {"y": {}}, {"y": [{"z": {}}]}])
def test_empty_objects_can_be_stored(tmp_path: Path, value: Any) -> None:
    table = read(jsonl(tmp_path / "a.jsonl", [{"post_id": "a", "x": value}])).table
    assert table["x"].to_pylist() == [json.dumps(value)]
    pq.write_table(table, tmp_path / "a.parquet")


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    assert read(parquet(tmp_path / "posts.parquet")).table.to_pylist() == ROWS


def test_directory_of_files_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "posts"
    (folder / "deep").mkdir(parents=True)
    parquet(folder / "2.parquet", ROWS[1:])
    parquet(folder / "1.parquet", ROWS[:1])
    parquet(folder / "deep" / "3.parquet", [{"post_id": "c", "more": "x"}])
    for hidden in ("_run.json", ".crc", "_SUCCESS"):
        (folder / hidden).write_text("{}")
    raw = read(folder)
    assert raw.table["post_id"].to_pylist() == ["a", "b", "c"]
    assert raw.table["more"].to_pylist() == [None, None, "x"]


@pytest.mark.parametrize("name", ["posts.csv.gz", "posts.jsonl.gz", "POSTS.CSV", "posts.ndjson"])
def test_endings_and_compression(tmp_path: Path, name: str) -> None:
    is_csv = ".csv" in name.lower()
    data = b"post_id,likes\na,1\n" if is_csv else b'{"post_id": "a", "likes": 1}\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read(path).table.to_pylist() == [{"post_id": "a", "likes": "1"}]


def test_file_uri_is_read(tmp_path: Path) -> None:
    assert len(read(parquet(tmp_path / "posts.parquet").as_uri()).table) == 2


@pytest.mark.cluster
def test_posts_file_is_read_from_s3(tmp_path: Path, s3_endpoint: str) -> None:
    storage = Storage("s3://bucket/input", endpoint=s3_endpoint, region="us-east-1")
    storage.write("posts.parquet", parquet(tmp_path / "posts.parquet").read_bytes())
    source = open_input_files("s3://bucket/input/posts.parquet", storage)
    assert source.read({"post_id"}).table.to_pylist() == ROWS
    with pytest.raises(InputError, match="does not exist"):
        open_input_files("s3://bucket/input/other.parquet", storage)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_limit_reads_the_first_rows(tmp_path: Path, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "_BLOCK_ROWS", 2)
    folder = tmp_path / "posts"
    folder.mkdir()
    for file in range(2):
        ids = [f"{file}{row}" for row in range(3)]
        path = folder / f"{file}.{kind}"
        if kind == "csv":
            path.write_text("post_id\n" + "".join(f"{name}\n" for name in ids))
        elif kind == "jsonl":
            jsonl(path, [{"post_id": name} for name in ids])
        else:
            parquet(path, [{"post_id": name} for name in ids])
    expected = ["00", "01", "02", "10", "11", "12"][:limit]
    assert read(folder, limit).table["post_id"].to_pylist() == expected


def test_limit_also_counts_bad_lines(tmp_path: Path) -> None:
    raw = read(jsonl(tmp_path / "a.jsonl", ["broken", {"post_id": "a"}, "broken", {"post_id": "b"}]), limit=3)
    assert raw.table["post_id"].to_pylist() == ["a"]
    assert len(raw.lines) == 2


def test_fingerprint_depends_on_content(tmp_path: Path) -> None:
    def of(path: Path) -> str:
        return open_input_files(str(path), Storage("unused")).fingerprint()

    first = jsonl(tmp_path / "a.jsonl", ROWS)
    again, other = jsonl(tmp_path / "b.jsonl", ROWS), jsonl(tmp_path / "c.jsonl", ROWS[:1])
    assert of(first) == of(again)
    assert of(first) != of(other)
    assert of(first) != of(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "has no posts"),
        ("a.csv", b"post_id,likes\n", "has no posts"),
        ("a.jsonl", b"\n\n", "has no posts"),
        ("a.parquet", b"", "cannot be read as Parquet"),
        ("a.parquet", b"PAR1 but not really", "cannot be read as Parquet"),
        ("a.csv", b"post_id,caf\xe9\n1,2\n", "its first line is not UTF-8; save the file as UTF-8"),
        ("a.csv", "post_id\na\n".encode("utf-16"), "its first line is not UTF-8"),
        ("a.csv", b'post_id,"likes\n1,2\n', "its first line is not a row: unclosed_quote: 'post_id,\"likes'"),
        ("a.csv", b"likes,likes\n1,2\n", "two columns named 'likes'"),
        ("a.csv.gz", b"post_id\na\n", "cannot be read as CSV"),
        ("a.txt", b"x", "a.txt is not a known kind of file; use .parquet"),
        ("a.parquet.gz", b"x", "not a known kind of file"),
    ],
)
def test_unusable_files_raise_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_parquet_file_raises_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"post_id": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has no posts"):
        read(tmp_path / "a.parquet")


def test_parquet_with_duplicate_column_names_raises_error(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["post_id", "post_id"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns named 'post_id'; rename one"):
        read(tmp_path / "a.parquet")


def test_unusable_places_raise_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--posts .*nothing.csv: does not exist"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="is a directory without files"):
        read(tmp_path)
    jsonl(tmp_path / "a.jsonl", ROWS)
    parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="contains JSONL and Parquet; use one kind"):
        read(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        read("nosuch://place/posts.csv")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_can_be_shown_as_text(value: Any) -> None:
    assert isinstance(as_text(value).encode(), bytes)
