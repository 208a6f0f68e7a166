"""Small runs of the ingest benchmarks, up to their result files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import REPOSITORY

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")), reason="nginx is not installed"
    ),
]


def measured(tmp_path: Path, module: str, *words: str) -> dict[str, Any]:
    """Run one benchmark and return its result file."""
    command = [sys.executable, "-m", f"benchmarks.ingest.{module}", "--runs", "1", "--results", str(tmp_path / "out")]
    done = subprocess.run([*command, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = (tmp_path / "out").iterdir()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_fetch_rate_counts_same_bytes_for_each_tool(tmp_path: Path) -> None:
    found = measured(tmp_path, "fetch_rate", "--images", "300", "--tools", "raypipe,raypipe_tuned,img2dataset,bare")
    runs = {run["tool"]: run for run in found["runs"]}
    assert set(runs) == {"raypipe", "raypipe_tuned", "bare"}  # img2dataset is not installed and is left out
    assert all(run["ok"] == 300 for run in runs.values())
    assert runs["raypipe"]["same_bytes"] == runs["raypipe_tuned"]["same_bytes"] == 300


def test_faces_rate_gives_identical_counts(tmp_path: Path) -> None:
    found = measured(tmp_path, "faces_rate", "--images", "120", "--ways", "defaults", "--workers", "2")
    assert found["counts_identical"]
    (run,) = (run for run in found["runs"] if run["kind"] == "defaults")
    assert run["ok"] == 120
    assert [goal["wanted"] for goal in found["goals"]] == [0.95, 0.9]


def test_each_kind_of_error_gets_its_status(tmp_path: Path) -> None:
    found = measured(tmp_path, "hostile", "--part", "errors", "--images", "300", "--share", "0.08", "--ways", "tuned")
    (run,) = (run for run in found["runs"] if run["case"] == "with errors, tuned")
    bad = dict.fromkeys(("gone", "forbidden", "server_error", "truncated", "not_an_image", "connection"), 3)
    assert run["statuses"] == {"ok": 282, **bad}
