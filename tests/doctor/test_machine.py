"""Checks of processors, memory, open files, disks and ports."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from raypipe.config.load import load_config
from raypipe.doctor import machine
from raypipe.doctor.machine import (
    check_disk,
    check_memory,
    check_open_files,
    check_ports,
    check_processors,
    check_scratch,
)
from raypipe.storage import Storage

Usage = namedtuple("Usage", "total used free")
GB = 10**9


def test_processor_check_shows_supported_arithmetic() -> None:
    check = check_processors()
    assert "CPU cores (bfloat16)" in check.detail or "CPU cores (float32)" in check.detail
    assert (check.state == "warn") == check.detail.endswith("no GPU")


def test_available_memory_is_shown() -> None:
    check = check_memory()
    assert f"of {psutil.virtual_memory().total / 2**30:.1f} GiB available" in check.detail
    assert (check.state == "ok") == (check.advice == "")


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MIN_MEMORY_GB", 1e6)
    assert check_memory().state == "warn"


@pytest.mark.parametrize(("limit", "state"), [(1024, "warn"), (None, "ok")])
def test_low_open_file_limit_is_a_warning(limit: int | None, state: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit or min(hard, 65_536), hard))
    try:
        check = check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert check.state == state
    assert ("ulimit -n" in check.advice) == (state == "warn")


@pytest.mark.parametrize(
    ("free", "used", "root", "ray"),
    [
        (100 * GB, 10 * GB, "ok", "ok"),
        (10 * GB, 10 * GB, "warn", "warn"),
        (GB // 2, 1 * GB, "fail", "fail"),
        (40 * GB, 960 * GB, "ok", "fail"),
    ],
)
def test_low_disk_space_is_a_warning_or_failure(
    free: int, used: int, root: str, ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free + used, used, free))
    checks = check_disk(Storage(str(tmp_path / "not" / "there" / "yet")))
    assert [(check.name, check.state) for check in checks] == [("disk of root", root), ("disk of Ray", ray)]
    assert checks[0].detail.startswith(f"{tmp_path}: ")
    assert all(check.advice for check in checks if check.state != "ok")


def test_ray_disk_follows_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    (only,) = check_disk(None)
    assert only.detail.startswith(f"{tempfile.gettempdir()}: ")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (only,) = check_disk(Storage("s3://bucket/x", endpoint="http://127.0.0.1:9", region="us-east-1"))
    assert only.detail.startswith(f"{tmp_path}: ")


def test_scratch_check_reports_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = load_config(storage={"scratch": str(tmp_path / "fast"), "scratch_gb": 2}).open_storage().scratch
    own = tmp_path / "fast" / f"raypipe-{os.geteuid()}"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GB, 60 * GB, 40 * GB))
    check = check_scratch(scratch)
    assert (check.state, check.detail) == ("ok", f"{own}: 0.0 of 2.0 GB in 0 sets, 40.0 GB free")
    assert list(tmp_path.iterdir()) == []
    with scratch.temporary() as folder:
        with (folder / "x").open("wb") as file:
            file.truncate(1_500_000_000)
        assert check_scratch(scratch).detail == f"{own}: 1.5 of 2.0 GB in 1 set, 40.0 GB free"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GB, 100 * GB, GB // 2))
    assert check_scratch(scratch).state == "warn"
    own.chmod(0o777)
    check = check_scratch(scratch)
    assert (check.state, check.detail.partition(": ")[0]) == ("fail", str(own))
    assert "is open to other users (mode 0777)" in check.detail
    assert "--storage.scratch DIR" in check.advice


def test_disk_of_size_zero_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    for check in check_disk(Storage(str(tmp_path))):
        assert (check.state, check.detail.partition(": ")[2]) == ("fail", "0.0 GB free, 100% used")


def test_taken_port_advice_names_the_option(free_port: int) -> None:
    ray = {"dashboard": False, "dashboard_port": free_port}
    config = load_config(world={"port": free_port}, board={"port": 0}, study={"port": free_port}, ray=ray)
    assert [check.state for check in check_ports(config)] == ["ok", "ok", "ok"]
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port))
        server.listen()
        world, board, study = check_ports(config)
    assert (world.state, world.advice) == ("warn", "choose another: --world.port PORT")
    assert (study.state, study.advice) == ("warn", "choose another: --study.port PORT")
    assert str(free_port) in world.detail
    assert (board.state, board.detail) == ("ok", "any free port")


def test_dashboard_port_is_checked_only_if_set(free_port: int) -> None:
    names = [check.name for check in check_ports(load_config(ray={"dashboard_port": free_port}))]
    assert "port ray.dashboard_port" in names
    assert "port ray.dashboard_port" not in [check.name for check in check_ports(load_config())]
