"""The commit protocol after SIGKILL at each change of the storage, on a local disk and on S3.

Each run also merges its parts. A table is made, overwritten, or partly redone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage
from tests import kill_program
from tests.kill_program import UNITS, ids_of

# Processes are forked from one that has imported everything and done nothing else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "boto3", "pyarrow.dataset", "tests.kill_program"])
SECONDS = 120
MOST_STEPS = 80
# Claim, units, two merged files and their sources, model, record, moves of three files and the model, `_run.json`.
FEWEST_CHANGES = 1 + UNITS + 2 + 4 + 2 + 4 + 1

pytestmark = pytest.mark.cluster


def expected(value: int, old: int | None = None) -> list[str]:
    values = [old if old is not None and unit % 2 == 0 else value for unit in range(UNITS)]
    return [name for unit in range(UNITS) for name in ids_of(values[unit], unit)]


def run_program(storage: Storage, step: int, when: str, value: int, mode: str) -> int:
    process = PROCESSES.Process(
        target=kill_program.main, args=(dict(os.environ), storage.root, storage.endpoint, step, when, value, mode)
    )
    process.start()
    process.join(SECONDS)
    code = process.exitcode
    process.kill()
    assert code is not None, f"still running after {SECONDS} s"
    return code


def check_nothing_half_written(storage: Storage, allowed: list[list[str]], had_one: bool) -> None:
    """Check that a reader gets a complete table or an error, and that each visible Parquet file opens."""
    files = storage.files("demo")
    for name in files:
        if not any(part.startswith("_") for part in name.split("/")):
            pq.read_table(storage.path("demo", name), filesystem=storage.filesystem)
    try:
        rows = tables.read_table(storage, "demo")["id"].to_pylist()
    except StageError:
        # The old complete table is removed only after the new one is fully staged.
        assert not had_one or any(name.endswith("/_record.json") for name in files)
        return
    assert rows in allowed


def check_complete(storage: Storage, rows: list[str]) -> None:
    assert tables.read_table(storage, "demo")["id"].to_pylist() == rows
    assert storage.read("demo/_model.json") == b"2"
    listed = [file.path for file in tables.get_record(storage, "demo").files]
    assert sorted(storage.files("demo")) == sorted([*listed, "_run.json"])
    assert len([name for name in listed if name.endswith(".parquet")]) == 3


def kill_everywhere(make_storage: Callable[[str], Storage], whens: list[str], mode: str) -> int:
    """Kill at step 0, 1, … until the program ends by itself. After each kill, a rerun completes the table."""
    kills, had_one = 0, mode != "plain"
    rows = expected(2, 1 if mode == "revision" else None)
    for step in range(MOST_STEPS):
        ended = []
        for when in whens:
            storage = make_storage(f"{step}-{when}-{mode}")
            if had_one:
                assert run_program(storage, -1, "", 1, "plain") == 0
            code = run_program(storage, step, when, 2, mode)
            ended.append(code == 0)
            if code == 0:
                check_complete(storage, rows)
                continue
            assert code == -signal.SIGKILL
            kills += 1
            check_nothing_half_written(storage, [expected(1), rows], had_one)
            assert run_program(storage, -1, "", 2, mode) == 0
            check_complete(storage, rows)
        if all(ended):
            return kills
    raise AssertionError(f"the program never ended by itself within {MOST_STEPS} steps")


@pytest.mark.parametrize("mode", ["plain", "overwrite", "revision"])
@pytest.mark.timeout(900)
def test_rerun_completes_after_any_kill_on_local_disk(tmp_path: Path, mode: str) -> None:
    kills = kill_everywhere(lambda name: Storage(str(tmp_path / name)), ["before", "during", "after"], mode)
    assert kills >= 3 * FEWEST_CHANGES


@pytest.mark.parametrize("mode", ["overwrite", "revision"])
@pytest.mark.timeout(900)
def test_rerun_completes_after_any_kill_on_s3(s3_endpoint: str, mode: str) -> None:
    kills = kill_everywhere(
        lambda name: Storage(f"s3://bucket/{name}", endpoint=s3_endpoint, region="us-east-1"), ["after"], mode
    )
    assert kills >= FEWEST_CHANGES
