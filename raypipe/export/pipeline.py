"""``raypipe export``: pictures and labels in a format for other trainers, streamed in one process; or a model."""

from __future__ import annotations

import time
from typing import Any

from raypipe import tables
from raypipe.config import Config
from raypipe.config.data_options import ExportOptions
from raypipe.errors import InputError
from raypipe.export import parquet, tar
from raypipe.export.dataset_card import dataset_card
from raypipe.export.export_plan import ExportPlan, make_plan
from raypipe.export.folder import write_folder
from raypipe.export.safe_names import folder_names
from raypipe.export.samples import json_line
from raypipe.export.shards import write_shards
from raypipe.progress import Progress, print_line
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables.record import RunRecord

CLASSES = "classes.json"
CARD = "README.md"


def run(config: Config) -> RunRecord:
    """Write ``export/NAME/`` from `images/` and, if present, `labels/`. `raypipe.export.model` exports models.

    Each row of `images/` is exported, or counted under the reason why not. Raises InputError if nothing is left to
    export, StageError if a table is unfinished.
    """
    options, storage = config.export, config.open_storage()
    table = f"export/{options.name or options.format}"
    if options.format == "model":
        # torch is slow to import, and exporting pictures does not need it.
        from raypipe.export.model import pipeline as model

        return model.run(config, table)
    images = tables.get_record(storage, "images")
    if images.rows_out == 0:
        raise InputError(f"{storage.uri('images')}: has no rows; there is nothing to export")
    inputs = {"images": images.run_id}
    # Unfinished labels are an error (`get_record` raises it), not the same as no labels.
    labelled = bool(storage.files("labels"))
    if labelled:
        inputs["labels"] = tables.get_record(storage, "labels").run_id
    with tables.begin(
        storage, table, command="export", config=_settings(options), inputs=inputs, overwrite=config.overwrite
    ) as run_:
        if run_.record is not None:
            storage.prune(table)
            return run_.record
        started = time.monotonic()
        plan = make_plan(storage, labelled=labelled, shard_bytes=options.shard_mb * 1_000_000)
        planned = time.monotonic()
        with Progress("Exporting", sum(plan.counts().values()), "pictures") as progress:
            rows_out = _write(options, run_.writer, plan, progress)
        record = run_.commit(
            rows_in=plan.rows_in,
            rows_out=rows_out,
            dropped=plan.dropped,
            seconds={"plan": planned - started, "write": time.monotonic() - planned},
            facts=_facts(options, plan),
        )
    # An overwritten export leaves empty folders, and torchvision takes each folder for a class.
    storage.prune(table)
    _print_result(storage, record)
    return record


def _settings(options: ExportOptions) -> dict[str, Any]:
    # The name is part of the table's path. The size of shards has no effect if there are none.
    sharded = {} if options.format == "folder" else {"shard_mb": options.shard_mb}
    return {"export": {"format": options.format, **sharded}}


def _write(options: ExportOptions, writer: TableWriter, plan: ExportPlan, progress: Progress) -> int:
    if options.format != "hf" and plan.kind == "class":
        folders = folder_names(plan.classes)
        classes = [{"class": code, "label": name, "folder": folders[name]} for name, code in plan.codes.items()]
        writer.write_file(CLASSES, b"[\n" + b",\n".join(json_line(item) for item in classes) + b"\n]\n")
    if options.format == "folder":
        return write_folder(writer, plan, progress)
    if options.format == "webdataset":
        return write_shards(writer, plan, tar.TarShard, lambda split, i, _: f"{split}-{i:06d}.tar", progress)
    schema = parquet.make_schema(plan.kind, plan.classes)
    writer.write_file(CARD, dataset_card(plan, schema))
    return write_shards(
        writer,
        plan,
        lambda: parquet.ParquetShard(schema),
        lambda split, i, n: f"data/{split}-{i:05d}-of-{n:05d}.parquet",
        progress,
    )


def _facts(options: ExportOptions, plan: ExportPlan) -> dict[str, Any]:
    facts = {"format": options.format, "labels": plan.kind, "classes": list(plan.classes), "splits": plan.counts()}
    if options.format != "folder":
        facts["shards"] = {split: len(plan.shard_rows(split_index)) for split_index, split in enumerate(plan.splits)}
    return facts


def _print_result(storage: Storage, record: RunRecord) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in record.facts["splits"].items())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(record.dropped.items()))
    left_out = f"; left out: {reasons}" if reasons else ""
    print_line(f"{record.rows_out:,} pictures ({splits}){left_out}: {storage.uri(record.table)}")
