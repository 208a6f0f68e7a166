"""Only complete tables are read, and of the pictures only what is asked for."""

from __future__ import annotations

import pyarrow as pa

from raypipe import tables
from raypipe.config import Config
from raypipe.report.sources import Sources
from raypipe.schemas import IMAGES
from tests.report.root import Built, jpeg, write_training


def test_an_empty_root_holds_nothing(config: Config) -> None:
    sources = Sources.open(config.open_storage())
    assert sources.records == {}
    assert sources.posts is None
    assert sources.labels is None
    assert sources.model is None
    assert sources.pictures(["p1"]) == {}
    assert sources.training_tables == []


def test_unfinished_tables_are_not_read(built: Built) -> None:
    run = tables.begin(built.storage, "train/C", command="train", config={}, inputs={})
    run.writer.write_file("results.json", b"[]")
    sources = Sources.open(built.storage)
    assert "train/C" not in sources
    assert sources.training_tables == ["sweep"]


def test_training_tables_are_found_one_level_down(built: Built) -> None:
    for name in ("train/A", "train/long-name"):
        write_training(built.storage, name, built.results[:4], built.table1[:1], built.predictions)
    built.storage.write("train/A/deeper/_run.json", b"{}")
    assert Sources.open(built.storage).training_tables == ["sweep", "train/A", "train/long-name"]


def test_fingerprints_are_the_run_ids(built: Built) -> None:
    found = Sources.open(built.storage).fingerprints
    assert found["labels"] == tables.get_record(built.storage, "labels").run_id
    assert set(found) == {"posts", "truth", "images", "labels", "sweep"}


def test_pictures_come_from_any_of_several_files(config: Config) -> None:
    storage = config.open_storage()
    blank = {field.name: None for field in IMAGES} | {"url": "u", "status": "ok", "attempts": 1}
    with tables.begin(storage, "images", command="images", config={}, inputs={}) as run:
        for part in range(3):
            rows = [{**blank, "post_id": f"p{part}{i}", "image": jpeg(part) if i else None} for i in range(4)]
            run.writer.write(f"{part:05d}", pa.Table.from_pylist(rows, schema=IMAGES))
        run.commit(rows_in=12)
    found = Sources.open(storage).pictures(["p01", "p23", "p20", "unknown"])
    assert found == {"p01": jpeg(0), "p23": jpeg(2)}


def test_files_that_the_record_does_not_list_are_not_read(built: Built) -> None:
    built.storage.write("sweep/stray.json", b"[1]")
    sources = Sources.open(built.storage)
    assert sources.json("sweep", "stray.json") is None
    assert sources.file("labels", "nothing.json") is None
    assert len(sources.json("sweep", "results.json")) == len(built.results)
