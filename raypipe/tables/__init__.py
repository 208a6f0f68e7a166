"""Tables under the root: schemas, locks, records, staged files, and reading what others wrote."""

from __future__ import annotations

from raypipe.tables.table import (
    CLAIM_FILE,
    COMMAND_BY_TABLE,
    RUN_FILE,
    STAGING,
    TableRun,
    TableWriter,
    begin,
    data_paths,
    find_record,
    finish_commit,
    get_record,
    open_dataset,
    read_staged,
    read_table,
)

__all__ = [
    "CLAIM_FILE",
    "COMMAND_BY_TABLE",
    "RUN_FILE",
    "STAGING",
    "TableRun",
    "TableWriter",
    "begin",
    "data_paths",
    "find_record",
    "finish_commit",
    "get_record",
    "open_dataset",
    "read_staged",
    "read_table",
]
