"""Ingest in the command's process and its children gives the same rows as with Ray, without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.ingest.batch_fetcher import BatchFetcher
from raypipe.ingest.image_rows import TO_FETCH
from raypipe.ingest.local import fetch_locally, merge_locally, runs_without_ray
from raypipe.ingest.staged_rows import count_staged, staged_columns
from raypipe.storage import Storage
from raypipe.tables.compact import staged_parts
from tests.commands import start
from tests.ingest.conftest import WebServer, body, picture, status


def configure(tmp_path: Path, server: WebServer, **ingest: object) -> Config:
    options = {"allow_private": True, "allow_ports": [server.port], "attempts": 1, **ingest}
    return load_config(root=str(tmp_path / "root"), ray={"dashboard": False}, faces={"enabled": False}, ingest=options)


def orders(server: WebServer, n: int, deleted: int = 0) -> pa.Table:
    rows = [
        {"post_id": f"p{i:03d}", "image_url": server.url(f"/{i}.jpg"), "deleted": i >= n} for i in range(n + deleted)
    ]
    return pa.Table.from_pylist(rows, schema=TO_FETCH)


def begin(config: Config) -> tables.TableRun:
    return tables.begin(config.open_storage(), "images", command="ingest", config={}, inputs={})


def test_every_post_gets_its_row(tmp_path: Path, server: WebServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.behave("/3.jpg", status(404))
    server.behave("/4.jpg", body(picture("WEBP")))
    config = configure(tmp_path, server)
    with begin(config) as run:
        fetch_locally(config, orders(server, 30, deleted=2), run.writer)
        image_counts = count_staged(run.writer)
        assert image_counts.statuses == {"ok": 29, "gone": 1, "deleted": 2}
        assert image_counts.seconds["fetch"] > 0
        assert image_counts.seconds["write"] > 0
        rows = {row["post_id"]: row for row in staged_columns(run.writer, ["post_id", "format", "width"]).to_pylist()}
        assert (rows["p004"]["format"], rows["p005"]["format"], rows["p005"]["width"]) == ("WEBP", "JPEG", 64)
        run.commit(rows_in=32)
    assert "Fetching pictures 32/32 pictures" in capsys.readouterr().out


def test_staged_rows_are_not_fetched_again(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server)
    with begin(config) as run:
        fetch_locally(config, orders(server, 10), run.writer)
        fetch_locally(config, orders(server, 25), run.writer)
        assert len(staged_parts(run.writer)) == 2
        merge_locally(config, run.writer)
        assert len(staged_parts(run.writer)) == 1
        run.commit(rows_in=25)
    assert set(server.requests.values()) == {1}


def test_slow_hosts_do_not_delay_writing(tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.ingest.batch_fetcher._BATCH_SECONDS", 0.1)
    monkeypatch.setattr("raypipe.ingest.batch_fetcher._FILE_SECONDS", 0.2)
    server.behave("/0.jpg", status(429, times=1, data=picture(), Retry_After="2"))
    config = configure(tmp_path, server, attempts=3, per_host=1)
    with begin(config) as run, BatchFetcher(config.ingest, config.faces, 100) as fetcher:
        staged = [summary.rows for summary in fetcher.stage_files(orders(server, 0, deleted=3), "a", run.writer)]
        assert staged == [3]
        posts = pa.concat_tables([orders(server, 1), orders(server, 0, deleted=5).slice(1)])
        # Four rows are ready immediately. The fifth waits for its host.
        assert [summary.rows for summary in fetcher.stage_files(posts, "b", run.writer)] == [4, 1]
        run.commit(rows_in=8)


def test_waiting_hosts_are_counted_while_they_change(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server)
    # Each URL is refused immediately, so hosts appear and disappear quickly.
    rows = [
        {"post_id": f"p{i}", "image_url": f"http://10.{i // 256}.{i % 256}.1/", "deleted": False} for i in range(3000)
    ]
    refusing = config.model_copy(update={"ingest": config.ingest.model_copy(update={"allow_private": False})})
    with begin(config) as run, BatchFetcher(refusing.ingest, config.faces, 16) as fetcher:
        summaries = fetcher.stage_files(pa.Table.from_pylist(rows, schema=TO_FETCH), "a", run.writer)
        thread = threading.Thread(target=lambda: seen.extend(summaries))
        seen: list[object] = []
        thread.start()
        counts = 0
        while thread.is_alive():
            assert fetcher.hosts_waiting >= 0
            counts += 1
        assert counts > 0
        run.commit(rows_in=3000)


def test_rows_staged_twice_appear_once(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server)
    with begin(config) as run:
        with BatchFetcher(config.ingest, config.faces, 100) as fetcher:
            for prefix in ("a", "b"):
                assert len(list(fetcher.stage_files(orders(server, 0, deleted=4), prefix, run.writer))) == 1
        fetch_locally(config, orders(server, 0, deleted=4), run.writer)
        run.commit(rows_in=4)


def test_unexpected_exception_ends_fetching(tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("raypipe.ingest.fetching.fetch.Fetcher._handle_outcome", broken)
    config = configure(tmp_path, server)
    with pytest.raises(KeyError, match="unforeseen"), begin(config) as run:
        fetch_locally(config, orders(server, 3), run.writer)


@pytest.mark.parametrize(
    ("change", "enough"),
    [
        ({}, True),
        ({"faces": {"enabled": True}}, True),
        ({"ray": {"dashboard": None}}, True),
        ({"ingest": {"fetchers": 2}}, False),
        ({"ray": {"dashboard": True}}, False),
    ],
)
def test_one_process_is_used_for_few_posts(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], enough: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    options: dict[str, object] = {"ray": {"dashboard": False}, "faces": {"enabled": False}, **change}
    assert runs_without_ray(load_config(**options)) == enough
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert not runs_without_ray(load_config(**options))


def command(tmp_path: Path, server: WebServer, n: int, *more: str) -> list[str]:
    lines = ["post_id,image_url,likes,followers", *(f"p{i},{server.url(f'/{i}.jpg')},1,2" for i in range(n))]
    (tmp_path / "posts.csv").write_text("\n".join(lines))
    words = ["ingest", "--posts", str(tmp_path / "posts.csv"), "--root", str(tmp_path / "root")]
    return [*words, "--ingest.allow_private", "--ingest.allow_ports", str(server.port), *more]


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children()
    return [child for child in found if "raypipe.processes.child" in child.cmdline()]


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="a busy child ends with its parent on Linux only")
def test_run_survives_killed_command_and_killed_child(tmp_path: Path, server: WebServer) -> None:
    n, server.delay = 96, 0.05
    words = command(tmp_path, server, n, "--ingest.per_host", "4", "--faces.workers", "2", "--ingest.block_rows", "8")

    def begin() -> subprocess.Popen[str]:
        pipe, environment = subprocess.PIPE, {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        return start([sys.executable, "-m", "raypipe", *words], stdout=pipe, stderr=pipe, text=True, env=environment)

    def staged() -> set[str]:
        files = (tmp_path / "root" / "images" / "_staging").rglob("part-*.parquet")
        return {name for file in files for name in pd.read_parquet(file, columns=["post_id"])["post_id"]}

    def until_at_work(process: subprocess.Popen[str], before: int) -> list[psutil.Process]:
        while len(staged()) == before or len(children(process)) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return children(process)

    for number in (signal.SIGINT, signal.SIGKILL):
        before = len(staged())
        process = begin()
        working = until_at_work(process, before)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
        if number == signal.SIGINT:
            assert error == "raypipe ingest: interrupted; run the same command again to continue\n"
            assert process.returncode == 130
        psutil.wait_procs(working, timeout=60)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in working)
    done = staged()
    assert 0 < len(done) < n
    before_last = dict(server.requests)
    process = begin()
    victim = until_at_work(process, len(done))[0]
    victim.send_signal(signal.SIGKILL)
    assert process.wait(120) == 0, process.communicate()
    images = tables.read_table(Storage(str(tmp_path / "root")), "images")
    assert sorted(images["post_id"].to_pylist()) == sorted(f"p{i}" for i in range(n))
    assert set(images["status"].to_pylist()) == {"ok"}
    assert images["n_faces"].null_count == 0
    assert not (tmp_path / "root" / "images" / "_staging").exists()
    # Staged pictures were not requested again.
    assert all(server.requests[f"/{name[1:]}.jpg"] == before_last[f"/{name[1:]}.jpg"] for name in done)


@pytest.mark.parametrize("faces", ["true", "false"])
def test_command_does_not_import_ray(tmp_path: Path, server: WebServer, faces: str) -> None:
    words = command(tmp_path, server, 20, "--faces.enabled", faces)
    program = (
        "import sys\n"
        "from raypipe.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print({'ray', 'torch'} & set(sys.modules))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    assert "20 fetched" in done.stdout
