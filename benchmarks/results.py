"""The output of a benchmark: a JSON file in results/, with hardware and versions, and a table to read."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import Usage
from benchmarks.web import program

FOLDER = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parents[1]
_PACKAGES = (
    "raypipe",
    "ray",
    "aiohttp",
    "uvloop",
    "pyarrow",
    "pillow",
    "dlib-bin",
    "numpy",
    "formulaic",
    "scipy",
    "pandas",
    "torch",
    "torchvision",
)


def parser(description: str | None, images: int, what: str = "pictures to fetch") -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--images", type=int, default=images, help=what)
    made.add_argument("--runs", type=int, default=3, help="runs of each kind")
    made.add_argument("--work", type=Path, help="folder for pictures (used again) and output; default: temporary")
    made.add_argument("--results", type=Path, default=FOLDER, help="folder for the result file")
    made.add_argument("--raypipe", default="", help="more options of `raypipe ingest`, in quotes: '--ingest.x 1'")
    return made


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder that --work names, or a temporary folder that is deleted afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="raypipe-benchmark-") as made:
        yield Path(made)


def numbers_of(usage: Usage, images: int) -> dict[str, Any]:
    """A run's numbers: rates over `images` pictures, CPU seconds, megabytes."""
    return {
        "images_per_s": images / usage.wall,
        "images_per_cpu_s": images / usage.cpu,
        "wall_s": usage.wall,
        "cpu_s": usage.cpu,
        "cpu_method": usage.method,
        "cpu_s_by_method": usage.cpu_by_method,
        "cpu_s_by_process": {name: used for name, used in usage.cpu_by_name.items() if used >= 0.05},
        "peak_pss_mb": usage.peak_pss,
        "peak_rss_mb": usage.peak_rss,
        "machine_busy_cpu_s": usage.machine_busy,
        "processes_left_over": usage.left_over,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(values: Sequence[float], digits: int = 0) -> str:
    """Median, minimum and maximum as text: ``1,480 (1,455–1,502)``."""
    found = spread(values)
    return f"{found['median']:,.{digits}f} ({found['min']:,.{digits}f}–{found['max']:,.{digits}f})"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with the same keys as a Markdown table."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goal(text: str, value: float, wanted: float, *, at_least: bool = True) -> dict[str, Any]:
    """A goal: its text, the wanted value, the measured value, and whether it is met."""
    return {"goal": text, "wanted": wanted, "value": value, "met": value >= wanted if at_least else value <= wanted}


def said(found: Mapping[str, Any]) -> str:
    """A goal as one line of text."""
    return f"{found['goal']}: {found['value']:.3g}, wanted {found['wanted']:g}: {'met' if found['met'] else 'missed'}"


def write(folder: Path, what: str, content: Mapping[str, Any], *, subject: str = "ingest") -> Path:
    """Write date, hardware, versions and `content`, with floats to 4 significant digits. Returns the result file."""
    now = datetime.now(UTC)
    hardware = _hardware()
    name = f"{subject}_{what}_{_slug(hardware['cpu'])}_{hardware['cores']}cores_{now:%Y-%m-%d}.json"
    head = {"benchmark": what, "date": f"{now:%Y-%m-%d}", "hardware": hardware, "versions": versions()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(_rounded(head | dict(content)), indent=1, ensure_ascii=False) + "\n")
    return path


def versions() -> dict[str, str]:
    """Versions of the measured programs and their dependencies. `revision` is the commit, with `+` if files differ."""
    found = {"python": platform.python_version(), "kernel": platform.release().split("-")[0], "nginx": _nginx()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if revision := _git("rev-parse", "--short", "HEAD"):
        changed = _git("status", "--porcelain", "--untracked-files=no")
        found["revision"] = revision + ("+" if changed else "")
    return found


def _hardware() -> dict[str, Any]:
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": models[0].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
    }


def _nginx() -> str:
    try:
        said = subprocess.run([program(), "-v"], capture_output=True, text=True).stderr
    except FileNotFoundError:
        return "absent"
    return said.rpartition("/")[2].strip()


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}") if abs(value) < 1e5 else round(value)
        case Mapping():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
