"""Starting Ray in one place, and errors of its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import InputError, StageError
from raypipe.runtime import original_error, ray_session, session, should_use_ray

PROGRAM = """
import ray
from raypipe.config.load import load_config
from raypipe.runtime import shared_ray, ray_is_running, ray_session, should_use_ray
assert not ray_is_running()
options = load_config(ray={"dashboard": False, "num_cpus": 1})
with shared_ray():
    with ray_session(options):
        first = ray.get_runtime_context().get_job_id()
    assert should_use_ray(options)
    with shared_ray(), ray_session(options):
        assert ray.get_runtime_context().get_job_id() == first
    assert ray_is_running()
    assert ray.cluster_resources()["CPU"] == 1
    assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
    import ray.data
    assert sorted(row["item"] for row in ray.data.from_items([1, 2]).map(lambda row: row).take_all()) == [1, 2]
assert not ray_is_running()
"""


LISTENING = """
import json, psutil, ray
from raypipe.config.load import load_config
from raypipe.runtime import ray_session
with ray_session(load_config(ray={"dashboard": True, "num_cpus": 1})):
    assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
    own = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = {c.laddr.ip for p in own for c in p.net_connections("inet") if c.status == "LISTEN"}
    print(json.dumps([ip.removeprefix("::ffff:") for ip in found]))
"""

BUSY = """
import ray
from raypipe import runtime
from raypipe.config.load import load_config
real, calls = ray.init, []
def busy(**options):
    # As on a machine where the node takes more than its 30 s.
    calls.append(options)
    if len(calls) < {failures}:
        raise Exception("The current node timed out during startup. This could happen because some of the raylet …")
    return real(**options)
ray.init = busy
with runtime.ray_session(load_config(ray={{"dashboard": False, "num_cpus": 1}})):
    assert ray.cluster_resources()["CPU"] == 1
print(len(calls))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray does so by itself")
def test_local_ray_listens_only_on_loopback() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    found = subprocess.run([sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert set(json.loads(found.stdout.splitlines()[-1])) == {"127.0.0.1"}


def raise_from(error: BaseException, inner: BaseException) -> BaseException:
    error.__cause__ = inner
    return error


@pytest.mark.usefixtures("ray_session")
def test_inner_session_keeps_ray_running(config: Config) -> None:
    import ray

    with ray_session(config):
        pass
    assert ray.is_initialized()


@pytest.mark.parametrize(("dashboard", "wanted"), [(None, False), (False, False), (True, True)])
def test_ray_is_wanted_if_dashboard_is_on(
    dashboard: bool | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    options = load_config(ray={} if dashboard is None else {"dashboard": dashboard})
    assert should_use_ray(options) == wanted
    assert "ray" not in sys.modules
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert should_use_ray(options)


@pytest.mark.usefixtures("ray_session")
def test_running_ray_is_wanted(config: Config) -> None:
    assert should_use_ray(config)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("kind", [StageError, InputError, KeyError, OSError])
def test_cause_is_error_of_worker(kind: type[Exception]) -> None:
    import ray

    def work() -> None:
        raise kind("what went wrong")

    def outer() -> None:
        ray.get(ray.remote(work).remote())

    for function in (work, outer):
        with pytest.raises(kind) as caught:
            ray.get(ray.remote(function).remote())
        found = original_error(caught.value)
        assert type(found) is kind
        assert str(found).strip("'") == "what went wrong"


@pytest.mark.usefixtures("ray_session")
def test_cause_of_failed_ray_data_pipeline_is_found() -> None:
    import ray.data

    def work(row: dict[str, int]) -> dict[str, int]:
        raise InputError(f"row {row['id']}: negative likes")

    with pytest.raises(Exception) as caught:
        ray.data.range(1).map(work).take_all()
    assert repr(original_error(caught.value)) == repr(InputError("row 0: negative likes"))


def test_cause_of_unwrapped_errors_is_found() -> None:
    plain = ValueError("x")
    assert original_error(plain) is plain
    assert original_error(raise_from(RuntimeError("outer"), plain)) is plain
    told = StageError("labels: cannot write")
    assert original_error(raise_from(told, plain)) is told
    assert original_error(raise_from(RuntimeError("outer"), told)) is told


def test_circular_causes_end() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert original_error(one) in (one, two)


@pytest.mark.cluster
def test_ray_starts_runs_and_stops_quietly(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    # A new Ray would write an authentication token into the home directory.
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_missing_cluster_raises_one_line_error(scheme: str, free_port: int) -> None:
    address = f"{scheme}127.0.0.1:{free_port}"
    environment = {**os.environ, "RAY_ADDRESS": address}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"raypipe.errors.StageError: cannot reach the cluster at RAY_ADDRESS={address}: ")
    assert last.endswith("; see `raypipe doctor --doctor.ray`")


def test_loopback_only_cluster_cannot_be_joined(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    dialed: list[str] = []

    class Connection:
        def close(self) -> None: ...

    def connect(address: tuple[str, int], **_: object) -> Connection:
        dialed.append(address[0])
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError(111, "Connection refused")
        return Connection()

    monkeypatch.setattr(services, "get_node_ip_address", lambda: "192.0.2.7")
    monkeypatch.setattr("raypipe.runtime.session.socket.create_connection", connect)
    with pytest.raises(
        ConnectionError, match=r"replaces 127\.0\.0\.1 with 192\.0\.2\.7, but the cluster does not listen"
    ):
        session._check_reachable(f"127.0.0.1:{free_port}")
    assert dialed == ["127.0.0.1", "192.0.2.7"]
    session._check_reachable(f"ray://127.0.0.1:{free_port}")
    assert dialed[2:] == ["127.0.0.1"]


@pytest.mark.parametrize(("failures", "code"), [pytest.param(2, 0, marks=pytest.mark.cluster), (9, 1)])
def test_ray_start_is_retried_after_timeout(failures: int, code: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", BUSY.format(failures=failures)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == code, done.stderr
    if code == 0:
        assert done.stdout.split()[-1] == "2"
        assert "starting it again" in done.stdout
    else:
        assert "StageError: cannot start Ray on this machine: The current node timed out" in done.stderr
