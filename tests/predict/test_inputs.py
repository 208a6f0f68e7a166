"""Pictures, folders and manifests that `predict.inputs` names."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raypipe.errors import InputError
from raypipe.pictures.examine import open_picture
from raypipe.pictures.formats import FILE_ENDINGS
from raypipe.predict.inputs import FoundPictures, find_pictures
from raypipe.predict.picture_files import add_file_info, read_picture
from raypipe.storage import Storage
from tests.ingest.conftest import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures, one in a sub-folder, and a text file."""
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "deep/a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def find(*inputs: object) -> FoundPictures:
    return find_pictures([str(item) for item in inputs], Storage("root"))


def paths(*inputs: object) -> list[str]:
    return [picture.path for picture in find(*inputs).pictures]


def test_folder_pictures_are_sorted(folder: Path) -> None:
    assert paths(folder) == [str(folder / "b.JPG"), str(folder / "deep" / "a.png")]


@pytest.mark.parametrize("kind", FILE_ENDINGS)
def test_folder_pictures_of_every_format_are_found(folder: Path, kind: str) -> None:
    for ending in FILE_ENDINGS[kind]:
        written = Image.registered_extensions()[ending]
        (folder / f"c{ending}").write_bytes(picture(written, (8, 8)))
    found = find(folder).pictures
    assert [one.path for one in found][1:-1] == [str(folder / f"c{ending}") for ending in sorted(FILE_ENDINGS[kind])]
    for one in found[1:-1]:
        with open_picture(Path(one.location).read_bytes()) as image:
            assert image.size == (8, 8)


def test_picture_named_twice_is_used_once(folder: Path) -> None:
    found = find(folder / "b.JPG", folder, folder / "b.JPG")
    assert [picture.path for picture in found.pictures] == [str(folder / "b.JPG"), str(folder / "deep" / "a.png")]
    assert found.n_repeated == 2


def test_links_are_followed_once(folder: Path) -> None:
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "deep" / "gone.jpg").symlink_to(folder / "nowhere")
    assert paths(folder) == [str(folder / name) for name in ("b.JPG", "deep/a.png", "deep/gone.jpg")]


def test_undecodable_file_names_are_shown_escaped(folder: Path) -> None:
    name = os.fsencode(folder) + b"/caf\xe9.jpg"
    Path(os.fsdecode(name)).write_bytes(b"x")
    found = [picture for picture in find(folder).pictures if "caf" in picture.path]
    assert [picture.path for picture in found] == [f"{folder}/caf\\udce9.jpg"]
    assert os.fsencode(found[0].location) == name
    assert paths(os.fsdecode(name)) == [f"{folder}/caf\\udce9.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_unlistable_folder_gives_row_with_reason(folder: Path) -> None:
    (folder / "deep").chmod(0)
    try:
        reasons = {picture.path: picture.reason for picture in find(folder).pictures}
    finally:
        (folder / "deep").chmod(0o755)
    assert reasons == {str(folder / "b.JPG"): None, str(folder / "deep"): "cannot be listed: Permission denied"}


@pytest.mark.parametrize("kind", ["csv", "CSV", "csv.gz", "jsonl", "ndjson", "ndjson.gz", "parquet", "pq"])
def test_manifest_paths_are_relative_to_manifest(folder: Path, kind: str) -> None:
    manifest = folder / f"list.{kind}"
    written = gzip.compress if kind.endswith(".gz") else bytes
    if kind.lower().startswith("csv"):
        manifest.write_bytes(written(b"name,path\nx,b.JPG\ny,/elsewhere/c.jpg\n"))
    elif "json" in kind:
        manifest.write_bytes(written(b'{"path": "b.JPG"}\n{"path": "/elsewhere/c.jpg"}\n'))
    else:
        pq.write_table(pa.table({"path": ["b.JPG", "/elsewhere/c.jpg"]}), manifest)
    assert paths(manifest) == [str(folder / "b.JPG"), "/elsewhere/c.jpg"]


def test_manifest_row_without_usable_path_gets_a_reason(folder: Path) -> None:
    manifest = folder / "list.jsonl"
    rows = ["b.JPG", "http://host/a.jpg", "HTTPS://host/a.jpg", "hf://datasets/a/b.jpg", "foo://x", "", None]
    lines = [f'{{"path": {_json(row)}}}' for row in rows]
    manifest.write_text("\n".join([*lines, '{"path": "a\\u0000b.jpg"}', "{damaged", '{"other": 1}']))
    found = find(manifest).pictures
    known = "give a path, or file://, s3://, gs://, gcs://, abfs://, abfss://"
    assert [(picture.path, picture.reason) for picture in found] == [
        (str(folder / "b.JPG"), None),
        ("http://host/a.jpg", "http:// is not read by predict; fetch it with `raypipe ingest`"),
        ("HTTPS://host/a.jpg", "HTTPS:// is not read by predict; fetch it with `raypipe ingest`"),
        ("hf://datasets/a/b.jpg", f"hf:// is not read by predict; {known}"),
        ("foo://x", f"foo:// is not read by predict; {known}"),
        ("", f"has no path: row 6 of {manifest}"),
        ("", f"has no path: row 7 of {manifest}"),
        (f"{folder}/a\\0b.jpg", "a path cannot hold a NUL character"),
        ("", f"has no path: row 9 of {manifest}"),
        ("", f"is no row: not_a_json_object in {manifest}: {{damaged"),
    ]


def _json(value: object) -> str:
    return "null" if value is None else f'"{value}"'


def test_non_text_json_path_gets_a_reason(folder: Path) -> None:
    manifest = folder / "list.jsonl"
    values = ["7", "true", '["b.JPG"]', '{"a": 1}', '"b.JPG"']
    manifest.write_text("".join(f'{{"path": {value}}}\n' for value in values))
    assert [(picture.path, picture.reason) for picture in find(manifest).pictures] == [
        (str(folder / "b.JPG"), None),
        *(("", f'is no row: path_is_no_text in {manifest}: {{"path": {value}}}') for value in values[:-1]),
    ]


def test_incomplete_csv_row_gets_a_reason(folder: Path) -> None:
    (folder / "list.csv").write_text("path,x\nb.JPG,1\nonly\n,2\n")
    assert [picture.reason for picture in find(folder / "list.csv").pictures] == [
        None,
        f"has no path: row 2 of {folder}/list.csv",
        f"is no row: wrong_number_of_fields in {folder}/list.csv: only",
    ]


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array(["b.JPG", None], pa.large_string()), ["b.JPG", ""]),
        (pa.array(["b.JPG", "c"]).dictionary_encode(), ["b.JPG", "c"]),
        (pa.array([b"b.JPG"]), ["b.JPG"]),
        (pa.array([b"b.JPG", b"\xff.jpg", None]), ["b.JPG", "\\udcff.jpg", ""]),
        (pa.array([b"\xffa"], pa.binary(2)).dictionary_encode(), ["\\udcffa"]),
        (pa.array(["b.JPG"], pa.string_view()), ["b.JPG"]),
        (pa.array([b"b.JPG"], pa.binary_view()), ["b.JPG"]),
        # Invalid UTF-8, which Parquet and Arrow do not check.
        (pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")), ["\\udcff"]),
        (pa.nulls(2), ["", ""]),
    ],
)
def test_path_column_may_have_other_types(folder: Path, column: pa.Array, found: list[str]) -> None:
    pq.write_table(pa.table({"path": column, "image": [b"x" * 9] * len(column)}), folder / "list.parquet")
    assert paths(folder / "list.parquet") == [name and str(folder / name) for name in found]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: "", "predict.inputs: not set"),
        (lambda folder: str(folder / "absent.jpg"), "there is no such file"),
        (lambda folder: _write(folder, "list.csv", b"name\nx\n"), "has no column path, only name"),
        (lambda folder: _write(folder, "list.csv", b""), "list.csv: has no pictures"),
        (lambda folder: _write(folder, "list.csv", b"path\n"), "list.csv: has no pictures"),
        (lambda folder: _write(folder, "list.csv", b"path\n\xff\n"), "no row can be read; first error: not_utf8"),
        (lambda folder: _write(folder, "list.jsonl", b"[1]\nx\n"), "can be read; first error: not_a_json_object"),
        (lambda folder: _write(folder, "list.parquet", b"PAR1 not"), "cannot be read as Parquet"),
        (lambda folder: _parquet(folder, pa.array([["a"]])), r"its column path has list.*, not text"),
        (lambda folder: _parquet(folder, pa.array([1, 2])), "its column path has int64, not text"),
        (lambda folder: _parquet(folder, pa.array([True])), "its column path has bool, not text"),
        (lambda folder: _parquet(folder, pa.array(["a"]), pa.array(["b"])), "has two columns named 'path'; rename one"),
        (lambda folder: _parquet(folder, pa.array([], pa.string())), "has no pictures"),
        (lambda folder: _empty(folder), "contains no picture"),
        (lambda _: "http://127.0.0.1/a.jpg", "http:// is not read by predict; fetch it with `raypipe ingest`"),
        (lambda _: "nosuch://a.jpg", "nosuch:// is not read by predict"),
        (lambda _: "file://host/a.jpg", "is no URI of a file"),
    ],
)
def test_unusable_input_raises_one_line_error(folder: Path, make: Callable[[Path], str], message: str) -> None:
    given = make(folder)
    with pytest.raises(InputError, match=message) as error:
        find_pictures([given] if given else [], Storage("root"))
    assert "\n" not in str(error.value)


def test_non_utf8_path_in_parquet_opens_its_file(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"here")
    found = find(_parquet(folder, pa.array([b"\xff.jpg"]))).pictures
    (stamped,) = add_file_info(found, Storage("root"))
    assert read_picture(stamped, Storage("root")) == b"here"
    # An object store has no such name, so the row gets a reason.
    (remote,) = add_file_info(find(_parquet(folder, pa.array([b"s3://bucket/\xff.jpg"]))).pictures, Storage("root"))
    assert str(remote.reason).startswith("cannot be read: ")


def _write(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def _parquet(folder: Path, *columns: pa.Array) -> str:
    pq.write_table(pa.table(list(columns), names=["path"] * len(columns)), folder / "list.parquet")
    return str(folder / "list.parquet")


def _empty(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")
