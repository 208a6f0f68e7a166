"""Small runs of the training benchmarks that start commands or Ray, up to their result files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def measured(tmp_path: Path, module: str, *words: str) -> dict[str, Any]:
    """Run one benchmark and return its result file."""
    command = [sys.executable, "-m", f"benchmarks.train.{module}", "--results", str(tmp_path / "out")]
    done = subprocess.run([*command, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = (tmp_path / "out").iterdir()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_real_input_benchmark_resumes(tmp_path: Path, insects: Path, keras_weights: Path) -> None:
    words = ["--pictures", str(insects), "--weights", str(keras_weights), "--work", str(tmp_path / "work")]
    words += ["--size", "32", "--epochs", "2", "--seeds", "1", "--table-size", "32", "--table-epochs", "A=1,BA=1"]
    first = measured(tmp_path, "real_input", *words, "--part", "time")["runs"]
    assert set(first) == {"root", "plain-full-0", "raypipe-A-0"}
    found = measured(tmp_path, "real_input", *words)
    runs = found["runs"]
    assert {name: runs[name] for name in first} == first
    assert set(runs) == {*first, "plain-0", "table-A", "table-BA"}
    assert len(runs["raypipe-A-0"]["val_accuracy"]) == len(runs["plain-0"]["val_accuracy"]) == 2
    assert runs["plain-0"]["val_accuracy"] == runs["plain-full-0"]["val_accuracy"]
    assert len(found["goals"]) == 1


def test_ray_train_gives_same_loss_as_bare_loop(tmp_path: Path) -> None:
    words = ["--images", "8", "--val", "4", "--size", "32", "--batch", "4", "--runs", "1", "--workers", "2"]
    found = measured(tmp_path, "ray_train", *words, "--configs", "B", "--device", "cpu")
    bare, through_ray = found["runs"]
    assert (bare["program"], through_ray["program"]) == ("bare", "Ray Train")
    assert through_ray["train_loss"] == pytest.approx(bare["train_loss"], rel=1e-3)
