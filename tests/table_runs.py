"""Small complete and interrupted runs of a table, for tests of the commit protocol."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypipe import tables
from raypipe.storage import Storage
from raypipe.tables import TableRun
from raypipe.tables.record import RunRecord

CONFIG = {"seed": 0, "label": {"quantile": 0.1}}


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
    """A run that Ctrl-C ends after it has staged one unit per id."""
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
