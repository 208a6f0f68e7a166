"""Redoes part of a complete `images/`: fetches failed pictures again (`ingest.retry`), or counts faces again in stored
pictures (`faces.only`). The other rows are carried over. The old table stays until the new one is complete.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe import tables
from raypipe.config import Config
from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.errors import ConfigError, StageError
from raypipe.ingest.examine_and_stage import stage_rows
from raypipe.ingest.examine_fetched import picture_examiner
from raypipe.ingest.image_rows import StagedCounts, images_table, stored_table
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables.record import option_changes
from raypipe.tables.untrusted import plain_table

_GROUP = pa.schema([pa.field("path", pa.string()), pa.field("row_group", pa.int32()), pa.field("unit", pa.string())])
_EXAMINE_OPTIONS = ("phash", "max_pixels", "near")


@dataclass(frozen=True)
class RedoPlan:
    """The part of a complete `images/` that is done again.

    `ids_to_fetch` are the post_ids to fetch. `groups` has one row per row group of the old table with rows that
    are not fetched, and the first post_id of these rows. `ingest` holds the options for examining stored pictures.
    """

    revision: dict[str, Any] | None
    options: dict[str, Any]
    ids_to_fetch: pa.Array
    groups: pa.Table
    statuses: tuple[str, ...]
    ingest: IngestOptions

    def remaining_groups(self, done: pa.ChunkedArray) -> list[pa.Table]:
        """Return the row groups of which nothing is staged, each as a table of one row."""
        # A row group is staged whole or not at all, so it is enough to check its first row.
        remaining_groups = self.groups.filter(pc.invert(pc.is_in(self.groups["first"], done))).select(_GROUP.names)
        return [remaining_groups.slice(i, 1).combine_chunks() for i in range(len(remaining_groups))]

    def stage_function(self, config: Config, writer: TableWriter) -> Callable[[pa.Table, int], StagedCounts]:
        """Return a function that stages a row group, given as a table of one row, and the attempt number from 0."""
        if config.faces.only:
            return functools.partial(recount_group, ingest=self.ingest, faces=config.faces, writer=writer)
        return functools.partial(copy_group, statuses=self.statuses, writer=writer)


def plan_redo(config: Config, storage: Storage, inputs: Mapping[str, str]) -> RedoPlan | None:
    """Return what the options redo, or None if they do not redo a part. `inputs` are those of `images/`.

    Raises StageError if there is no complete `images/` of these posts, or if its pictures were examined with other
    options. Raises ConfigError if `faces.only` is set without `faces.enabled`.
    """
    if not (config.ingest.retry or config.faces.only):
        return None
    if config.faces.only and not config.faces.enabled:
        raise ConfigError("faces.only: counts faces, but faces.enabled is false")
    old = tables.get_record(storage, "images")
    if old.inputs.get("posts") != inputs["posts"]:
        raise StageError(
            f"{storage.uri('images')}: was made from other posts; run `raypipe ingest --overwrite` instead"
        )
    statuses = tuple(sorted(set(config.ingest.retry)))
    ids_to_fetch, groups = _split_old_rows(storage, statuses)
    options = config.result_options("ingest", "faces")
    revision: dict[str, Any] = {"of": old.run_id, "ingest.retry": list(statuses)}
    if config.faces.only:
        # The stored pictures were fetched with the old options.
        options = {"ingest": old.config["ingest"], "faces": options["faces"]}
        revision = {"of": old.run_id, "faces.only": True}
        if options == old.config and old.inputs == inputs:
            revision = {}
    elif changed := option_changes(_examine_options(old.config, old.inputs), _examine_options(options, inputs)):
        raise StageError(
            f"{storage.uri('images')}: the stored pictures were examined with other options: {'; '.join(changed)}; "
            "use the old options with --ingest.retry, or start again with --overwrite"
        )
    elif not len(ids_to_fetch):
        revision, options = {}, old.config
    ingest = IngestOptions.model_validate(config.ingest.model_dump() | options["ingest"])
    return RedoPlan(revision or None, options, ids_to_fetch, groups, statuses, ingest)


def _examine_options(config: dict[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the options and inputs for examining pictures. They must be the same for all rows of a table."""
    ingest = config.get("ingest", {})
    return {
        "faces": config.get("faces", {}),
        "ingest": {name: ingest.get(name) for name in _EXAMINE_OPTIONS},
        "contents of faces.model": inputs.get("faces.model"),
    }


def _split_old_rows(storage: Storage, statuses: tuple[str, ...]) -> tuple[pa.Array, pa.Table]:
    """Return the post_ids of the old table's rows with `statuses`, and the row groups that have other rows."""
    ids_to_fetch: list[str] = []
    groups: list[dict[str, Any]] = []
    for number, path in enumerate(tables.data_paths(storage, "images")):
        for i, rows in _row_groups(storage, path):
            is_retried = pc.is_in(rows["status"], pa.array(statuses, pa.string()))
            ids_to_fetch += rows["post_id"].filter(is_retried).to_pylist()
            others = rows["post_id"].filter(pc.invert(is_retried))
            if len(others):
                unit = f"0-{number:05d}-{i:05d}"
                groups.append({"path": path, "row_group": i, "unit": unit, "first": others[0].as_py()})
    return pa.array(ids_to_fetch, pa.string()), pa.Table.from_pylist(
        groups, _GROUP.append(pa.field("first", pa.string()))
    )


def _row_groups(storage: Storage, path: str) -> Iterator[tuple[int, pa.Table]]:
    with storage.errors("read", "images"):
        file = pq.ParquetFile(path, filesystem=storage.filesystem)
        for i in range(file.num_row_groups):
            yield i, plain_table(file.read_row_group(i, columns=["post_id", "status"]), path)


def copy_group(group: pa.Table, attempt: int, *, statuses: tuple[str, ...], writer: TableWriter) -> StagedCounts:
    """Stage, unchanged, the rows of a row group that are not fetched again. `attempt` is not used."""
    del attempt
    rows = _read(group, writer)
    kept = pc.invert(pc.is_in(rows["status"], pa.array(statuses, pa.string())))
    return stage_rows(group["unit"][0].as_py(), iter([rows.filter(kept).replace_schema_metadata(None)]), writer)


def recount_group(
    group: pa.Table, attempt: int, *, ingest: IngestOptions, faces: FaceOptions, writer: TableWriter
) -> StagedCounts:
    """Stage the rows of a row group with their faces counted again, in a child process after the first attempt."""
    rows = _read(group, writer)
    good = pc.equal(rows["status"], "ok")
    with picture_examiner(ingest, faces, isolated=attempt > 0) as examine_pictures:
        seen = images_table(stored_table(rows.filter(good)), examine_pictures)
    others = rows.filter(pc.invert(good)).replace_schema_metadata(None)
    both = pa.concat_tables([seen.replace_schema_metadata(None), others]).replace_schema_metadata(seen.schema.metadata)
    return stage_rows(group["unit"][0].as_py(), iter([both]), writer)


def _read(group: pa.Table, writer: TableWriter) -> pa.Table:
    with writer.storage.errors("read", writer.table):
        path = group["path"][0].as_py()
        file = pq.ParquetFile(path, filesystem=writer.storage.filesystem)
        return plain_table(file.read_row_group(group["row_group"][0].as_py()), path)
