"""Parquet exports, read by Hugging Face `datasets` by the card, from the files, and as a stream."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import raypipe
from raypipe.export.parquet import make_schema
from raypipe.export.safe_names import safe_key
from tests.export.conftest import LABELS, Made

KINDS = ["class", "continuous", "hashtags", None]


def check(hf: Any, found: Any, rows: dict[str, Any], kind: str | None) -> None:
    """Check all pictures of a split by bytes and pixels, and their labels."""
    assert sorted(found["post_id"]) == sorted(rows)
    plain = found.cast_column("image", hf.Image(decode=False))
    for stored, decoded in zip(plain, found, strict=True):
        row = rows[stored["post_id"]]
        assert stored["image"] == {"bytes": row.image, "path": f"{safe_key(row.post_id)}.{row.extension}"}
        assert decoded["image"].tobytes() == Image.open(io.BytesIO(row.image)).tobytes()
        label = found.features["label"].int2str(stored["label"]) if kind == "class" else stored.get("label")
        metadata_dict = row.metadata_dict()
        assert label == metadata_dict["label"]
        names = [name for name in ("score", "width", "height", "n_faces", "faces") if kind or name != "score"]
        assert [stored[name] for name in names] == [metadata_dict[name] for name in names]


def expected_features(hf: Any, kind: str | None) -> Any:
    value = hf.Value
    label = {"class": hf.ClassLabel(names=sorted(LABELS)), "continuous": value("float64")}
    label["hashtags"] = hf.List(value("string"))
    box = {name: value("int32") for name in ("left", "top", "right", "bottom")} | {"score": value("float32")}
    beside = {name: value("int32") for name in ("width", "height", "n_faces")}
    with_label = {"label": label[kind], "post_id": value("string"), "score": value("float64")} if kind else {}
    columns = {"image": hf.Image(), "post_id": value("string")} if not kind else {"image": hf.Image()}
    return hf.Features(columns | with_label | beside | {"faces": hf.List(box)})


@pytest.mark.parametrize("kind", KINDS)
def test_schema_matches_huggingface_features(hf: Any, kind: Any) -> None:
    schema = make_schema(kind, tuple(sorted(LABELS)) if kind == "class" else ())
    wanted = expected_features(hf, kind)
    assert schema.remove_metadata() == wanted.arrow_schema.remove_metadata()
    assert hf.Features.from_arrow_schema(schema) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_loads_folder_by_its_card(
    make: Callable[..., Made], hf: Any, tmp_path: Path, kind: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(kind, side=60)
    raypipe.export(made.exporting("hf"))
    found = hf.load_dataset(str(made.folder("hf")), cache_dir=str(tmp_path / "cache"))
    splits = ["train", "val", "test"] if kind else ["train"]
    assert list(found) == splits
    for split in splits:
        check(hf, found[split], made.split(split), kind)
    info = hf.load_dataset_builder(str(made.folder("hf")), cache_dir=str(tmp_path / "other")).info
    assert info.features == expected_features(hf, kind)
    assert {s.name: s.num_examples for s in info.splits.values()} == {s: len(made.split(s)) for s in splits}
    assert info.splits["train"].num_bytes == sum(len(row.image) for row in made.split("train").values())
    assert "gnoring" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_loads_parquet_files_directly(
    make: Callable[..., Made], hf: Any, tmp_path: Path, kind: str | None
) -> None:
    made = make(kind)
    raypipe.export(made.exporting("hf"))
    files = str(made.folder("hf") / "data" / "train-*.parquet")
    found = hf.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features == expected_features(hf, kind)
    check(hf, found, made.split("train"), kind)
    stream = hf.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert next(iter(stream))["image"].size == (32, 24)


def test_files_are_numbered_and_have_small_row_groups(make: Callable[..., Made], hf: Any) -> None:
    made = make(side=60, n=600, formats=("jpg",))
    record = raypipe.export(made.exporting("hf", shard_mb=1))
    n = record.facts["shards"]["train"]
    names = sorted(path.name for path in made.folder("hf").glob("data/train-*"))
    assert names == [f"train-{i:05d}-of-{n:05d}.parquet" for i in range(n)]
    assert n > 1
    files = [pq.ParquetFile(path) for path in sorted(made.folder("hf").glob("data/train-*"))]
    groups = [f.metadata.row_group(i).num_rows for f in files for i in range(f.num_row_groups)]
    assert sum(groups) == len(made.split("train"))
    assert max(groups) == 100
    column = files[0].metadata.row_group(0).column(0)
    assert (column.path_in_schema, column.compression) == ("image.bytes", "UNCOMPRESSED")
    assert hf.Features.from_arrow_schema(files[-1].schema_arrow) == expected_features(hf, "class")
