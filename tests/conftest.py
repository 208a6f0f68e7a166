"""Fixtures for all tests: one Ray for the session, the real data if present, and an empty root."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.runtime import ray_session as start_ray
from tests.commands import start
from tests.s3_faults import S3Faults

# For the tests' S3 server. Set before Ray starts, because Ray's workers inherit this environment.
os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
# For small networks, several threads mostly wait for each other, and slow down other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The time per example depends on what else the machine does.
settings.register_profile("raypipe", deadline=None)
settings.load_profile("raypipe")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2 --dist loadfile`, each file runs in one process, and all files that use Ray in the same one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    @functools.cache
    def group(file: str) -> str:
        return "ray" if "ray_session" in (config.rootpath / file).read_text() else file

    class OneRay(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return OneRay(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, the tests that use Ray run first, then those with the longest time limit."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: ("ray_session" not in getattr(item, "fixturenames", ()), -_limit(item)))


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the project's real data, which is not in the repository. Skips the test if it is absent."""
    given = os.environ.get("RAYPIPE_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "engagement.csv").exists():
        pytest.skip(f"real data absent: {folder} (set RAYPIPE_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests."""
    with start_ray(load_config(ray={"dashboard": False, "num_cpus": 2})):
        yield


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Start a Ray cluster on this machine whose head has `num_cpus` CPUs. Add nodes with `add_node`."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray._private.services import node_ip_address_from_perspective
    from ray.cluster_utils import Cluster

    class OwnAddress(Cluster):  # type: ignore[misc]
        def add_node(self, **options: Any) -> Any:
            # Otherwise a node takes the address of the Ray in this process, which other processes cannot join.
            return super().add_node(node_ip_address=node_ip_address_from_perspective(), **options)

    made: list[Cluster] = []

    def head(num_cpus: int) -> Cluster:
        made.append(OwnAddress(initialize_head=True, head_node_args={"num_cpus": num_cpus, "include_dashboard": False}))
        return made[-1]

    yield head
    for cluster in made:
        cluster.shutdown()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Default options with an empty root."""
    return load_config(root=str(tmp_path / "root"), ray={"dashboard": False, "num_cpus": 2})


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch uses two threads, as it does outside of the tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte. Skips the test if it cannot be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an S3 server in its own process on loopback, with an empty bucket named `bucket`."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = start(command, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the S3 server ended at once"
            time.sleep(0.2)
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="bucket")
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=20)
        log.close()


@pytest.fixture
def s3_faults(s3_endpoint: str, free_port: int) -> Iterator[S3Faults]:
    """A proxy in front of the S3 server that fails on request. It starts without faults."""
    faults = S3Faults(s3_endpoint, free_port)
    try:
        yield faults
    finally:
        faults.close()
