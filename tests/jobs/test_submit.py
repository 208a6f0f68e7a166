"""`ray job submit` on a one-machine cluster that the test starts and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from raypipe.config.load import load_config
from raypipe.world.server import running_server
from tests.commands import start

REPOSITORY = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


STARTS_ITS_OWN = """
import ray
from raypipe.config.load import load_config
from raypipe.runtime import ray_session
with ray_session(load_config(ray={"dashboard": False, "num_cpus": 1})):
    print(int(ray.cluster_resources()["CPU"]), ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


def ports(n: int) -> list[int]:
    """Free loopback ports. Ray refuses ports between 10002 and 19999."""
    probes = [socket.socket() for _ in range(n)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Head(NamedTuple):
    """A head node: the URL of its dashboard, and the folder in which Ray looks for the last started cluster."""

    url: str
    folder: str


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node in its own process group, which is ended after the test."""
    gcs, dashboard, client, agent, agent_grpc, metrics = ports(6)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"]
    # A short path, because Ray's sockets are below it, and not the folder of another Ray on this machine.
    with Path(os.devnull).open("wb") as sink, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        environment["RAY_TMPDIR"] = folder
        # `ray start` writes this file last.
        started = Path(folder) / "ray" / "ray_current_cluster"
        node = start(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)
        try:
            for _ in range(240):
                with socket.socket() as probe:
                    if started.exists() and probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                        break
                assert node.poll() is None, "ray start ended at once"
                time.sleep(0.5)
            yield Head(f"http://127.0.0.1:{dashboard}", folder)
        finally:
            # The node ends its own processes. If all get the signal at once, they wait for each other.
            node.terminate()
            try:
                node.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait(timeout=30)


def submit(head: Head, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `ray job submit` with a job's script and wait for its end."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "job", "submit", "--address", head.url, "--working-dir", ".", "--", sys.executable, *words]
    for _ in range(20):
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1200)
        # The dashboard listens shortly before its agent accepts jobs.
        if "No available agent" not in done.stdout + done.stderr:
            return done
        time.sleep(1)
    return done


def test_raypipe_starts_own_ray_without_address(head: Head) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = head.folder
    command = [sys.executable, "-c", STARTS_ITS_OWN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.returncode) == ("1 42\n", 0), done.stderr


def test_submitted_job_runs_all_stages(head: Head, tmp_path: Path, free_port: int) -> None:
    root = str(tmp_path / "root")
    config = load_config(root=root, world={"posts": 300, "port": free_port})
    world = [sys.executable, "-m", "raypipe", "world", "--root", root, "--world.posts", "300"]
    subprocess.run([*world, "--world.port", str(free_port), "--ray.dashboard", "false"], check=True, timeout=600)
    with running_server(config):
        done = submit(
            head,
            *("jobs/run.py", "--root", root, "--ingest.allow_private", "--ingest.allow_ports", str(free_port)),
            *("--faces.upsample", "0", "--label.quantile", "0.3"),
            *("--train.weights", "random", "--train.image_size", "32"),
            *("--train.epochs", "2", "--sweep.configs", "A,B", "--train.save", "none"),
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    predictions = pd.read_parquet(f"{root}/sweep/predictions")
    assert set(predictions.configuration) == {"A", "B"}
    assert (tmp_path / "root" / "report" / "index.html").exists()
    failed = submit(head, "jobs/label.py", "--root", str(tmp_path / "nothing"))
    assert failed.returncode == 1
    assert "posts: does not exist" in failed.stdout + failed.stderr
