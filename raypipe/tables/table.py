"""Claims, stages, commits and reads tables. All stages use this one commit protocol.

A stage writes its files under ``TABLE/_staging/RUN_ID/``, each whole or not at all. The commit stages the record of the
run, deletes the previous run's files and moves the new files into place. It writes ``_run.json``, which lists them,
last. A table is complete when its ``_run.json`` exists, and readers use its list. A run that was killed continues if it
is started again with the same configuration and inputs. `begin` refuses other ones.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.errors import StageError
from raypipe.storage import Storage, s3
from raypipe.tables import lock as claims
from raypipe.tables.lock import CLAIM_FILE, ClaimVersion
from raypipe.tables.parquet_encodings import encodings
from raypipe.tables.publish import (
    RUN_FILE,
    STAGED_RECORD,
    STAGING,
    StagedRun,
    discard_staged,
    find_record,
    list_data_files,
    publish,
)
from raypipe.tables.record import Claim, RunRecord, fingerprint, parse_model, to_json_bytes, versions
from raypipe.tables.untrusted import open_parquet, read_parquet

if TYPE_CHECKING:
    import pyarrow.dataset as pads

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

_ROWS_A_GROUP = 2**20

# The command that makes each table, for the error message about a missing table.
COMMAND_BY_TABLE = {
    "posts": "raypipe ingest --posts FILE",
    "posts_rejected": "raypipe ingest --posts FILE",
    "images": "raypipe ingest",
    "labels": "raypipe label",
    "judge": "raypipe judge",
    "truth": "raypipe world",
    "pictures": "raypipe world",
    "snapshots": "raypipe collect",
    "sweep": "raypipe sweep",
    "study": "raypipe study",
}


@dataclass(frozen=True)
class TableWriter:
    """Stages the files of one run of one table. Picklable, for Ray workers."""

    storage: Storage
    table: str
    run_id: str

    @property
    def staging(self) -> str:
        """The folder of this run's files until they are published."""
        return f"{self.table}/{STAGING}/{self.run_id}"

    def part_name(self, unit: str) -> str:
        """The file name of a unit. It contains the run id, so that files of two runs have different names."""
        return f"part-{self.run_id}-{unit}.parquet"

    def write(self, unit: str, rows: pa.Table, *, folder: str = "") -> None:
        """Stage the rows of a unit as one Parquet file. Image bytes are not compressed again."""
        self._stage(posixpath.join(folder, self.part_name(unit)), rows.schema, [rows], dict)

    def rewrite(self, name: str, rows: pa.Table) -> None:
        """Replace the rows of the staged Parquet file `name`. The file keeps its metadata."""
        with self.storage.errors("read", f"{self.staging}/{name}"):
            path = self.storage.path(self.staging, name)
            metadata = dict(pq.read_metadata(path, filesystem=self.storage.filesystem).metadata or {})
        metadata.pop(b"ARROW:schema", None)
        self._stage(name, rows.schema.remove_metadata(), [rows], lambda: metadata)

    def write_stream(
        self,
        unit: str,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        metadata: Callable[[], Mapping[bytes, bytes]] = dict,
    ) -> None:
        """Stage tables of `schema` as one Parquet file, one row group per table. `metadata` is called at the end."""
        self._stage(self.part_name(unit), schema, tables, metadata)

    def _stage(
        self,
        name: str,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        metadata: Callable[[], Mapping[bytes, bytes]],
    ) -> None:
        def fill(stream: pa.NativeFile) -> None:
            with pq.ParquetWriter(stream, schema, **encodings(schema)) as parquet:
                for table in tables:
                    parquet.write_table(table, min(len(table), _ROWS_A_GROUP) or None)
                if added := metadata():
                    parquet.add_key_value_metadata(added)

        self.storage.write_with(f"{self.staging}/{name}", fill)

    def write_file(self, name: str, data: bytes | memoryview) -> None:
        """Stage any other file under the given name."""
        self.storage.write(f"{self.staging}/{name}", data)

    def units_done(self) -> set[str]:
        """The units that are staged, also by an earlier, interrupted attempt of this run."""
        prefix = f"part-{self.run_id}-"
        names = (name.rsplit("/", 1)[-1] for name in self.storage.files(self.staging))
        return {name.removeprefix(prefix).removesuffix(".parquet") for name in names if name.startswith(prefix)}


class TableRun:
    """One run of one table, from claim to commit. Use it as a context manager.

    `record` is set if the same run is already complete. Then there is nothing to do.
    """

    def __init__(self, writer: TableWriter, claim: Claim, record: RunRecord | None, resumed: bool) -> None:
        self.writer = writer
        self.record = record
        self.resumed = resumed
        self._claim = claim

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Files that a failed attempt staged are kept for the resume. If it staged none, the claim is deleted.
        if error is None or self.record is not None:
            return
        # If the store is down, the first error must end the run, not an error of the clean-up.
        with contextlib.suppress(StageError):
            if not self.writer.storage.files(self.writer.staging):
                discard_staged(self.writer.storage, self.writer.table)

    def commit(
        self,
        *,
        rows_in: int,
        dropped: Mapping[str, int] | None = None,
        rows_out: int | None = None,
        seconds: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        """Publish the staged files. Returns the record.

        If `rows_out` is None, it is the number of rows in the Parquet files directly in the table's folder. Raises
        StageError if rows in ≠ rows out + Σ dropped: then rows were lost or duplicated, and nothing is published.
        """
        storage, table = self.writer.storage, self.writer.table
        files = list_data_files(storage, self.writer.staging)
        if rows_out is None:
            rows_out = sum(file.rows or 0 for file in files if "/" not in file.path)
        lost = dict(dropped or {})
        if rows_in != rows_out + sum(lost.values()):
            raise StageError(
                f"{storage.uri(table)}: {rows_in} rows in, but {rows_out} out and {sum(lost.values())} dropped "
                f"({lost}), so rows were lost or duplicated and nothing is published; please report this"
            )
        self.record = RunRecord(
            run_id=self.writer.run_id,
            table=table,
            command=self._claim.command,
            config=self._claim.config,
            fingerprint=fingerprint(self._claim.config),
            inputs=self._claim.inputs,
            revision=self._claim.revision,
            versions=versions(),
            host=socket.gethostname(),
            started_at=self._claim.started_at,
            finished_at=datetime.now(UTC),
            rows_in=rows_in,
            rows_out=rows_out,
            dropped=lost,
            seconds={step: round(value, 3) for step, value in (seconds or {}).items()},
            facts=dict(facts or {}),
            files=files,
        )
        previous = find_record(storage, table)
        staged = StagedRun(record=self.record, replaces=[file.path for file in previous.files] if previous else [])
        self.writer.write_file(STAGED_RECORD, to_json_bytes(staged))
        publish(storage, staged)
        return self.record


def begin(
    storage: Storage,
    table: str,
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    overwrite: bool = False,
    revision: Mapping[str, Any] | None = None,
) -> TableRun:
    """Claim a table for a new run, resume an interrupted run, or find that the run is complete.

    `config` holds the options that the result depends on (nested, JSON types). `inputs` holds a fingerprint of each
    input by name. `revision` redoes a part of a complete table of any configuration. It holds options by dotted name,
    and other values that distinguish it. The old table stays readable until the new run is complete. Raises StageError
    if the table holds a result or an unfinished run of another configuration or input (the message lists the
    differences), or if another process of this machine is writing. `overwrite` replaces such a result or run.
    """
    part = json.loads(json.dumps(revision)) if revision else None
    new = Claim.new(command, json.loads(json.dumps(config)), dict(inputs), revision=part)
    with claims.locked(storage, table):
        claim_version, _ = _finish_interrupted_commit(storage, table)
        found: Claim | RunRecord | None = claim_version.claim
        if part and (found is None or overwrite):
            # A revision needs a complete table, of any configuration.
            get_record(storage, table)
        elif found is None:
            found = find_record(storage, table)
        if found is not None and not overwrite:
            claims.refuse_different_run(storage, table, found, new)
        if isinstance(found, RunRecord) and not overwrite:
            return TableRun(TableWriter(storage, table, found.run_id), new, found, False)
        resumed = isinstance(found, Claim) and not overwrite
        new.run_id = found.run_id if found is not None and resumed else uuid.uuid4().hex[:8]
        if isinstance(found, Claim) and resumed:
            new.started_at = found.started_at
        claims.put(storage, table, new, claim_version)
        # Only the holder of the claim may delete files that other runs left.
        for other in {name.split("/")[0] for name in storage.files(f"{table}/{STAGING}")} - {new.run_id}:
            storage.delete_directory(f"{table}/{STAGING}/{other}")
        s3.abort_uploads(storage, table)
    return TableRun(TableWriter(storage, table, new.run_id), new, None, resumed)


def finish_commit(storage: Storage, table: str) -> bool:
    """Finish a commit that a kill interrupted, as `begin` does first. Returns whether there was one.

    For code that reads a table's record before `begin`. Raises StageError if another process is writing.
    """
    with claims.locked(storage, table):
        return _finish_interrupted_commit(storage, table)[1]


def _finish_interrupted_commit(storage: Storage, table: str) -> tuple[ClaimVersion, bool]:
    """Finish an interrupted commit, if there is one. Returns the claim that remains, and whether there was one."""
    claim_version = claims.read(storage, table)
    if claim_version.claim is None:
        return claim_version, False
    path = f"{table}/{STAGING}/{claim_version.claim.run_id}/{STAGED_RECORD}"
    if storage.exists(path):
        publish(storage, parse_model(storage, path, storage.read(path), StagedRun))
        return ClaimVersion(), True
    published = find_record(storage, table)
    if published is not None and published.run_id == claim_version.claim.run_id:
        # All files are published. The kill interrupted the clean-up, whose last step deletes the claim.
        discard_staged(storage, table)
        return ClaimVersion(), True
    return claim_version, False


def get_record(storage: Storage, table: str) -> RunRecord:
    """The record of a complete table. If there is none, raises StageError, which names the command that makes it."""
    record = find_record(storage, table)
    if record is None:
        maker = COMMAND_BY_TABLE.get(table, f"raypipe {table.split('/')[0]}")
        state = "is unfinished" if storage.exists(f"{table}/{CLAIM_FILE}") else "does not exist"
        raise StageError(f"{storage.uri(table)}: {state}; run `{maker} --root {storage.root}` first")
    return record


def data_paths(storage: Storage, table: str, folder: str = "") -> list[str]:
    """Paths, for `storage.filesystem`, of the Parquet files directly in a complete table or its `folder`, in order."""
    prefix = f"{folder}/" if folder else ""
    names = [file.path for file in get_record(storage, table).files if file.path.endswith(".parquet")]
    return [storage.path(table, n) for n in names if n.startswith(prefix) and "/" not in n.removeprefix(prefix)]


def open_dataset(storage: Storage, table: str, folder: str = "") -> pads.Dataset:
    """A complete table as a lazy pyarrow dataset."""
    paths = data_paths(storage, table, folder)
    with storage.errors("read", table):
        return open_parquet(paths, storage.filesystem)


def read_table(
    storage: Storage,
    table: str,
    columns: Sequence[str] | None = None,
    *,
    where: pads.Expression | None = None,
    folder: str = "",
) -> pa.Table:
    """The rows of a complete table in memory, in order."""
    dataset = open_dataset(storage, table, folder)
    with storage.errors("read", table):
        return dataset.to_table(columns=list(columns) if columns else None, filter=where)


def read_staged(writer: TableWriter, unit: str, columns: Sequence[str], *, folder: str = "") -> pa.Table:
    """Columns of a unit that this run, or an interrupted attempt of it, staged."""
    path = writer.storage.path(writer.staging, folder, writer.part_name(unit))
    with writer.storage.errors("read", writer.table):
        return read_parquet(path, writer.storage.filesystem, columns)
