"""``raypipe run``: the stages from posts to the report, one after the other. Stages that need Ray share one."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from raypipe.config import Config
from raypipe.progress import print_line
from raypipe.runtime import shared_ray
from raypipe.stages import STAGES
from raypipe.tables.record import RunRecord

STAGE_ORDER = ("ingest", "label", "sweep", "report")


def run_stage(config: Config, name: str, order: tuple[str, ...]) -> RunRecord:
    """Run the stage `name` of `order`, and print when it begins and how long it took. Returns its record.

    After `label`, the funnel and the regression are printed, because the next stage, the sweep, takes much longer.
    """
    print_line(f"[{order.index(name) + 1}/{len(order)}] {name}: {STAGES[name].help}")
    started, began = time.monotonic(), datetime.now(UTC)
    record: RunRecord = STAGES[name].load()(config)
    complete = record.finished_at < began
    print_line(
        f"      {name} was already complete" if complete else f"      {name} took {time.monotonic() - started:.0f} s"
    )
    if name == "label" and not complete:
        from raypipe.report.summary import print_first_result

        print_first_result(config)
    return record


def run(config: Config) -> RunRecord:
    """Ingest, label, sweep and report. Complete stages are not repeated. Returns the record of the report."""
    from raypipe.report.summary import print_summary

    with shared_ray():
        for name in STAGE_ORDER:
            record = run_stage(config, name, STAGE_ORDER)
    print_summary(config)
    return record
