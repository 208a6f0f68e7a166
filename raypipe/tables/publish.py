"""Publishes staged files as a table, in steps that can each be repeated after a kill."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
from pydantic import BaseModel

from raypipe.storage import Storage, s3
from raypipe.tables.lock import CLAIM_FILE
from raypipe.tables.record import DataFile, PathInside, RunRecord, parse_model, to_json_bytes

RUN_FILE = "_run.json"
STAGING = "_staging"
STAGED_RECORD = "_record.json"
_READERS = 8


def find_record(storage: Storage, table: str) -> RunRecord | None:
    """The record of a complete table, or None if there is none."""
    path = f"{table}/{RUN_FILE}"
    return parse_model(storage, path, storage.read(path), RunRecord) if storage.exists(path) else None


class StagedRun(BaseModel):
    """A run whose files are all staged: its record, and the files of the previous run that it replaces."""

    record: RunRecord
    replaces: list[PathInside]


def publish(storage: Storage, staged: StagedRun) -> None:
    """Move a staged run into place. Every step can be repeated after a kill."""
    record = staged.record
    table, staging = record.table, f"{record.table}/{STAGING}/{record.run_id}"
    published = find_record(storage, table)
    if published is None or published.run_id != record.run_id:
        # The old record is deleted before its files, so that no reader finds a record of deleted files.
        storage.delete(f"{table}/{RUN_FILE}")
        for name in staged.replaces:
            # A killed attempt may have moved the new file of the same name already.
            if storage.exists(f"{staging}/{name}") or name not in {file.path for file in record.files}:
                storage.delete(f"{table}/{name}")
        for file in record.files:
            if storage.exists(f"{staging}/{file.path}"):
                storage.move(f"{staging}/{file.path}", f"{table}/{file.path}")
        storage.write(f"{table}/{RUN_FILE}", to_json_bytes(record))
    discard_staged(storage, table)


def discard_staged(storage: Storage, table: str) -> None:
    """Delete the staged files and the claim. Published files stay."""
    storage.delete_directory(f"{table}/{STAGING}")
    s3.abort_uploads(storage, table)
    storage.delete_temporaries(table)
    # The claim is deleted last, because other runs can start when it is gone.
    storage.delete(f"{table}/{CLAIM_FILE}")
    if storage.is_local and not storage.files(table):
        storage.prune(table)


def list_data_files(storage: Storage, directory: str) -> list[DataFile]:
    """All files below `directory`, with the number of rows of Parquet files."""
    sizes = storage.sizes(directory)

    def list_data_files(name: str) -> DataFile:
        rows = None
        if name.endswith(".parquet"):
            path = storage.path(directory, name)
            with storage.errors("read", f"{directory}/{name}"):
                rows = pq.read_metadata(path, filesystem=storage.filesystem).num_rows
        return DataFile(path=name, rows=rows, n_bytes=sizes[name])

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(list_data_files, sorted(sizes)))
