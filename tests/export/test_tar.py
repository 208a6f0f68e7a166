"""WebDataset shards, read by the package `webdataset`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

import raypipe
from raypipe.export.safe_names import safe_key
from tests.export.conftest import FORMATS, LABELS, Made


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """The samples of a split as read by `webdataset`: bytes by extension."""
    shards = sorted(map(str, folder.glob(f"{split}-*.tar")))
    return list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))


@pytest.mark.parametrize("kind", ["class", "continuous", "hashtags", None])
def test_webdataset_reads_each_picture_with_its_label(make: Callable[..., Made], kind: str | None) -> None:
    made = make(kind)
    record = raypipe.export(made.exporting("webdataset"))
    splits = ("train", "val", "test") if kind else ("train",)
    assert len(list(made.folder("webdataset").glob("*.tar"))) == len(splits)
    for split in splits:
        samples = {sample["__key__"]: sample for sample in read(made.folder("webdataset"), split)}
        rows = made.split(split)
        assert set(samples) == {safe_key(post_id) for post_id in rows}
        for row in rows.values():
            sample = samples[safe_key(row.post_id)]
            parts = {row.extension, "json"} | ({"cls"} if kind == "class" else set())
            assert {name for name in sample if not name.startswith("__")} == parts
            assert sample[row.extension] == row.image
            assert json.loads(sample["json"]) == row.metadata_dict()
            if kind == "class":
                assert int(sample["cls"]) == sorted(LABELS).index(row.label)
    assert record.facts["classes"] == (sorted(LABELS) if kind == "class" else [])


def test_webdataset_decodes_pictures_and_classes(make: Callable[..., Made]) -> None:
    made = make(formats=("jpg",))
    raypipe.export(made.exporting("webdataset"))
    shards = sorted(map(str, made.folder("webdataset").glob("train-*.tar")))
    pairs = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls", "json"))
    assert len(pairs) == len(made.split("train"))
    for pixels, code, metadata_dict in pairs:
        assert pixels.shape == (24, 32, 3)
        assert sorted(LABELS)[code] == metadata_dict["label"]


def test_shards_have_requested_size_and_each_picture_once(make: Callable[..., Made]) -> None:
    made = make(side=250, formats=("jpg", "png"))
    record = raypipe.export(made.exporting("webdataset", shard_mb=1))
    folder = made.folder("webdataset")
    names = sorted(path.name for path in folder.glob("train-*.tar"))
    assert names == [f"train-{i:06d}.tar" for i in range(record.facts["shards"]["train"])]
    assert len(names) > 3
    largest = max(len(row.image) for row in made.rows.values()) + 8192
    assert all(path.stat().st_size < 1_000_000 + largest for path in folder.glob("*.tar"))
    keys = [sample["__key__"] for sample in read(folder, "train")]
    assert sorted(keys) == sorted(safe_key(post_id) for post_id in made.split("train"))


def test_members_have_no_machine_metadata_and_are_grouped(make: Callable[..., Made]) -> None:
    made = make()
    raypipe.export(made.exporting("webdataset"))
    data = (made.folder("webdataset") / "train-000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.isreg()
    names = [member.name.partition(".") for member in members]
    assert [name[2] for name in names[1::3]] == ["cls"] * (len(names) // 3)
    assert [name[2] for name in names[2::3]] == ["json"] * (len(names) // 3)
    assert [name[0] for name in names[0::3]] == [name[0] for name in names[2::3]]
    assert {name[2] for name in names[0::3]} == set(FORMATS)


def test_export_bytes_are_reproducible(make: Callable[..., Made]) -> None:
    made = make(side=250, formats=("jpg", "png"))
    for name in ("one", "two"):
        raypipe.export(made.exporting("webdataset", name=name, shard_mb=1))
    one, two = ({p.name: p.read_bytes() for p in made.folder(name).glob("*.tar")} for name in ("one", "two"))
    assert len(one) > 3
    assert one == two


def test_huggingface_reads_shards_of_one_format_too(make: Callable[..., Made], hf: Any, tmp_path: Path) -> None:
    made = make(formats=("jpg",))
    raypipe.export(made.exporting("webdataset"))
    files = {split: str(made.folder("webdataset") / f"{split}-*.tar") for split in ("train", "val", "test")}
    found = hf.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in found.items()} == {s: len(made.split(s)) for s in files}
    for row in found["val"].cast_column("jpg", hf.Image(decode=False)):
        assert row["jpg"]["bytes"] == made.rows[row["json"]["post_id"]].image
        assert sorted(LABELS)[row["cls"]] == row["json"]["label"]
