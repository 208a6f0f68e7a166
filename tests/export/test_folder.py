"""Folders of pictures, read by torchvision and by Hugging Face's imagefolder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import ImageFolder

import raypipe
from raypipe.export.safe_names import safe_key
from tests.export.conftest import LABELS, Made


def test_torchvision_reads_each_split_with_labels(make: Callable[..., Made]) -> None:
    made = make(formats=("jpg", "png", "webp"))
    raypipe.export(made.exporting("folder"))
    folder = made.folder("folder")
    named = {item["folder"]: item["label"] for item in json.loads((folder / "classes.json").read_text())}
    assert sorted(named.values()) == sorted(LABELS)
    for split in ("train", "val", "test"):
        found = ImageFolder(str(folder / split))
        assert set(found.classes) == set(named)
        by_key = {safe_key(row.post_id): row for row in made.split(split).values()}
        assert len(found) == len(by_key)
        for path, code in found.samples:
            row = by_key[Path(path).stem]
            assert Path(path).read_bytes() == row.image
            assert Path(path).suffix == f".{row.extension}"
            assert named[found.classes[code]] == row.label
        assert found[0][0].size == (32, 24)


@pytest.mark.parametrize("kind", ["class", "continuous", "hashtags", None])
def test_huggingface_reads_pictures_and_metadata(
    make: Callable[..., Made], hf: Any, tmp_path: Path, kind: str | None
) -> None:
    made = make(kind)
    raypipe.export(made.exporting("folder"))
    found = hf.load_dataset("imagefolder", data_dir=str(made.folder("folder")), cache_dir=str(tmp_path / "cache"))
    names = {"train": "train", "val": "validation", "test": "test"} if kind else {"train": "train"}
    assert set(found) == set(names.values())
    for split, name in names.items():
        rows = made.split(split)
        assert sorted(found[name]["post_id"]) == sorted(rows)
        for item in found[name].cast_column("image", hf.Image(decode=False)):
            row = rows[item["post_id"]]
            # `datasets` 5 only gives the path of the picture.
            assert (item["image"]["bytes"] or Path(item["image"]["path"]).read_bytes()) == row.image
            assert {key: value for key, value in item.items() if key != "image"} == row.metadata_dict()
        assert found[name][0]["image"].size == (32, 24)


@pytest.mark.parametrize("kind", ["class", "continuous", "hashtags", None])
def test_folder_holds_exactly_files_in_metadata(make: Callable[..., Made], kind: str | None) -> None:
    made = make(kind)
    record = raypipe.export(made.exporting("folder"))
    folder = made.folder("folder")
    expected = {"_run.json"} | ({"classes.json"} if kind == "class" else set())
    for split in record.facts["splits"]:
        lines = [json.loads(line) for line in (folder / split / "metadata.jsonl").read_text().splitlines()]
        assert len(lines) == len(made.split(split))
        for line in lines:
            row = made.rows[line["post_id"]]
            path = line.pop("file_name")
            assert line == row.metadata_dict()
            assert (folder / split / path).read_bytes() == row.image
            assert path.count("/") == (1 if kind == "class" else 0)
            expected.add(f"{split}/{path}")
        expected.add(f"{split}/metadata.jsonl")
    # No file is outside of the export folder, even for the id "../../x" and the label "..".
    root = Path(made.config.root)
    written = {str(p.relative_to(folder)) for p in root.parent.rglob("*") if p.is_file() and not _of_input(root, p)}
    assert written == expected


def _of_input(root: Path, path: Path) -> bool:
    return os.path.commonpath([path, root / "images"]) == str(root / "images") or path.is_relative_to(root / "labels")
