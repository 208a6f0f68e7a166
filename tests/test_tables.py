"""The commit protocol: rows are accounted for, same runs do nothing, others are refused, readers see whole tables."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe import tables
from raypipe.errors import StageError
from raypipe.records import Claim, RunRecord
from raypipe.schemas import IMAGES
from raypipe.storage import Storage
from raypipe.tables import TableRun

CONFIG = {"seed": 0, "label": {"quantile": 0.1}}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def begin(storage: Storage, table: str = "labels", **changes: Any) -> TableRun:
    arguments: dict[str, Any] = {"command": "label", "config": CONFIG, "inputs": {"posts": "aa"}}
    return tables.begin(storage, table, **(arguments | changes))


def rows(*ids: str) -> pa.Table:
    return pa.table({"post_id": list(ids)})


def complete(storage: Storage, *ids: str, table: str = "labels", **changes: Any) -> RunRecord:
    with begin(storage, table, **changes) as run:
        assert run.record is None
        for number, name in enumerate(ids):
            run.writer.write(f"{number:05d}", rows(name))
        return run.commit(rows_in=len(ids))


def interrupt(storage: Storage, *ids: str, **changes: Any) -> TableRun:
    """A run that Ctrl-C ends after it has staged a unit for each of `ids`."""
    with contextlib.suppress(KeyboardInterrupt), begin(storage, **changes) as run:
        for number, name in enumerate(ids):
            run.writer.write(f"{number:05d}", rows(name))
        raise KeyboardInterrupt
    return run


def ids_of(storage: Storage, table: str = "labels") -> list[str]:
    return tables.read_table(storage, table)["post_id"].to_pylist()


def everything_under(storage: Storage) -> dict[str, bytes]:
    root = Path(storage.root)
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else b"" for p in sorted(root.rglob("*"))}


# What a complete run leaves


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


def test_a_complete_run(storage: Storage) -> None:
    check_complete_run(storage)


@pytest.mark.cluster
def test_a_complete_run_on_s3(s3_endpoint: str) -> None:
    storage = Storage("s3://bucket/tables-complete", endpoint=s3_endpoint, region="us-east-1")
    check_complete_run(storage)
    with pytest.raises(StageError, match=r"label\.quantile was 0\.1, is 0\.2"):
        begin(storage, config={"seed": 0, "label": {"quantile": 0.2}})
    assert begin(storage).record is not None
    complete(storage, "new", config={}, overwrite=True)
    assert ids_of(storage) == ["new"]
    assert len(storage.files("labels")) == 2


def test_pandas_reads_the_folder_also_while_another_run_is_staged(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "_under" / "lr=0.1"))
    complete(storage, "a", "b")
    storage.write("labels/_model.json", b"{}")
    with begin(storage, config={}, overwrite=True) as run:
        run.writer.write("00000", rows("never published"))
        assert sorted(pd.read_parquet(storage.uri("labels"))["post_id"]) == ["a", "b"]
        assert ids_of(storage) == ["a", "b"]


def test_readers_go_by_the_list(storage: Storage) -> None:
    complete(storage, "a")
    stray = pa.BufferOutputStream()
    pq.write_table(rows("stray"), stray)
    storage.write("labels/part-zzz.parquet", stray.getvalue().to_pybytes())
    assert ids_of(storage) == ["a"]


def test_nested_columns_are_compressed_and_image_bytes_are_not(storage: Storage) -> None:
    face = {"left": 1, "top": 2, "right": 3, "bottom": 4, "score": 0.5}
    image = {"post_id": "1", "url": "u", "status": "ok", "attempts": 1, "image": bytes(5000), "faces": [face]}
    table = pa.Table.from_pylist([image], schema=IMAGES).append_column("a.b", pa.array(["dotted"]))
    with begin(storage, "images") as run:
        run.writer.write("00000", table)
        run.commit(rows_in=1)
    (path,) = tables.data_paths(storage, "images")
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if c.compression == "UNCOMPRESSED"} == {"image"}
    assert {c.compression for c in columns} == {"UNCOMPRESSED", "ZSTD"}
    assert len(columns) == len(IMAGES) - 1 + len(face) + 1
    assert tables.read_table(storage, "images").equals(table)


# The law


@given(
    units=st.lists(st.integers(0, 5), max_size=4),
    dropped=st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    error=st.integers(-2, 2),
)
def test_rows_in_are_rows_out_and_dropped(
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


def test_lost_rows_leave_the_published_table_as_it_was(storage: Storage) -> None:
    complete(storage, "a", "b")
    with begin(storage, overwrite=True) as run:
        run.writer.write("00000", rows("lost its brother"))
        with pytest.raises(StageError, match="2 rows in, but 1 out and 0 dropped"):
            run.commit(rows_in=2)
    assert ids_of(storage) == ["a", "b"]


def test_rows_out_can_be_given_where_rows_are_not_files(storage: Storage) -> None:
    with begin(storage, "train/A") as run:
        run.writer.write_file("results.json", b"[]")
        run.commit(rows_in=7, rows_out=7)
    assert tables.get_record(storage, "train/A").files[0].rows is None


# The same run, another run


def test_the_same_run_does_nothing(storage: Storage) -> None:
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
def test_another_run_is_refused_naming_what_differs(
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


def test_overwrite_replaces_and_leaves_nothing_of_the_old(storage: Storage) -> None:
    old = complete(storage, "a", "b", "c")
    new = complete(storage, "z", config={"seed": 1}, overwrite=True)
    assert ids_of(storage) == ["z"]
    assert new.run_id != old.run_id
    assert sorted(storage.files("labels")) == sorted([new.files[0].path, "_run.json"])


def test_overwrite_does_a_finished_run_again(storage: Storage) -> None:
    old = complete(storage, "a")
    assert complete(storage, "b", overwrite=True).run_id != old.run_id
    assert ids_of(storage) == ["b"]


# Interruptions


def test_an_interrupted_run_is_taken_up(storage: Storage) -> None:
    first = interrupt(storage, "a")
    first.writer.write("00000", rows("p"), folder="predictions")
    with pytest.raises(StageError, match=r"labels: is unfinished; run `raypipe label --root .*` first"):
        tables.get_record(storage, "labels")
    with begin(storage) as second:
        assert second.resumed
        assert second.writer.run_id == first.writer.run_id
        assert second.writer.units_done() == {"00000"}
        assert tables.read_staged(second.writer, "00000", ["post_id"]).to_pydict() == {"post_id": ["a"]}
        second.writer.write("00001", rows("b"))
        second.commit(rows_in=2)
    assert ids_of(storage) == ["a", "b"]


def test_an_interrupted_run_does_not_hide_the_complete_one(storage: Storage) -> None:
    complete(storage, "a")
    interrupt(storage, "half", config={}, overwrite=True)
    assert ids_of(storage) == ["a"]


def test_a_run_staged_whole_is_published_by_the_next_attempt(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with begin(storage) as run, monkeypatch.context() as patch:
        run.writer.write("00000", rows("a"))
        patch.setattr(tables, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run.commit(rows_in=1)
    assert tables.find_record(storage, "labels") is None
    # Whatever comes next, the finished work is not thrown away before the question of options is asked.
    with pytest.raises(StageError, match="holds the result of another configuration"):
        begin(storage, config={"seed": 9})
    assert ids_of(storage) == ["a"]
    assert begin(storage).record is not None


@pytest.mark.parametrize("table", ["labels", "train/A"])
def test_an_attempt_that_staged_nothing_leaves_no_trace(storage: Storage, table: str) -> None:
    with pytest.raises(ValueError), begin(storage, table):
        raise ValueError("bad input, found late")
    assert not storage.exists(table)
    complete(storage, "a", table=table)
    before = everything_under(storage)
    with pytest.raises(ValueError), begin(storage, table, config={}, overwrite=True):
        raise ValueError("bad input, found late")
    assert everything_under(storage) == before


def test_a_table_that_another_process_writes_is_left_alone(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    claim = Claim.new("label", CONFIG, {"posts": "aa"}, "0123abcd")
    claim = claim.model_copy(update={"pid": process.pid, "process_started": started})
    storage.write("labels/_claim.json", claim.model_dump_json().encode())
    before = everything_under(storage)
    for overwrite in (False, True):
        with pytest.raises(StageError, match=rf"labels: process {process.pid} \(`raypipe label`\) is writing there"):
            begin(storage, overwrite=overwrite)
    assert everything_under(storage) == before
    process.communicate(b"\n", timeout=20)
    with begin(storage) as run:
        assert run.writer.run_id == "0123abcd"


# What stands in the way


def test_a_root_below_a_regular_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StageError, match=r"file/run/labels/_claim\.json: cannot write: .*choose another --root"):
        begin(Storage(str(tmp_path / "file" / "run")))
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.cluster
def test_a_full_disk_keeps_whole_files_only(small_disk: Path) -> None:
    storage = Storage(str(small_disk / "run"))
    noise = pa.table({"image": [bytes(400_000)], "post_id": ["a"]})
    with begin(storage) as run:
        run.writer.write("00000", noise)
        run.writer.write("00001", noise)
        with pytest.raises(StageError, match=r"cannot write: No space left on device; free space"):
            run.writer.write("00002", noise)
    staged = [name for name in storage.files("labels") if name.endswith(".parquet")]
    assert len(staged) == 2
    assert not [name for name in storage.files("labels") if name.endswith(".tmp")]
    with begin(storage) as again:
        assert again.writer.units_done() == {"00000", "00001"}
        again.commit(rows_in=2)
    assert ids_of(storage) == ["a", "a"]


@pytest.mark.cluster
def test_a_disk_that_is_full_already_is_left_without_a_trace(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    storage = Storage(str(small_disk))
    with pytest.raises(StageError, match=r"labels/_claim\.json: cannot write: No space left on device; free space"):
        begin(storage)
    assert list(everything_under(storage)) == ["filler"]


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
def test_a_missing_table_names_the_command_that_makes_it(storage: Storage, table: str, command: str) -> None:
    with pytest.raises(StageError) as caught:
        tables.read_table(storage, table)
    expected = f"{storage.uri(table)}: is not there; run `{command} --root {storage.root}` first"
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["_run.json", "_claim.json"])
@pytest.mark.parametrize("text", ["", "{}", '{"run_id": "a', "[1]"])
def test_a_damaged_record_says_which_file_and_what_to_do(storage: Storage, name: str, text: str) -> None:
    complete(storage, "a")
    storage.write(f"labels/{name}", text.encode())
    with pytest.raises(
        StageError, match=rf"labels/{name}: cannot be read .*; delete the folder .*labels and"
    ) as caught:
        begin(storage)
    assert "\n" not in str(caught.value)


def test_the_writer_works_from_another_process(storage: Storage) -> None:
    with begin(storage) as run:
        sent = pickle.dumps(run.writer)
        program = (
            "import pickle, sys, pyarrow as pa\n"
            "writer = pickle.load(sys.stdin.buffer)\n"
            "writer.write('00007', pa.table({'post_id': ['far']}))\n"
        )
        subprocess.run([sys.executable, "-c", program], input=sent, check=True, timeout=60)
        assert run.writer.units_done() == {"00007"}
        run.commit(rows_in=1)
    assert ids_of(storage) == ["far"]
