"""Write a small table by the commit protocol and kill the process at a chosen change of the storage.

It runs in its own process, which starts with `main`. It also finds the Ray processes that a test kills.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pyarrow as pa

from raypipe import tables
from raypipe.storage import Storage, conditional
from raypipe.storage import storage as storage_module
from raypipe.tables import TableWriter
from raypipe.tables import compact as parts

UNITS = 5
ROWS = 4
REVISION = {"demo.odd": True}
ID = pa.schema([("id", pa.string())])
# Two parts per file, and one part left over.
TARGET_BYTES = 1050


def ids_of(value: int, unit: int) -> list[str]:
    """The row ids of one unit."""
    return [f"{value}-{unit}-{row}" for row in range(ROWS)]


def write_table(storage: Storage, value: int, mode: str) -> None:
    """Run a table whose rows depend on `value`."""
    tables.finish_commit(storage, "demo")
    config, revision, old = {"value": value}, None, None
    if mode == "revision":
        record = tables.get_record(storage, "demo")
        if record.config != config:
            old, revision = record.config["value"], REVISION
    wanted = {"command": "test", "config": config, "inputs": {}, "overwrite": mode == "overwrite"}
    with tables.begin(storage, "demo", **wanted, revision=revision) as run:
        if run.record is not None:
            return
        parts.delete_merged_sources(run.writer)
        _stage(run.writer, value, old)
        for group in parts.merge_groups(run.writer, TARGET_BYTES):
            parts.merge(run.writer, group)
        run.writer.write_file("_model.json", str(value).encode())
        run.commit(rows_in=UNITS * ROWS)


def _stage(writer: TableWriter, value: int, old: int | None) -> None:
    # Compare by rows, since merged files have other names.
    done = set(parts.read_parts(writer, ID)["id"].to_pylist())
    carried = set(tables.read_table(writer.storage, "demo")["id"].to_pylist()) if old is not None else set()
    for unit in range(UNITS):
        ids = ids_of(value, unit)
        if old is not None and unit % 2 == 0:
            ids = ids_of(old, unit)
            assert carried.issuperset(ids), "the old table is not whole"
        if not done.intersection(ids):
            writer.write(f"{unit:05d}", pa.table({"id": ids}))


def ray_processes(root: int, which: str) -> list[psutil.Process]:
    """Ray's processes below the process `root` that run `which`."""
    found = []
    for child in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if which in " ".join(child.cmdline()):
                found.append(child)
    return found


def ended(process: psutil.Process) -> bool:
    """Whether the process has ended, also if it is a zombie."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def die() -> None:
    """Kill this process like the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: int, when: str) -> None:
    """Wrap every function that changes the storage."""
    seen = -1

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal seen
            seen += 1
            mine = seen == step
            if mine and when == "before":
                die()
            if mine and when == "during":
                storage_module.os.fsync = lambda _: die()  # type: ignore[attr-defined]
            result = method(*arguments)
            if mine:
                die()
            return result

        return call

    for name in ("write", "write_with", "move", "delete", "delete_directory"):
        setattr(Storage, name, wrapped(getattr(Storage, name)))
    # On S3, obstore writes the claim.
    conditional.replace_version = wrapped(conditional.replace_version)


def main(
    environment: dict[str, str], root: str, endpoint: str | None, step: int, when: str, value: int, mode: str
) -> None:
    """Write the table and kill this process at change `step` of the storage; -1 never kills.

    `step` counts writes, moves and deletes from 0. `when` is ``before``, ``during`` (a local write has filled its
    temporary file) or ``after``. `mode` is ``plain``, ``overwrite`` or ``revision`` (odd units are redone, the others
    carried over).
    """
    os.environ.update(environment)
    if step >= 0:
        arm(step, when)
    write_table(Storage(root, endpoint, "us-east-1"), value, mode)
