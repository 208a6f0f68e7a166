"""Pictures, folders and manifests as `predict.inputs` names them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import InputError
from raypipe.predict.inputs import find_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures, one of them deeper, and a text."""
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "deep/a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_pictures_sorted(folder: Path) -> None:
    assert find_pictures([str(folder)]) == [str(folder / "b.JPG"), str(folder / "deep" / "a.png")]


def test_a_picture_named_twice_is_taken_once(folder: Path) -> None:
    picture = str(folder / "b.JPG")
    assert find_pictures([picture, str(folder), picture]) == [picture, str(folder / "deep" / "a.png")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_gives_paths_beside_itself(folder: Path, kind: str) -> None:
    manifest = folder / f"list.{kind}"
    if kind == "csv":
        manifest.write_text("name,path\nx,b.JPG\ny,/elsewhere/c.jpg\n")
    elif kind == "jsonl":
        manifest.write_text('{"path": "b.JPG"}\n{"path": "/elsewhere/c.jpg"}\n')
    else:
        pq.write_table(pa.table({"path": ["b.JPG", "/elsewhere/c.jpg"]}), manifest)
    assert find_pictures([str(manifest)]) == [str(folder / "b.JPG"), "/elsewhere/c.jpg"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: [], "nothing to predict on"),
        (lambda folder: [str(folder / "absent.jpg")], "there is no such file"),
        (lambda folder: [_manifest(folder)], "has no column path, only name"),
        (lambda folder: [_empty(folder)], "holds no picture"),
    ],
)
def test_what_cannot_be_used_is_one_line(folder: Path, make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_pictures(make(folder))


def _manifest(folder: Path) -> str:
    (folder / "list.csv").write_text("name\nx\n")
    return str(folder / "list.csv")


def _empty(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")
