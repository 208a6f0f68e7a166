"""The stage `report`: writes one HTML page, its figures and its tables from the tables of a root."""

from __future__ import annotations

import time

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.progress import print_line
from raypipe.report import csv_tables, diagnostics, page
from raypipe.storage import Storage
from raypipe.tables.record import RunRecord, differences
from raypipe.tables.root_tables import RootTables

INDEX = "index.html"


def run(config: Config) -> RunRecord:
    """Write `report/index.html`, `report/figures/` and `report/tables/`. Needs no Ray.

    An existing report with the same options but other inputs is replaced without `--overwrite`, because everything in
    it can be made again. Raises InputError if the root has no complete table.
    """
    storage = config.open_storage()
    root_tables = RootTables.open(storage)
    if not root_tables.records:
        raise InputError(f"{storage.root}: has no complete table to report on; run `raypipe ingest` or `raypipe demo`")
    options = config.result_options("report")
    with tables.begin(
        storage,
        "report",
        command="report",
        config=options,
        inputs=root_tables.run_ids,
        overwrite=config.overwrite or _only_inputs_differ(storage, options, root_tables.run_ids),
    ) as run:
        if run.record:
            return run.record
        started = time.monotonic()
        content = page.read_content(root_tables)
        if content.diagnostics is None and (reason := diagnostics.missing_reason(root_tables)):
            print_line(f"  the regression's diagnostics are left out of the report: {reason}")
        read = time.monotonic()
        drawings = page.draw_figures(content)
        html = page.render(content, drawings, title=config.report.title, n_examples=config.report.examples)
        run.writer.write_file(INDEX, html.encode())
        for name, drawing in drawings.items():
            run.writer.write_file(f"figures/{name}.svg", drawing.svg)
            run.writer.write_file(f"figures/{name}.png", drawing.png)
        for name, data in csv_tables.csv_files(content).items():
            run.writer.write_file(f"tables/{name}", data)
        seconds = {"read": read - started, "draw": time.monotonic() - read}
        record = run.commit(rows_in=0, rows_out=0, seconds=seconds, facts={"index": storage.uri("report", INDEX)})
    print_line(f"Report: {storage.uri('report', INDEX)}")
    return record


def _only_inputs_differ(storage: Storage, options: dict[str, object], inputs: dict[str, str]) -> bool:
    found = tables.find_record(storage, "report")
    return found is not None and found.inputs != inputs and not differences(found, options, found.inputs)
