"""``raypipe demo``: a generated world, its local server, and all stages from its posts to the report."""

from __future__ import annotations

import time
from importlib import metadata
from pathlib import Path

from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.progress import print_line
from raypipe.run.pipeline import STAGE_ORDER, run_stage
from raypipe.runtime import shared_ray
from raypipe.tables.record import RunRecord


def config_file(name: str = "demo.yaml") -> Path:
    """A file of configs/, from the checkout or else from the installed package. Raises StageError if there is none."""
    in_checkout = Path(__file__).parents[2] / "configs" / name
    if in_checkout.exists():
        return in_checkout
    for file in metadata.files("raypipe") or []:
        if file.match(f"configs/{name}"):
            return Path(str(file.locate()))
    raise StageError(f"configs/{name}: is not part of this installation; use --config FILE")


def run(config: Config) -> RunRecord:
    """Generate the world, serve its pictures on loopback while they are fetched, label, train A–D, and report."""
    from raypipe.report.summary import print_summary
    from raypipe.world.server import running_server

    started = time.monotonic()
    with shared_ray():
        order = ("world", *STAGE_ORDER)
        run_stage(config, "world", order)
        with running_server(config):
            run_stage(config, "ingest", order)
        for name in STAGE_ORDER[1:]:
            record = run_stage(config, name, order)
    print_summary(config)
    print_line(f"The demo took {time.monotonic() - started:.0f} s. The same command skips complete stages.")
    return record
