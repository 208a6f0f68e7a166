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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from raypipe.errors import StageError, one_line
from raypipe.records import Claim, DataFile, RunRecord, differences, fingerprint, versions
from raypipe.storage import Storage

RUN_FILE = "_run.json"
CLAIM_FILE = "_claim.json"
STAGING = "_staging"
_STAGED_RECORD = "_record.json"

Model = TypeVar("Model", bound=BaseModel)

# Which command makes a table, for the line that a reader sees where it is missing.
MADE_BY = {
    "posts": "raypipe ingest --posts FILE",
    "posts_rejected": "raypipe ingest --posts FILE",
    "images": "raypipe ingest",
    "labels": "raypipe label",
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
        sink = pa.BufferOutputStream()
        compression = {name: "NONE" if name == "image" else "ZSTD" for name in _leaf_columns(rows.schema)}
        pq.write_table(rows, sink, compression=compression)
        self.write_file(posixpath.join(folder, self.part_name(unit)), memoryview(sink.getvalue()))

    def write_file(self, name: str, data: bytes | memoryview) -> None:
        """Stage any other file under its own name."""
        self.storage.write(f"{self.staging}/{name}", data)

    def units_done(self) -> set[str]:
        """Units that an earlier, interrupted attempt of this run has staged."""
        prefix = f"part-{self.run_id}-"
        names = (name.rsplit("/", 1)[-1] for name in self.storage.files(self.staging))
        return {name.removeprefix(prefix).removesuffix(".parquet") for name in names if name.startswith(prefix)}


def _leaf_columns(schema: pa.Schema) -> list[str]:
    # Parquet names compression by leaf path (`faces.list.element.left`), which this yields in file order.
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves))]


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
        if error is not None and self.record is None and not self.writer.storage.files(self.writer.staging):
            _discard(self.writer.storage, self.writer.table)

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
        files = [_describe(storage, self.writer.staging, name) for name in storage.files(self.writer.staging)]
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
        staged = _Staged(record=self.record, replaces=[file.path for file in previous.files] if previous else [])
        self.writer.write_file(_STAGED_RECORD, _as_json(staged))
        _publish(storage, staged)
        return self.record


def begin(
    storage: Storage,
    table: str,
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    overwrite: bool = False,
) -> TableRun:
    """Claim a table for a run, take up an interrupted one, or find it complete.

    `config` holds what the result depends on (nested, JSON types); `inputs` a fingerprint for each input by name.
    Raises StageError where another configuration's or input's result stands there (naming what differs), or another
    process of this machine is writing.
    """
    wanted_config, wanted_inputs = json.loads(json.dumps(config)), dict(inputs)
    claim = _read_claim(storage, table)
    if claim is not None and claim.held_by_other():
        raise StageError(
            f"{storage.uri(table)}: process {claim.pid} (`raypipe {claim.command}`) is writing there; wait or end it"
        )
    if claim is not None and storage.exists(f"{table}/{STAGING}/{claim.run_id}/{_STAGED_RECORD}"):
        staged = storage.read(f"{table}/{STAGING}/{claim.run_id}/{_STAGED_RECORD}")
        _publish(storage, _Staged.model_validate_json(staged))
        claim = None
    found: RunRecord | Claim | None = claim or find_record(storage, table)
    same = found is not None and not differences(found, wanted_config, wanted_inputs)
    if found is not None and not same and not overwrite:
        state = "holds the result" if isinstance(found, RunRecord) else "holds an unfinished run"
        what = "; ".join(differences(found, wanted_config, wanted_inputs))
        raise StageError(
            f"{storage.uri(table)}: {state} of another configuration or input: {what}; "
            "use --overwrite, another --root, or the same options"
        )
    if isinstance(found, RunRecord) and same and not overwrite:
        return TableRun(
            TableWriter(storage, table, found.run_id),
            Claim.new(command, wanted_config, wanted_inputs),
            found,
            False,
        )
    resumed = isinstance(found, Claim) and same and not overwrite
    run_id = found.run_id if resumed and found is not None else uuid.uuid4().hex[:8]
    if not resumed:
        storage.delete_directory(f"{table}/{STAGING}")
    new = Claim.new(command, wanted_config, wanted_inputs, run_id)
    if resumed and isinstance(found, Claim):
        new.started_at = found.started_at
    run = TableRun(TableWriter(storage, table, run_id), new, None, resumed)
    with contextlib.ExitStack() as on_error:
        on_error.push(run)
        storage.write(f"{table}/{CLAIM_FILE}", _as_json(new))
        on_error.pop_all()
    return run


class _Staged(BaseModel):
    """A run whose files are all staged: its record, and the previous run's files that go."""

    record: RunRecord
    replaces: list[str]


def _publish(storage: Storage, staged: _Staged) -> None:
    """Move a staged run into place; every step can be repeated after a kill."""
    record = staged.record
    table, staging = record.table, f"{record.table}/{STAGING}/{record.run_id}"
    published = find_record(storage, table)
    if published is None or published.run_id != record.run_id:
        # The old list goes before the files it lists: no reader may trust it any more.
        storage.delete(f"{table}/{RUN_FILE}")
        for name in staged.replaces:
            # A file of the same name may be the new one already, moved by an attempt that was killed.
            if storage.exists(f"{staging}/{name}") or name not in {file.path for file in record.files}:
                storage.delete(f"{table}/{name}")
        for file in record.files:
            if storage.exists(f"{staging}/{file.path}"):
                storage.move(f"{staging}/{file.path}", f"{table}/{file.path}")
        storage.write(f"{table}/{RUN_FILE}", _as_json(record))
    _discard(storage, table)


def _discard(storage: Storage, table: str) -> None:
    storage.delete_directory(f"{table}/{STAGING}")
    storage.delete(f"{table}/{CLAIM_FILE}")
    storage.delete_temporaries(table)
    if storage.is_local and not storage.files(table) and storage.exists(table):
        storage.delete_directory(table)


def _describe(storage: Storage, directory: str, name: str) -> DataFile:
    path = f"{directory}/{name}"
    rows = (
        pq.read_metadata(storage.path(path), filesystem=storage.filesystem).num_rows
        if name.endswith(".parquet")
        else None
    )
    return DataFile(path=name, rows=rows, n_bytes=storage.size(path))


def _read_claim(storage: Storage, table: str) -> Claim | None:
    return _read_model(storage, f"{table}/{CLAIM_FILE}", Claim)


def _read_model(storage: Storage, path: str, kind: type[Model]) -> Model | None:
    if not storage.exists(path):
        return None
    try:
        return kind.model_validate_json(storage.read(path))
    except ValidationError as error:
        raise StageError(
            f"{storage.uri(path)}: cannot be read as what raypipe writes there: {one_line(error)}; "
            f"delete the folder {storage.uri(posixpath.dirname(path))} and run its stage again"
        ) from error


def _as_json(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=2).encode()


def find_record(storage: Storage, table: str) -> RunRecord | None:
    """The record of a complete table, None where there is none."""
    return _read_model(storage, f"{table}/{RUN_FILE}", RunRecord)


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
    return pads.dataset(data_paths(storage, table, folder), filesystem=storage.filesystem, format="parquet")


def read_table(
    storage: Storage,
    table: str,
    columns: Sequence[str] | None = None,
    *,
    where: pads.Expression | None = None,
    folder: str = "",
) -> pa.Table:
    """Rows of a complete table in memory, in order."""
    return open_dataset(storage, table, folder).to_table(columns=list(columns) if columns else None, filter=where)


def read_staged(writer: TableWriter, unit: str, columns: Sequence[str], *, folder: str = "") -> pa.Table:
    """Columns of a unit that this run, or an interrupted attempt of it, has staged."""
    path = writer.storage.path(writer.staging, folder, writer.part_name(unit))
    return pq.read_table(path, columns=list(columns), filesystem=writer.storage.filesystem)
