"""The one commit protocol of every stage, and how tables are read.

A stage writes its files under ``TABLE/_staging/RUN_ID/``, whole or not at all. When all are there, the record of the
run is staged too, the previous run's files go, the new ones are moved into place, and ``_run.json``, which lists them,
comes last. A stage is complete when its ``_run.json`` is there, and readers go by its list. Killed at any moment and
started again with the same configuration and input, a run goes on where it was; with another it refuses.
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
from raypipe.tables.encodings import encodings
from raypipe.tables.lock import CLAIM_FILE, Seen
from raypipe.tables.publish import RUN_FILE, STAGED_RECORD, STAGING, Staged, describe, discard, find_record, publish
from raypipe.tables.record import Claim, RunRecord, as_json, fingerprint, parse, versions
from raypipe.tables.untrusted import open_parquet, read_parquet

if TYPE_CHECKING:
    import pyarrow.dataset as pads

__all__ = [
    "CLAIM_FILE",
    "MADE_BY",
    "RUN_FILE",
    "STAGING",
    "TableRun",
    "TableWriter",
    "begin",
    "data_paths",
    "find_record",
    "finish",
    "get_record",
    "open_dataset",
    "read_staged",
    "read_table",
]

_ROWS_A_GROUP = 2**20

# Which command makes a table, for the line that a reader sees where it is missing.
MADE_BY = {
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
    """Writes the files of one run of one table; picklable, for Ray workers."""

    storage: Storage
    table: str
    run_id: str

    @property
    def staging(self) -> str:
        """Where this run's files stand until all of them are there."""
        return f"{self.table}/{STAGING}/{self.run_id}"

    def part_name(self, unit: str) -> str:
        """The file name of a unit of work; the run's id keeps two runs' files apart."""
        return f"part-{self.run_id}-{unit}.parquet"

    def write(self, unit: str, rows: pa.Table, *, folder: str = "") -> None:
        """Stage the rows of a unit as one Parquet file. Image bytes are compressed already and are left as they are."""
        self._stage(posixpath.join(folder, self.part_name(unit)), rows.schema, [rows], dict)

    def rewrite(self, name: str, rows: pa.Table) -> None:
        """Stage rows in place of those of the staged Parquet file `name`, which keeps its metadata."""
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
        """Stage tables of `schema` as they come, a row group each, as one Parquet file; `metadata` is asked last."""
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
        """Stage any other file under its own name."""
        self.storage.write(f"{self.staging}/{name}", data)

    def units_done(self) -> set[str]:
        """Units that an earlier, interrupted attempt of this run has staged."""
        prefix = f"part-{self.run_id}-"
        names = (name.rsplit("/", 1)[-1] for name in self.storage.files(self.staging))
        return {name.removeprefix(prefix).removesuffix(".parquet") for name in names if name.startswith(prefix)}


class TableRun:
    """One run of one table, from claim to commit. Use as a context manager.

    `record` is set where the same run is complete already: there is nothing to do then.
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
        # What a failed attempt has staged is kept for the resume; an attempt that staged nothing leaves no trace.
        if error is None or self.record is not None:
            return
        # Where the store is down, that is what ends the run, not that nothing can be tidied up.
        with contextlib.suppress(StageError):
            if not self.writer.storage.files(self.writer.staging):
                discard(self.writer.storage, self.writer.table)

    def commit(
        self,
        *,
        rows_in: int,
        dropped: Mapping[str, int] | None = None,
        rows_out: int | None = None,
        seconds: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        """Publish what was staged.

        `rows_out` is counted from the table's own Parquet files unless given. Raises StageError where
        rows in ≠ rows out + Σ dropped: then rows were lost or doubled, and nothing is published.
        """
        storage, table = self.writer.storage, self.writer.table
        files = describe(storage, self.writer.staging)
        if rows_out is None:
            rows_out = sum(file.rows or 0 for file in files if "/" not in file.path)
        lost = dict(dropped or {})
        if rows_in != rows_out + sum(lost.values()):
            raise StageError(
                f"{storage.uri(table)}: {rows_in} rows in, but {rows_out} out and {sum(lost.values())} dropped "
                f"({lost}); rows were lost or doubled, nothing is published: please report this"
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
        staged = Staged(record=self.record, replaces=[file.path for file in previous.files] if previous else [])
        self.writer.write_file(STAGED_RECORD, as_json(staged))
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
    """Claim a table for a run, take up an interrupted one, or find it complete.

    `config` holds what the result depends on (nested, JSON types); `inputs` a fingerprint for each input by name.
    `revision` (options by dotted name, and whatever else sets it apart) does part of a complete table again: the table
    stays readable, whatever its configuration, until the run that replaces it is complete. Raises StageError where
    another configuration's or input's result stands there, or another unfinished run (naming what differs), or another
    process of this machine is writing.
    """
    part = json.loads(json.dumps(revision)) if revision else None
    new = Claim.new(command, json.loads(json.dumps(config)), dict(inputs), revision=part)
    with claims.locked(storage, table):
        seen, _ = _take_up(storage, table)
        found: Claim | RunRecord | None = seen.claim
        if part and (found is None or overwrite):
            # There must be something to do again; what it is makes no difference.
            get_record(storage, table)
        elif found is None:
            found = find_record(storage, table)
        if found is not None and not overwrite:
            claims.refuse_another(storage, table, found, new)
        if isinstance(found, RunRecord) and not overwrite:
            return TableRun(TableWriter(storage, table, found.run_id), new, found, False)
        resumed = isinstance(found, Claim) and not overwrite
        new.run_id = found.run_id if found is not None and resumed else uuid.uuid4().hex[:8]
        if isinstance(found, Claim) and resumed:
            new.started_at = found.started_at
        claims.put(storage, table, new, seen)
        # Only whoever holds the claim may clear what others have left.
        for other in {name.split("/")[0] for name in storage.files(f"{table}/{STAGING}")} - {new.run_id}:
            storage.delete_directory(f"{table}/{STAGING}/{other}")
        s3.abort_uploads(storage, table)
    return TableRun(TableWriter(storage, table, new.run_id), new, None, resumed)


def finish(storage: Storage, table: str) -> bool:
    """Complete a publication that a kill cut off, as `begin` does first; whether there was one.

    For whoever reads a table's record before `begin`. Raises StageError where another process is writing.
    """
    with claims.locked(storage, table):
        return _take_up(storage, table)[1]


def _take_up(storage: Storage, table: str) -> tuple[Seen, bool]:
    """The claim that stands after a run that is staged whole, if there is one, has been published; whether it was."""
    seen = claims.read(storage, table)
    if seen.claim is None:
        return seen, False
    path = f"{table}/{STAGING}/{seen.claim.run_id}/{STAGED_RECORD}"
    if storage.exists(path):
        publish(storage, parse(storage, path, storage.read(path), Staged))
        return Seen(), True
    published = find_record(storage, table)
    if published is not None and published.run_id == seen.claim.run_id:
        # Published whole; what a kill cut off was the clearing up, whose last step is to drop the claim.
        discard(storage, table)
        return Seen(), True
    return seen, False


def get_record(storage: Storage, table: str) -> RunRecord:
    """The record of a complete table; StageError, naming the command that makes it, where there is none."""
    record = find_record(storage, table)
    if record is None:
        maker = MADE_BY.get(table, f"raypipe {table.split('/')[0]}")
        state = "is unfinished" if storage.exists(f"{table}/{CLAIM_FILE}") else "is not there"
        raise StageError(f"{storage.uri(table)}: {state}; run `{maker} --root {storage.root}` first")
    return record


def data_paths(storage: Storage, table: str, folder: str = "") -> list[str]:
    """Paths, for `storage.filesystem`, of a complete table's Parquet files in order; `folder`: ``predictions``, say."""
    prefix = f"{folder}/" if folder else ""
    names = [file.path for file in get_record(storage, table).files if file.path.endswith(".parquet")]
    return [storage.path(table, n) for n in names if n.startswith(prefix) and "/" not in n.removeprefix(prefix)]


def open_dataset(storage: Storage, table: str, folder: str = "") -> pads.Dataset:
    """A complete table as a pyarrow dataset (lazy)."""
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
    """Rows of a complete table in memory, in order."""
    dataset = open_dataset(storage, table, folder)
    with storage.errors("read", table):
        return dataset.to_table(columns=list(columns) if columns else None, filter=where)


def read_staged(writer: TableWriter, unit: str, columns: Sequence[str], *, folder: str = "") -> pa.Table:
    """Columns of a unit that this run, or an interrupted attempt of it, has staged."""
    path = writer.storage.path(writer.staging, folder, writer.part_name(unit))
    with writer.storage.errors("read", writer.table):
        return read_parquet(path, writer.storage.filesystem, columns)
