"""Writes a small table by the commit protocol and kills itself at a chosen change of the storage.

``python kill_program.py ROOT ENDPOINT STEP WHEN VALUE OVERWRITE``: STEP counts writes, moves and deletes from 0; WHEN
is ``before``, ``during`` (a local write has filled its temporary file) or ``after`` it; STEP -1 lets it end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from raypipe import storage as storage_module
from raypipe import tables
from raypipe.storage import Storage

UNITS = 3
ROWS = 4


def write_table(storage: Storage, value: int, overwrite: bool) -> None:
    """A run whose rows depend on `value`."""
    config = {"value": value}
    with tables.begin(storage, "demo", command="test", config=config, inputs={}, overwrite=overwrite) as run:
        if run.record is not None:
            return
        done = run.writer.units_done()
        for unit in range(UNITS):
            if f"{unit:05d}" not in done:
                ids = [f"{value}-{unit}-{row}" for row in range(ROWS)]
                run.writer.write(f"{unit:05d}", pa.table({"id": ids}))
        run.writer.write_file("_model.json", str(value).encode())
        run.commit(rows_in=UNITS * ROWS)


def die() -> None:
    """What the out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: int, when: str) -> None:
    """Wrap every method that changes the storage."""
    seen = -1

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Storage, *arguments: Any) -> Any:
            nonlocal seen
            seen += 1
            mine = seen == step
            if mine and when == "before":
                die()
            if mine and when == "during":
                storage_module.os.fsync = lambda _: die()  # type: ignore[attr-defined]
            result = method(self, *arguments)
            if mine:
                die()
            return result

        return call

    for name in ("write", "move", "delete", "delete_directory"):
        setattr(Storage, name, wrapped(getattr(Storage, name)))


if __name__ == "__main__":
    root, endpoint, step, when, value, overwrite = sys.argv[1:]
    if int(step) >= 0:
        arm(int(step), when)
    write_table(Storage(root, endpoint or None, "us-east-1"), int(value), overwrite == "true")
