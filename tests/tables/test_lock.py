"""If several commands start the same table at the same moment, one of them gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables import lock as claims
from raypipe.tables.lock import ClaimVersion
from raypipe.tables.record import Claim
from tests.table_runs import begin, complete, everything_under, ids_of, interrupt

# Waits before it writes its claim, so that all commands look first. Holds the table until it gets a line.
PROGRAM = """
import sys, time
from raypipe import tables
from raypipe.tables import lock as claims
from raypipe.errors import RaypipeError
from raypipe.storage import Storage

put = claims.put
def late(*arguments):
    time.sleep(0.5)
    put(*arguments)
claims.put = late
sys.stdin.readline()
try:
    root, endpoint = sys.argv[1:]
    storage = Storage(root, endpoint or None, "us-east-1")
    run = tables.begin(storage, "labels", command="label", config={"seed": 0, "label": {"quantile": 0.1}},
                       inputs={"posts": "aa"})
    print("mine", run.writer.run_id, flush=True)
    sys.stdin.readline()
except RaypipeError as error:
    print(error, flush=True)
"""


def begin_at_once(storage: Storage, n: int = 4) -> tuple[list[str], list[str]]:
    """Start `n` commands at once. Returns the output of those that got the table, and of the others."""
    words = [sys.executable, "-c", PROGRAM, storage.root, storage.endpoint or ""]
    running = [
        subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for _ in range(n)
    ]
    said = []
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        assert process.stdout is not None
        said.append(process.stdout.readline().strip())
    for process in running:
        process.communicate("\n", timeout=60)
    return [line for line in said if line.startswith("mine")], [line for line in said if not line.startswith("mine")]


def check_one_gets_it(storage: Storage) -> None:
    mine, others = begin_at_once(storage)
    assert len(mine) == 1
    assert len(others) == 3
    assert all("is writing to it" in line or "at the same time" in line for line in others)
    with begin(storage) as run:
        assert run.resumed
        assert f"mine {run.writer.run_id}" == mine[0]


def check_one_takes_it_up(storage: Storage) -> None:
    first = interrupt(storage, "a")
    storage.write("labels/_claim.json", claim_of_the_dead(first.writer.run_id))
    mine, others = begin_at_once(storage)
    assert (mine, len(others)) == ([f"mine {first.writer.run_id}"], 3)
    with begin(storage) as run:
        assert run.writer.units_done() == {"00000"}
        run.commit(rows_in=1)
    assert ids_of(storage) == ["a"]


def claim_of_the_dead(run_id: str) -> bytes:
    claim = Claim.new("label", {"seed": 0, "label": {"quantile": 0.1}}, {"posts": "aa"}, run_id)
    return claim.model_copy(update={"process_started": 0.0}).model_dump_json().encode()


def test_one_of_several_processes_gets_new_table(tmp_path: Path) -> None:
    check_one_gets_it(Storage(str(tmp_path / "root")))


def test_one_of_several_processes_resumes_interrupted_run(tmp_path: Path) -> None:
    check_one_takes_it_up(Storage(str(tmp_path / "root")))


@pytest.mark.cluster
def test_one_of_several_processes_gets_table_on_s3(s3_endpoint: str) -> None:
    check_one_gets_it(Storage("s3://bucket/claims-new", endpoint=s3_endpoint, region="us-east-1"))
    check_one_takes_it_up(Storage("s3://bucket/claims-old", endpoint=s3_endpoint, region="us-east-1"))


@pytest.mark.cluster
def test_later_claim_on_s3_fails_and_changes_nothing(s3_endpoint: str) -> None:
    storage = Storage("s3://bucket/claims-later", endpoint=s3_endpoint, region="us-east-1")
    run = interrupt(storage, "a")
    before = storage.sizes("labels")
    claim = Claim.new("label", {}, {}, "4567cdef")
    for claim_version in (ClaimVersion(), ClaimVersion(None, {"e_tag": '"0123456789abcdef0123456789abcdef"'})):
        with pytest.raises(
            StageError, match=r"labels: another command began to write it at the same time; wait for it"
        ):
            claims.put(storage, "labels", claim, claim_version)
    assert storage.sizes("labels") == before
    assert claims.read(storage, "labels").claim.run_id == run.writer.run_id


def test_lock_leaves_no_file_and_is_reusable(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    for _ in range(2):
        with claims.locked(storage, "train/A"):
            assert storage.exists("train/A")
        assert not storage.exists("train/A")
    complete(storage, "a")
    before = everything_under(storage)
    with claims.locked(storage, "labels"):
        pass
    assert everything_under(storage) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_complete_table_is_found(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    record = complete(storage, "a")
    (tmp_path / "root" / "labels").chmod(0o500)
    try:
        assert begin(storage).record == record
        assert tables.finish_commit(storage, "labels") is False
    finally:
        (tmp_path / "root" / "labels").chmod(0o700)
