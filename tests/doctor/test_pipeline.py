"""The whole table of checks and its exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.cli import main
from raypipe.config import Config
from raypipe.config.data_options import DoctorOptions
from raypipe.config.load import load_config
from raypipe.doctor import pipeline
from raypipe.doctor.pipeline import check_ray, run
from raypipe.errors import StageError

NAMES = ("python", "packages", "torchvision", "dlib", "weights", "processors", "memory", "open files", "ray", "root")


@pytest.fixture
def well(tmp_path: Path) -> Config:
    """Options that pass on any machine."""
    return load_config(
        root=str(tmp_path / "root"),
        train={"weights": "random"},
        ray={"dashboard": False, "num_cpus": 2},
        doctor={"ray": True},
    )


@pytest.mark.usefixtures("ray_session")
def test_suitable_machine_passes(well: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checks = {check.name: check for check in run(well)}
    assert set(NAMES) <= set(checks)
    assert {"disk of root", "disk of Ray", "scratch", "port world.port", "port study.port", "port board.port"} <= set(
        checks
    )
    assert not [check for check in checks.values() if check.state == "fail"]
    out = capsys.readouterr().out
    for check in checks.values():
        assert re.search(rf"^ *{re.escape(check.name)} +{check.state} ", out, re.M)
    assert out.splitlines()[-1].startswith(("All checks passed", "Stages can run"))
    assert list(tmp_path.iterdir()) == []


def test_ray_is_only_checked_on_request(
    well: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "ray_session", None)
    with pytest.raises(StageError, match=r"1 of \d+ checks failed: ray \("):
        run(well)
    names = [check.name for check in run(well.model_copy(update={"doctor": DoctorOptions()}))]
    assert set(NAMES) - set(names) == {"ray"}
    assert "--doctor.ray starts it" in capsys.readouterr().out


def test_failed_checks_exit_1_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    words = ["--root", str(tmp_path / "file" / "run"), "--train.weights", str(tmp_path / "none.h5")]
    assert main(["doctor", *words]) == 1
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert output.err.startswith("raypipe doctor: 2 of ")
    assert "root (" in output.err
    assert "weights (" in output.err
    assert "fail" in output.out


@pytest.mark.usefixtures("ray_session")
def test_ray_runs_a_task(well: Config) -> None:
    check = check_ray(well)
    assert check.state == "ok"
    assert check.detail.startswith("1 node, 2 CPUs; a task imported raypipe after ")


@pytest.mark.cluster
def test_unreachable_cluster_error_names_address(tmp_path: Path, free_port: int) -> None:
    command = [sys.executable, "-m", "raypipe", "doctor", "--root", str(tmp_path), "--train.weights", "random"]
    command.append("--doctor.ray")
    environment = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{free_port}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    expected = f"ray (cannot reach the cluster at RAY_ADDRESS=127.0.0.1:{free_port}: [Errno 111] Connection refused; "
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
