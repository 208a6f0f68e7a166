"""Only complete tables are read, and only the requested pictures."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.report import judge_results, regression, training_results
from raypipe.tables.root_tables import RootTables
from raypipe.tables.schemas import IMAGES
from tests.report.root import Built, commit, jpeg, write_training


def test_an_empty_root_holds_nothing(config: Config) -> None:
    root_tables = RootTables.open(config.open_storage())
    assert root_tables.records == {}
    assert root_tables.posts is None
    assert root_tables.labels is None
    assert root_tables.model is None
    assert root_tables.pictures(["p1"]) == {}
    assert root_tables.training_tables == []


def test_unfinished_tables_are_not_read(built: Built) -> None:
    run = tables.begin(built.storage, "train/C", command="train", config={}, inputs={})
    run.writer.write_file("results.json", b"[]")
    root_tables = RootTables.open(built.storage)
    assert "train/C" not in root_tables
    assert root_tables.training_tables == ["sweep"]


def test_training_tables_are_found_one_level_down(built: Built) -> None:
    for name in ("train/A", "train/long-name"):
        write_training(built.storage, name, built.results[:4], built.table1[:1], built.predictions)
    built.storage.write("train/A/deeper/_run.json", b"{}")
    assert RootTables.open(built.storage).training_tables == ["sweep", "train/A", "train/long-name"]


def test_fingerprints_are_the_run_ids(built: Built) -> None:
    found = RootTables.open(built.storage).run_ids
    assert found["labels"] == tables.get_record(built.storage, "labels").run_id
    assert set(found) == {"posts", "truth", "images", "labels", "sweep"}


def test_pictures_are_found_in_several_files(config: Config) -> None:
    storage = config.open_storage()
    blank = {field.name: None for field in IMAGES} | {"url": "u", "status": "ok", "attempts": 1}
    with tables.begin(storage, "images", command="images", config={}, inputs={}) as run:
        for part in range(3):
            rows = [{**blank, "post_id": f"p{part}{i}", "image": jpeg(part) if i else None} for i in range(4)]
            run.writer.write(f"{part:05d}", pa.Table.from_pylist(rows, schema=IMAGES))
        run.commit(rows_in=12)
    found = RootTables.open(storage).pictures(["p01", "p23", "p20", "unknown"])
    assert found == {"p01": jpeg(0), "p23": jpeg(2)}


def test_unlisted_files_are_not_read(built: Built) -> None:
    built.storage.write("sweep/stray.json", b"[1]")
    root_tables = RootTables.open(built.storage)
    assert root_tables.json("sweep", "stray.json") is None
    assert root_tables.file("labels", "nothing.json") is None
    assert len(root_tables.json("sweep", "results.json")) == len(built.results)


DAMAGED = (b"[" * 100_000, b"\x00", b"", b"\xff", b'{"a":', b'{"n":' + b"9" * 5_000 + b"}")
CSV = b"configuration,seeds,max_val_accuracy,epochs,final_val_accuracy,test_accuracy\n"


@pytest.mark.parametrize("data", DAMAGED)
def test_damaged_json_error_names_file_in_one_line(config: Config, data: bytes) -> None:
    storage = config.open_storage()
    commit(storage, "judge", files={"judge.json": data})
    with pytest.raises(InputError, match=r"judge.json: is not a valid file of raypipe \(") as caught:
        RootTables.open(storage).json("judge", "judge.json")
    assert "\n" not in str(caught.value)
    assert "make judge/ again with --overwrite" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("results.json", b"5"),
        ("results.json", b'{"a": 1}'),
        ("results.json", b"[1]"),
        ("results.json", b'[{"configuration": "A", "trial": "t", "epoch": "x"}]'),
        ("results.json", b'[{"configuration": "A", "trial": [], "epoch": 1, "seed": 0}]'),
        ("table1.csv", b"a\n1\n"),
        ("table1.csv", b"\xff"),
        ("table1.csv", CSV + b"A,x,,1,,\n"),
        ("table1.csv", CSV + b"A,1,,1,\n"),
        ("table1.csv", CSV.strip() + b",more\nA,1,,1,,,x\n"),
        ("comparisons.csv", b"a\n1\n"),
    ],
)
def test_changed_training_files_raise_error(config: Config, name: str, data: bytes) -> None:
    storage = config.open_storage()
    files = {"table1.csv": CSV + b"A,1,0.5,1,0.5,0.5\n", "results.json": b"[]"}
    commit(storage, "sweep", files=files)
    assert training_results.build(RootTables.open(storage)) is not None
    commit(storage, "sweep", files={**files, name: data})
    with pytest.raises(InputError, match=rf"sweep/{name}: is not a valid file of raypipe"):
        training_results.build(RootTables.open(storage))


@pytest.mark.parametrize("found", [{}, {"n": 1, "baseline": 5}, {"n": 1, "baseline": [{"label": "top"}]}])
def test_changed_judge_file_raises_error(built: Built, found: dict[str, Any]) -> None:
    inputs = {"labels": tables.get_record(built.storage, "labels").run_id}
    commit(built.storage, "judge", files={"judge.json": json.dumps(found).encode()}, inputs=inputs)
    with pytest.raises(InputError, match=r"judge.json: is not a valid file of raypipe"):
        judge_results.build(RootTables.open(built.storage))


@pytest.mark.parametrize(
    ("table", "name", "found"),
    [
        ("labels", "_model.json", {"params": {"Intercept": "x"}}),
        ("labels", "_model.json", {"params": [1]}),
        ("labels", "_model.json", {"params": {"Intercept": 1}, "bse": {}}),
        ("truth", "_truth.json", {"params": 5}),
        ("truth", "_truth.json", {"params": {"Intercept": "x"}}),
    ],
)
def test_changed_regression_file_raises_error(built: Built, table: str, name: str, found: dict[str, Any]) -> None:
    root_tables = RootTables.open(built.storage)
    path = f"{table}/{name}"
    assert built.storage.exists(path)
    built.storage.write(path, json.dumps(found).encode())
    with pytest.raises(InputError, match=rf"{name}: is not a valid file of raypipe"):
        regression.build(root_tables)
