"""This version reads and resumes a root that raypipe 0.1.0 wrote (tests/data/README.md)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import raypipe
from raypipe import load_config, tables
from raypipe.config import Config

ARCHIVE = Path(__file__).parent / "data" / "root-0.1.0.tar.xz"
LABEL = {"quantile": 0.4, "test": 0.2, "eligible": "image"}
TRAIN = {"model": "shufflenet_v2_x0_5", "weights": "random", "image_size": 32, "epochs": 2, "gpu": False}


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The unpacked root."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "root"


def configured(root: Path, **sections: Any) -> Config:
    return load_config(root=str(root), label=LABEL, train=TRAIN, judge={"bootstraps": 5}, **sections)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("table", "rows"), [("posts", 40), ("images", 40), ("labels", 35), ("truth", 40)])
def test_each_table_is_read(older: Path, table: str, rows: int) -> None:
    assert tables.read_table(configured(older).open_storage(), table).num_rows == rows


@pytest.mark.parametrize(
    ("stage", "table", "sections"),
    [
        ("ingest", "images", {"ingest": {"allow_private": True, "allow_ports": [8471]}}),
        ("label", "labels", {}),
        ("judge", "judge", {}),
        ("train", "train/A", {}),
        ("export", "export/whole", {"export": {"name": "whole"}}),
    ],
)
def test_complete_table_is_not_made_again(older: Path, stage: str, table: str, sections: dict[str, Any]) -> None:
    config, before = configured(older, **sections), contents(older)
    assert getattr(raypipe, stage)(config) == tables.get_record(config.open_storage(), table)
    assert contents(older) == before


def test_another_option_is_refused(older: Path) -> None:
    with pytest.raises(raypipe.StageError, match=r"label\.quantile was 0\.4, is 0\.3"):
        raypipe.label(load_config(root=str(older), label={**LABEL, "quantile": 0.3}))


def test_killed_export_is_resumed(older: Path) -> None:
    folder = older / "export" / "killed"
    (staging,) = (folder / "_staging").iterdir()
    staged = {path.name: path.stat().st_mtime_ns for path in staging.rglob("*.jpg") if not path.name.startswith("_")}
    config = configured(older, export={"name": "killed", "format": "folder"})
    record = raypipe.export(config)
    written = {path.name: path for path in folder.rglob("*.jpg")}
    assert record.rows_out == len(written) == tables.get_record(config.open_storage(), "export/whole").rows_out
    assert len(staged) == 13
    assert {name: written[name].stat().st_mtime_ns for name in staged} == staged, (
        "staged pictures are not written again"
    )
    assert {path.name for path in folder.iterdir()} == {"_run.json", "classes.json", "train", "val", "test"}


def test_model_predicts_and_report_shows_results(older: Path) -> None:
    with tarfile.open(older / "export" / "whole" / "val-000000.tar") as shard:
        shard.extractall(older.parent / "pictures", filter="data")
    predict = {"model": "train/A", "inputs": [str(older.parent / "pictures")]}
    assert raypipe.predict(configured(older, predict=predict)).rows_out == 7
    raypipe.report(configured(older))
    page = (older / "report" / "index.html").read_text()
    row = json.loads((older / "train" / "A" / "results.json").read_text())[0]
    assert f"{row['val_accuracy']:.4f}"[:5] in page
