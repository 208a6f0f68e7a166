"""Interrupted runs: the same command resumes them, others are refused, and the old table stays readable."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables.record import Claim
from tests.table_runs import CONFIG, begin, complete, everything_under, ids_of, interrupt, rows


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def test_interrupted_run_is_resumed(storage: Storage) -> None:
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


def test_interrupted_run_keeps_old_table_readable(storage: Storage) -> None:
    complete(storage, "a")
    interrupt(storage, "half", config={}, overwrite=True)
    assert ids_of(storage) == ["a"]


def test_fully_staged_run_is_published_next_time(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with begin(storage) as run, monkeypatch.context() as patch:
        run.writer.write("00000", rows("a"))
        patch.setattr("raypipe.tables.table.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run.commit(rows_in=1)
    assert tables.find_record(storage, "labels") is None
    # A run with other options is refused, and the finished work is kept.
    with pytest.raises(StageError, match="has the result of another configuration"):
        begin(storage, config={"seed": 9})
    assert ids_of(storage) == ["a"]
    assert begin(storage).record is not None


def test_published_run_with_leftovers_is_complete(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with begin(storage) as run, monkeypatch.context() as patch:
        run.writer.write("00000", rows("a"))
        # The kill comes after the staged files are deleted and before the claim is.
        patch.setattr(Storage, "delete_temporaries", killed)
        with pytest.raises(KeyboardInterrupt):
            run.commit(rows_in=1)
    assert storage.exists("labels/_claim.json")
    again = begin(storage)
    assert again.record is not None
    assert again.record.run_id == run.writer.run_id
    assert sorted(storage.files("labels")) == ["_run.json", run.writer.part_name("00000")]


@pytest.mark.parametrize("table", ["labels", "train/A"])
def test_attempt_without_staged_files_leaves_nothing(storage: Storage, table: str) -> None:
    with pytest.raises(ValueError), begin(storage, table):
        raise ValueError("bad input, found late")
    assert not storage.exists(table)
    complete(storage, "a", table=table)
    before = everything_under(storage)
    with pytest.raises(ValueError), begin(storage, table, config={}, overwrite=True):
        raise ValueError("bad input, found late")
    assert everything_under(storage) == before


def test_table_written_by_another_process_is_refused(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    claim = Claim.new("label", CONFIG, {"posts": "aa"}, "0123abcd")
    claim = claim.model_copy(update={"pid": process.pid, "process_started": started})
    storage.write("labels/_claim.json", claim.model_dump_json().encode())
    before = everything_under(storage)
    for overwrite in (False, True):
        with pytest.raises(StageError, match=rf"labels: process {process.pid} \(`raypipe label`\) is writing to it"):
            begin(storage, overwrite=overwrite)
    assert everything_under(storage) == before
    process.communicate(b"\n", timeout=20)
    with begin(storage) as run:
        assert run.writer.run_id == "0123abcd"


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


@pytest.mark.cluster
def test_full_disk_leaves_only_whole_files(small_disk: Path) -> None:
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
def test_disk_full_from_start_stays_unchanged(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    storage = Storage(str(small_disk))
    with pytest.raises(StageError, match=r"labels/_claim\.json: cannot write: No space left on device; free space"):
        begin(storage)
    assert list(everything_under(storage)) == ["filler"]


def test_temporary_file_of_killed_write_is_ignored(storage: Storage) -> None:
    run = interrupt(storage, "a")
    Path(storage.path(run.writer.staging, "_part-x.parquet.0123abcd.tmp")).write_bytes(b"half")
    with begin(storage) as again:
        record = again.commit(rows_in=1)
    assert [file.rows for file in record.files] == [1]
    assert sorted(storage.files("labels")) == sorted([record.files[0].path, "_run.json"])
    assert not list(Path(storage.root).rglob("*.tmp"))
