"""The commit protocol against SIGKILL at each change of the storage, on a local disk and on S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage
from tests.kill_program import ROWS, UNITS

PROGRAM = Path(__file__).with_name("kill_program.py")
MOST_STEPS = 60

pytestmark = pytest.mark.cluster


def expected(value: int) -> list[str]:
    return [f"{value}-{unit}-{row}" for unit in range(UNITS) for row in range(ROWS)]


def run_program(storage: Storage, step: int, when: str, value: int, overwrite: bool = False) -> int:
    words = [storage.root, storage.endpoint or "", str(step), when, str(value), str(overwrite).lower()]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])}
    return subprocess.run([sys.executable, str(PROGRAM), *words], env=environment, timeout=120).returncode


def check_nothing_half_written(storage: Storage, allowed: list[list[str]]) -> None:
    """A reader sees a whole table or is told that there is none; every visible Parquet file opens."""
    for name in storage.files("demo"):
        if not any(part.startswith("_") for part in name.split("/")):
            pq.read_table(storage.path("demo", name), filesystem=storage.filesystem)
    try:
        rows = tables.read_table(storage, "demo")["id"].to_pylist()
    except StageError:
        return
    assert rows in allowed


def check_complete(storage: Storage, value: int) -> None:
    assert tables.read_table(storage, "demo")["id"].to_pylist() == expected(value)
    assert storage.read("demo/_model.json") == str(value).encode()
    left = [
        name for name in storage.files("demo") if name not in {f.path for f in tables.get_record(storage, "demo").files}
    ]
    assert left == ["_run.json"]


def kill_everywhere(make_storage, whens: list[str], overwrite: bool) -> int:
    """Kill at step 0, 1, … until the program ends by itself; after each kill the same command completes the table."""
    kills = 0
    for step in range(MOST_STEPS):
        ended = []
        for when in whens:
            storage = make_storage(f"{step}-{when}-{overwrite}")
            if overwrite:
                assert run_program(storage, -1, "", 1) == 0
            code = run_program(storage, step, when, 2, overwrite)
            ended.append(code == 0)
            if code == 0:
                check_complete(storage, 2)
                continue
            assert code == -signal.SIGKILL
            kills += 1
            check_nothing_half_written(storage, [expected(1), expected(2)])
            assert run_program(storage, -1, "", 2, overwrite) == 0
            check_complete(storage, 2)
        if all(ended):
            return kills
    raise AssertionError(f"the program never ended by itself within {MOST_STEPS} steps")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.timeout(600)
def test_killed_at_every_step_on_a_local_disk(tmp_path: Path, overwrite: bool) -> None:
    kills = kill_everywhere(lambda name: Storage(str(tmp_path / name)), ["before", "during", "after"], overwrite)
    assert kills >= 3 * (UNITS + 4)


@pytest.mark.timeout(600)
def test_killed_at_every_step_on_s3(s3_endpoint: str) -> None:
    kills = kill_everywhere(
        lambda name: Storage(f"s3://bucket/{name}", endpoint=s3_endpoint, region="us-east-1"), ["after"], overwrite=True
    )
    assert kills >= UNITS + 4
