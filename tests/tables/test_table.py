"""The commit protocol: rows are accounted for, reruns do nothing, other runs are refused, readers see whole tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage
from tests.hostile import LEADS_OUT
from tests.table_runs import CONFIG, begin, complete, everything_under, ids_of, interrupt, rows


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


# Result of a complete run


def check_complete_run(storage: Storage) -> None:
    with begin(storage) as run:
        run.writer.write("00000", rows("a", "b"))
        run.writer.write("00001", rows("c"))
        run.writer.write("00000", pa.table({"p": [0.5]}), folder="predictions")
        run.writer.write_file("_model.json", b"{}")
        record = run.commit(rows_in=5, dropped={"no face": 2}, seconds={"fit": 1.23456}, facts={"nobs": 3})
    assert (record.rows_in, record.rows_out, record.dropped) == (5, 3, {"no face": 2})
    assert (record.seconds, record.facts, record.config, record.inputs) == (
        {"fit": 1.235},
        {"nobs": 3},
        CONFIG,
        {"posts": "aa"},
    )
    assert tables.get_record(storage, "labels") == record
    assert sorted(storage.files("labels")) == sorted([*(f.path for f in record.files), "_run.json"])
    assert {f.path: f.n_bytes for f in record.files} == {f.path: storage.size(f"labels/{f.path}") for f in record.files}
    assert ids_of(storage) == ["a", "b", "c"]
    assert tables.read_table(storage, "labels", ["p"], folder="predictions").to_pydict() == {"p": [0.5]}
    assert tables.read_table(storage, "labels", where=pc.field("post_id") > "a").num_rows == 2


def test_complete_run_leaves_table_and_record(storage: Storage) -> None:
    check_complete_run(storage)


@pytest.mark.cluster
def test_complete_run_on_s3_leaves_table_and_record(s3_endpoint: str) -> None:
    storage = Storage("s3://bucket/tables-complete", endpoint=s3_endpoint, region="us-east-1")
    check_complete_run(storage)
    with pytest.raises(StageError, match=r"label\.quantile was 0\.1, is 0\.2"):
        begin(storage, config={"seed": 0, "label": {"quantile": 0.2}})
    assert begin(storage).record is not None
    complete(storage, "new", config={}, overwrite=True)
    assert ids_of(storage) == ["new"]
    assert len(storage.files("labels")) == 2


def test_pandas_reads_folder_while_run_is_staged(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "_under" / "lr=0.1"))
    complete(storage, "a", "b")
    storage.write("labels/_model.json", b"{}")
    with begin(storage, config={}, overwrite=True) as run:
        run.writer.write("00000", rows("never published"))
        assert sorted(pd.read_parquet(storage.uri("labels"))["post_id"]) == ["a", "b"]
        assert ids_of(storage) == ["a", "b"]


def test_readers_use_only_listed_files(storage: Storage) -> None:
    complete(storage, "a")
    stray = pa.BufferOutputStream()
    pq.write_table(rows("stray"), stray)
    storage.write("labels/part-zzz.parquet", stray.getvalue().to_pybytes())
    assert ids_of(storage) == ["a"]


# Accounting for rows


@given(
    units=st.lists(st.integers(0, 5), max_size=4),
    dropped=st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    error=st.integers(-2, 2),
)
def test_rows_in_must_equal_rows_out_plus_dropped(
    tmp_path_factory: pytest.TempPathFactory, units: list[int], dropped: dict[str, int], error: int
) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("root")))
    rows_in = sum(units) + sum(dropped.values()) + error
    with begin(storage) as run:
        for number, n in enumerate(units):
            run.writer.write(f"{number:05d}", pa.table({"post_id": pa.array(map(str, range(n)), pa.string())}))
        if error:
            with pytest.raises(StageError, match=f"root.*: {rows_in} rows in, but {sum(units)} out and"):
                run.commit(rows_in=rows_in, dropped=dropped)
            assert tables.find_record(storage, "labels") is None
        else:
            record = run.commit(rows_in=rows_in, dropped=dropped)
            assert record.rows_in == record.rows_out + sum(record.dropped.values())


def test_lost_rows_raise_error_and_keep_old_table(storage: Storage) -> None:
    complete(storage, "a", "b")
    with begin(storage, overwrite=True) as run:
        run.writer.write("00000", rows("lost its brother"))
        with pytest.raises(StageError, match="2 rows in, but 1 out and 0 dropped"):
            run.commit(rows_in=2)
    assert ids_of(storage) == ["a", "b"]


def test_rows_out_can_be_given_explicitly(storage: Storage) -> None:
    with begin(storage, "train/A") as run:
        run.writer.write_file("results.json", b"[]")
        run.commit(rows_in=7, rows_out=7)
    assert tables.get_record(storage, "train/A").files[0].rows is None


# Reruns, and runs with other options


def test_rerun_of_complete_table_does_nothing(storage: Storage) -> None:
    record = complete(storage, "a")
    before = everything_under(storage)
    with begin(storage) as run:
        assert run.record == record
    assert everything_under(storage) == before


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"config": {"seed": 1, "label": {"quantile": 0.1}}}, ["seed was 0, is 1"]),
        ({"config": {"seed": 0, "label": {"quantile": 0.2}}}, ["label.quantile was 0.1, is 0.2"]),
        ({"inputs": {"posts": "bb"}}, ["input posts has changed"]),
        ({"config": {"seed": 3, "label": {"quantile": 0.1}}, "inputs": {}}, ["seed was 0", "input posts"]),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_run_with_other_options_is_refused(
    storage: Storage, changes: dict[str, Any], names: list[str], finished: bool
) -> None:
    if finished:
        complete(storage, "a")
    else:
        interrupt(storage, "a")
    before = everything_under(storage)
    with pytest.raises(StageError, match="use --overwrite, another --root, or the same options") as caught:
        begin(storage, **changes)
    assert all(name in str(caught.value) for name in names)
    assert storage.uri("labels") in str(caught.value)
    assert ("unfinished" in str(caught.value)) == (not finished)
    assert everything_under(storage) == before


def test_overwrite_replaces_the_whole_table(storage: Storage) -> None:
    old = complete(storage, "a", "b", "c")
    new = complete(storage, "z", config={"seed": 1}, overwrite=True)
    assert ids_of(storage) == ["z"]
    assert new.run_id != old.run_id
    assert sorted(storage.files("labels")) == sorted([new.files[0].path, "_run.json"])


def test_overwrite_does_a_finished_run_again(storage: Storage) -> None:
    old = complete(storage, "a")
    assert complete(storage, "b", overwrite=True).run_id != old.run_id
    assert ids_of(storage) == ["b"]


# Obstacles


def test_root_below_regular_file_raises_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StageError, match=r"file/run/labels/_claim\.json: cannot write: .*choose another --root"):
        begin(Storage(str(tmp_path / "file" / "run")))
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("table", "command"),
    [
        ("posts", "raypipe ingest --posts FILE"),
        ("images", "raypipe ingest"),
        ("labels", "raypipe label"),
        ("sweep", "raypipe sweep"),
        ("train/mine", "raypipe train"),
    ],
)
def test_missing_table_error_names_needed_command(storage: Storage, table: str, command: str) -> None:
    with pytest.raises(StageError) as caught:
        tables.read_table(storage, table)
    expected = f"{storage.uri(table)}: does not exist; run `{command} --root {storage.root}` first"
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["_run.json", "_claim.json"])
@pytest.mark.parametrize("text", ["", "{}", '{"run_id": "a', "[1]"])
def test_damaged_record_error_names_file_and_advice(storage: Storage, name: str, text: str) -> None:
    complete(storage, "a")
    storage.write(f"labels/{name}", text.encode())
    with pytest.raises(
        StageError, match=rf"labels/{name}: is not a valid file of raypipe: .*; delete the folder .*labels and"
    ) as caught:
        begin(storage)
    assert "\n" not in str(caught.value)


def test_missing_listed_file_raises_one_line_error(storage: Storage) -> None:
    record = complete(storage, "a")
    storage.delete(f"labels/{record.files[0].path}")
    with pytest.raises(
        StageError, match=r"labels: cannot read: it does not exist; run its stage again with --overwrite"
    ):
        ids_of(storage)


# Roots from other people


def _edit(storage: Storage, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(storage.read(path))
    change(found)
    storage.write(path, json.dumps(found).encode())


@pytest.mark.parametrize("path", LEADS_OUT)
@pytest.mark.parametrize("overwrite", [False, True])
def test_record_with_outside_paths_is_refused(storage: Storage, tmp_path: Path, path: str, overwrite: bool) -> None:
    complete(storage, "a")
    (tmp_path / "x").write_bytes(b"mine")
    before = storage.files("")
    _edit(storage, "labels/_run.json", lambda record: record["files"].append({"path": path, "rows": 1, "n_bytes": 4}))
    with pytest.raises(StageError, match=r"labels/_run.json: is not a valid file of raypipe"):
        ids_of(storage)
    with pytest.raises(StageError, match=r"labels/_run.json: is not a valid file of raypipe"):
        complete(storage, "b", overwrite=overwrite)
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert set(before) <= set(storage.files(""))


@pytest.mark.parametrize(
    ("name", "key"), [("_claim.json", "run_id"), ("record", "table"), ("record", "run_id"), ("record", "replaces")]
)
@pytest.mark.parametrize("path", ["..", "../..", "../../x", "/etc"])
def test_staged_record_with_outside_paths_is_refused(
    storage: Storage, tmp_path: Path, name: str, key: str, path: str
) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    (tmp_path / "_staging").mkdir()
    (tmp_path / "_staging" / "y").write_bytes(b"mine")
    record = complete(storage, "a")
    interrupt(storage, "b", overwrite=True)
    run_id = json.loads(storage.read("labels/_claim.json"))["run_id"]
    staged = f"labels/_staging/{run_id}/_record.json"
    whole = json.loads(record.model_dump_json()) | {"run_id": run_id, "files": []}
    storage.write(staged, json.dumps({"record": whole, "replaces": []}).encode())

    def change(found: dict[str, Any]) -> None:
        if key == "replaces":
            found["replaces"] = [path]
        else:
            (found["record"] if name == "record" else found)[key] = path

    _edit(storage, staged if name == "record" else "labels/_claim.json", change)
    with pytest.raises(StageError, match=r"json: is not a valid file of raypipe"):
        begin(storage)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "_staging" / "y").read_bytes() == b"mine"
