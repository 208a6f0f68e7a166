"""Small runs of the training benchmarks that need no Ray, up to their result files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import REPOSITORY
from benchmarks.train import cpu_step, loop_rate
from benchmarks.train.plain_torch import Writing


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call a benchmark with options and return its result file."""

    def call(module: Any, *words: str) -> Any:
        monkeypatch.setattr(sys, "argv", [module.__name__, "--results", str(tmp_path / "out"), *words])
        assert module.main() == 0
        (path,) = (tmp_path / "out").iterdir()
        return json.loads(path.read_text())

    return call


def test_step_and_pass_are_compared_with_plain_torch(run: Callable[..., Any]) -> None:
    words = ["--size", "32", "--batch", "2", "--probe", "1", "--images", "2", "--runs", "2", "--no-compile"]
    found = run(cpu_step, *words)
    assert set(found["found"]) == {"step of C", "feature pass of A"}
    for work in found["found"].values():
        assert len(work["rounds"]) == 2
        programs = set(work["rounds"][0]) - {"others_cpu_s"}
        assert {"raypipe", work["as_the_loop"], work["best"]} <= programs
        assert all(row[name] > 0 for row in work["rounds"] for name in programs)
        ratios = [row["raypipe"] / row[work["best"]] for row in work["rounds"]]
        assert work["times_best"]["min"] == pytest.approx(min(ratios), rel=0.01)
    assert len(found["goals"]) == 4


def test_peers_alternate_after_each_batch() -> None:
    done: list[str] = []
    first, second = Writing(), Writing(layout="contiguous")
    alternation = cpu_step._Alternation({first: lambda: done.append("first"), second: lambda: done.append("second")})
    for _ in range(3):
        alternation.after_batch()
    assert done == ["first", "second", "second", "first", "first", "second"]
    probed = {first: 1.0, second: 1.2}
    with pytest.raises(RuntimeError, match="3 batches, not 5"):
        cpu_step._found(alternation, probed, first, 1, warm=1, rounds=4)
    assert len(cpu_step._found(alternation, probed, first, 1, warm=1, rounds=2)["rounds"]) == 2


def test_nearly_fastest_variants_are_measured_too() -> None:
    same, fast, near, slow = (Writing(update=update) for update in ("fused", "foreach", "single", ""))
    probed = {same: 2.0, fast: 1.0, near: 1.04, slow: 1.3}
    assert cpu_step._finalists(probed, same) == [same, fast, near]
    assert cpu_step._finalists({same: 1.0, fast: 1.04, slow: 1.3}, same) == [same, fast]


def test_loop_rate_compares_with_torchvision_recipe(run: Callable[..., Any]) -> None:
    words = ["--images", "6", "--val", "2", "--size", "32", "--batches", "2,4", "--runs", "1", "--configs", "A,B"]
    found = run(loop_rate, *words, "--device", "cpu")
    kinds = {(run["configuration"], run["batch"], run["program"]) for run in found["runs"]}
    peers = {("B", batch, program) for batch in (2, 4) for program in ("raypipe", "torchvision")}
    assert kinds == {("A", 2, "raypipe"), *peers}
    assert all(run["images_per_s"] > 0 for run in found["runs"])


def test_loop_benchmark_does_not_import_ray() -> None:
    code = "import sys; sys.modules['ray'] = None; import benchmarks.train.loop_rate, benchmarks.train.cpu_step"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
