"""The stage on Ray: tables, resuming and refusals, and a world of the paper's size without pictures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.compute as pc
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import StageError
from raypipe.progress import Progress
from raypipe.tables import TableWriter
from raypipe.world import pictures, pipeline
from raypipe.world.pictures import DrawingUnit
from tests.commands import start

pytestmark = pytest.mark.usefixtures("ray_session")


def world_config(root: Path, **options: object) -> Config:
    return load_config(root=str(root), seed=1, world=options, ray={"dashboard": False, "num_cpus": 2})


def test_posts_truth_and_pictures_agree(tmp_path: Path) -> None:
    config = world_config(tmp_path, posts=30)
    record = pipeline.run(config)
    storage = config.open_storage()
    posts = tables.read_table(storage, "posts")
    truth = tables.read_table(storage, "truth")
    drawings = tables.read_table(storage, "pictures")
    assert record.table == "posts"
    assert record.rows_out == posts.num_rows == truth.num_rows == 30
    assert posts["post_id"].equals(truth["post_id"])
    kept = posts.filter(pc.invert(posts["deleted"]))
    assert sorted(drawings["post_id"].to_pylist()) == kept["post_id"].to_pylist()
    drawn = tables.get_record(storage, "pictures")
    assert drawn.rows_in == 30
    assert drawn.dropped == {"deleted": 30 - kept.num_rows}
    assert record.facts["funnel"]["one_face"] == pc.sum(pc.equal(truth["n_faces"], 1)).as_py()
    assert not storage.exists("images")
    again = pipeline.run(config)
    assert again == record, "the same command does nothing"


def test_interrupted_run_draws_only_missing_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURES_PER_UNIT", 10)
    config, whole = world_config(tmp_path / "killed", posts=30), world_config(tmp_path / "whole", posts=30)
    pipeline.run(whole)
    draw_on_ray = pipeline._draw_on_ray
    asked: list[list[str]] = []

    def one_unit(writer: TableWriter, waiting: list[DrawingUnit], seed: int, progress: Progress) -> None:
        asked.append([drawing_unit.unit for drawing_unit in waiting])
        draw_on_ray(writer, waiting[:1], seed, progress)
        if len(waiting) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_draw_on_ray", one_unit)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(config)
    pipeline.run(config)
    assert asked == [["000000", "000001", "000002"], ["000001", "000002"], ["000002"]]
    found, expected = (tables.read_table(each.open_storage(), "pictures") for each in (config, whole))
    assert found.equals(expected)


def test_pictures_are_equal_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURES_PER_UNIT", 10)
    on_ray, here = world_config(tmp_path / "ray", posts=25), world_config(tmp_path / "here", posts=25)
    pipeline.run(on_ray)
    monkeypatch.setattr(pipeline, "should_use_ray", lambda _: False)
    monkeypatch.setattr(pipeline, "ray_session", None)
    pipeline.run(here)
    found, expected = (tables.read_table(each.open_storage(), "pictures") for each in (here, on_ray))
    assert found.equals(expected)


def test_world_with_other_options_is_refused(tmp_path: Path) -> None:
    pipeline.run(world_config(tmp_path, posts=30, images=False))
    with pytest.raises(StageError, match=r"world\.posts was 30, is 31"):
        pipeline.run(world_config(tmp_path, posts=31, images=False))


def test_funnel_of_paper_without_pictures(tmp_path: Path) -> None:
    config = world_config(tmp_path, posts=486_149, images=False)
    pipeline.run(config)
    storage = config.open_storage()
    images = tables.read_table(storage, "images", ["status", "n_faces"])
    statuses = {row["values"]: row["counts"] for row in pc.value_counts(images["status"]).to_pylist()}
    assert statuses == {"ok": 429_183, "deleted": 56_966}
    assert pc.sum(pc.greater_equal(images["n_faces"], 1)).as_py() == 232_971
    assert pc.sum(pc.equal(images["n_faces"], 1)).as_py() == 200_545
    posts = tables.read_table(storage, "posts", ["user_id", "comments"], where=~pc.field("deleted"))
    assert pc.count_distinct(posts["user_id"]).as_py() == 311_475
    assert pc.sum(posts["comments"]).as_py() == 1_500_967
    assert not storage.exists("pictures")


def test_taken_port_raises_error_before_any_work(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"world\.port {port}.*another --world\.port"):
            pipeline.run(world_config(tmp_path / "root", posts=10, images=False, serve=True, port=port))
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_with_a_signal(tmp_path: Path, free_port: int, number: signal.Signals) -> None:
    words = ["--root", str(tmp_path), "--world.posts", "10", "--world.images", "false", "--world.serve", "true"]
    command = [sys.executable, "-m", "raypipe", "world", *words, "--world.port", str(free_port)]
    server = start(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert server.stdout is not None
    try:
        said = ""
        while "Serving" not in said:
            said = server.stdout.readline()
            assert said, "ended before it served"
        assert f"http://127.0.0.1:{free_port}" in said
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", free_port)) == 0:
                    break
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/health", timeout=10) as answer:
            assert answer.read() == b"ok\n"
        server.send_signal(number)
        assert server.wait(timeout=20) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
