"""Ingest on Ray after SIGKILL of the driver, a worker or a node, and with a full disk: each row exists once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from raypipe import tables
from raypipe.storage import Storage
from tests.commands import RAYPIPE_ON_RAY
from tests.ingest.conftest import WebServer, body, picture
from tests.kill_program import ended, ray_processes

POSTS = 600
SECONDS = 240

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

Kill = Callable[[subprocess.Popen[bytes]], None]


@pytest.fixture
def slow(server: WebServer) -> WebServer:
    """A slow server, so that a kill hits the middle of the work."""
    server.delay = 0.15
    return server


def command(folder: Path, root: Path, server: WebServer, *words: str) -> list[str]:
    posts = folder / "posts.csv"
    if not posts.exists():
        ids = range(POSTS)
        urls = [server.url(f"/{i}.jpg") for i in ids]
        frame = pd.DataFrame({"post_id": [f"p{i}" for i in ids], "image_url": urls, "likes": ids, "followers": ids})
        frame.to_csv(posts, index=False)
    options = ["--ingest.allow_private", "--ingest.allow_ports", str(server.port), "--ingest.per_host", "12"]
    options += ["--ingest.block_rows", "16", "--ray.dashboard", "false", "--ray.num_cpus", "2", *words]
    return [*RAYPIPE_ON_RAY, "ingest", "--posts", str(posts), "--root", str(root), *options]


def start(words: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("ab") as sink:
        return subprocess.Popen(words, env={**kept, **environment}, stdout=sink, stderr=sink)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, f"ended before the kill: {log.read_text()[-2000:]}"
        assert time.monotonic() < until, f"never came to the kill: {log.read_text()[-2000:]}"
        time.sleep(0.02)


def asked(server: WebServer) -> int:
    return len(server.requests)


def staged_ids(root: Path) -> set[str]:
    found: set[str] = set()
    for path in (root / "images" / "_staging").rglob("part-*.parquet"):
        found |= set(pq.read_table(path, columns=["post_id"])["post_id"].to_pylist())
    return found


def check_complete(root: Path) -> None:
    """Check that each post has one row, that no partial file is left, and that pandas reads the same table."""
    rows = tables.read_table(Storage(str(root)), "images")
    assert sorted(rows["post_id"].to_pylist()) == sorted(f"p{i}" for i in range(POSTS))
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert len(pd.read_parquet(root / "images", columns=["post_id"])) == POSTS
    assert not list((root / "images").rglob("*.tmp"))
    assert not (root / "images" / "_staging").exists()


@pytest.mark.parametrize(("seed", "faces"), [(1, "true"), (2, "false")])
def test_rerun_completes_after_driver_is_killed(tmp_path: Path, slow: WebServer, seed: int, faces: str) -> None:
    words = command(tmp_path, tmp_path / "root", slow, "--faces.enabled", faces, "--ingest.file_mb", "1")
    log = tmp_path / "log"
    rng = random.Random(seed)
    kills = 0
    for _ in range(2):
        target = asked(slow) + rng.randrange(30, 200)
        process = start(words, log)
        wait_for(lambda least=target: asked(slow) >= least, process, log)  # type: ignore[misc]
        time.sleep(rng.random())
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        kills += 1
        # Ray's processes end with their driver. Files that they were writing may still appear, complete.
        time.sleep(5)
        done = staged_ids(tmp_path / "root")
        once = {path: n for path, n in slow.requests.items() if f"p{path[1:-4]}" in done}
    assert kills == 2
    assert 0 < asked(slow) < POSTS
    process = start(words, log)
    assert process.wait(SECONDS) == 0, log.read_text()[-2000:]
    check_complete(tmp_path / "root")
    # Staged pictures were not requested again.
    assert {path: slow.requests[path] for path in once} == once


@pytest.mark.parametrize(
    ("which", "faces"), [("FetchActor", "true"), ("FetchActor", "false"), ("examine_batch", "true")]
)
def test_run_survives_killed_worker(tmp_path: Path, slow: WebServer, which: str, faces: str) -> None:
    words = command(tmp_path, tmp_path / "root", slow, "--faces.enabled", faces)
    log = tmp_path / "log"
    process = start(words, log)
    wait_for(lambda: asked(slow) > 60 and ray_processes(process.pid, which), process, log)
    victim = ray_processes(process.pid, which)[0]
    victim.send_signal(signal.SIGKILL)
    assert process.wait(SECONDS) == 0, log.read_text()[-2000:]
    assert ended(victim)
    check_complete(tmp_path / "root")
    if which == "FetchActor":
        assert "was lost" in log.read_text()


def test_run_survives_lost_node(tmp_path: Path, slow: WebServer, ray_cluster: Callable[..., Any]) -> None:
    cluster = ray_cluster(num_cpus=1)
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    words, log = command(tmp_path, tmp_path / "root", slow, "--ingest.fetchers", "2"), tmp_path / "log"
    process = start(words, log, RAY_ADDRESS=cluster.address, RAY_AUTH_MODE="disabled")
    (raylet,) = second.all_processes["raylet"]
    wait_for(lambda: asked(slow) > 100 and ray_processes(raylet.process.pid, "FetchActor"), process, log)
    # There is one fetch actor per machine. The host budget actor runs on the driver's machine.
    victims = ray_processes(raylet.process.pid, "FetchActor")
    assert len(victims) == 1
    assert not ray_processes(raylet.process.pid, "HostBudgetActor")
    cluster.remove_node(second, allow_graceful=False)
    assert process.wait(SECONDS) == 0, log.read_text()[-2000:]
    assert all(ended(victim) for victim in victims)
    assert "was lost" in log.read_text()
    check_complete(tmp_path / "root")


def test_full_disk_gives_one_line_and_run_resumes(tmp_path: Path, slow: WebServer, small_disk: Path) -> None:
    slow.delay = 0.0
    large = picture(size=(400, 400), quality=95)
    assert POSTS * len(large) > 4_000_000
    for i in range(POSTS):
        slow.behave(f"/{i}.jpg", body(large))
    words, log = command(tmp_path, small_disk / "root", slow, "--faces.enabled", "false"), tmp_path / "log"
    process = start(words, log)
    assert process.wait(SECONDS) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert "No space left on device" in last
    assert "free space or choose another --root" in last
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    process = start(words, log)
    assert process.wait(SECONDS) == 0, log.read_text()[-2000:]
    check_complete(small_disk / "root")
