"""The stage `doctor`: prints every check in one table. Exit code 1 if a check fails."""

from __future__ import annotations

import time

from rich import box
from rich.table import Table
from rich.text import Text

from raypipe.config import Config
from raypipe.doctor.check_result import CheckResult, failure_texts, run_check, worst_state
from raypipe.doctor.machine import (
    check_disk,
    check_memory,
    check_open_files,
    check_ports,
    check_processors,
    check_scratch,
)
from raypipe.doctor.root_checks import check_root
from raypipe.doctor.software import check_dlib, check_packages, check_python, check_torchvision, check_weights
from raypipe.errors import StageError
from raypipe.progress import console, print_line
from raypipe.runtime import ray_session

_WIDTH_OF_LOGS = 160
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def run(config: Config) -> list[CheckResult]:
    """Run all checks, print the table, and return the checks. Raises StageError with the names of failed checks."""
    print_line(f"Checking{'; starting Ray takes some seconds' * config.doctor.ray} …")
    checks = [*_run_checks(config)]
    _print(checks)
    failed = list(failure_texts(checks))
    if failed:
        raise StageError(f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}")
    print_line("All checks passed." if worst_state(checks) == "ok" else "Stages can run; see the warnings above.")
    if not config.doctor.ray:
        print_line("Ray was not tested; --doctor.ray starts it, or joins the cluster of RAY_ADDRESS.")
    return checks


def _run_checks(config: Config) -> list[CheckResult]:
    place = check_root(config)
    storage = config.open_storage() if place[-1].state != "fail" else None
    return [
        check_python(),
        check_packages(),
        check_torchvision(),
        check_dlib(),
        check_weights(config.train.weights, config.train.model),
        check_processors(),
        check_memory(),
        check_open_files(),
        *check_disk(storage),
        check_scratch(config.open_storage().scratch),
        *place,
        *check_ports(config),
        *([check_ray(config)] if config.doctor.ray else []),
    ]


def check_ray(config: Config) -> CheckResult:
    """Start Ray, or join the cluster of RAY_ADDRESS, and run a task that imports raypipe."""

    def run_probe() -> str:
        started = time.monotonic()
        with ray_session(config):
            import ray

            def work() -> str:
                import raypipe

                return str(raypipe.__name__)

            task = ray.remote(num_cpus=1)(work)
            name = ray.get(task.remote(), timeout=120)
            resources, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
        gpus = f", {resources['GPU']:.0f} GPUs" if resources.get("GPU") else ""
        return (
            f"{nodes} node{'s' if nodes != 1 else ''}, {resources.get('CPU', 0):.0f} CPUs{gpus}; "
            f"a task imported {name} after {time.monotonic() - started:.1f} s"
        )

    return run_check(
        "ray", run_probe, "see the logs in Ray's temporary directory (ray/session_latest/logs), or unset RAY_ADDRESS"
    )


def _print(checks: list[CheckResult]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("check", "state", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.state, style=_COLOURS[check.state]), check.detail, check.advice)
    out = console()
    out.soft_wrap = False
    # Log files do not wrap lines: a width of 80 columns would only break paths.
    out.print(table, width=None if out.is_terminal else _WIDTH_OF_LOGS)
