"""``raypipe run``: the stages from posts to the report, one after the other, with one Ray for all of them."""

from __future__ import annotations

import time

from raypipe.config import Config
from raypipe.progress import say
from raypipe.records import RunRecord
from raypipe.runtime import ray_session
from raypipe.stages import STAGES

ORDER = ("ingest", "label", "sweep", "report")


def run_stages(config: Config, names: tuple[str, ...]) -> RunRecord:
    """Run stages in turn, saying when each begins and how long it took; returns the last one's record."""
    with ray_session(config):
        for number, name in enumerate(names, 1):
            say(f"[{number}/{len(names)}] {name}: {STAGES[name].help}")
            started = time.monotonic()
            record: RunRecord = STAGES[name].load()(config)
            say(f"      {name} done in {time.monotonic() - started:.0f} s")
    return record


def run(config: Config) -> RunRecord:
    """Ingest, label, sweep and report; stages that are complete already are not done again."""
    from raypipe.report.summary import print_summary

    record = run_stages(config, ORDER)
    print_summary(config)
    return record
