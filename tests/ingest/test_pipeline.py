"""The stage on Ray, from a posts file to images/, with a misbehaving server."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import raypipe
from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import StageError
from raypipe.ingest.examine_fetched import picture_examiner
from raypipe.ingest.fetching.fetch import Fetcher
from raypipe.ingest.image_rows import deleted_result, fetched_table, images_table
from raypipe.ingest.pipeline import run
from raypipe.ingest.posts import ingest_posts
from raypipe.world.draw import draw_picture, encode_jpeg
from tests.ingest.conftest import WebServer, body, break_off, drip, endless, picture, redirect, reset, status

pytestmark = pytest.mark.usefixtures("ray_session")


def configure(tmp_path: Path, server: WebServer, rows: list[dict[str, Any]], **sections: Any) -> Config:
    """Options for a posts file of `rows`. Each row's `path` is on the server."""
    frame = pd.DataFrame(rows)
    frame["image_url"] = [server.url(path) if path.startswith("/") else path for path in frame.pop("path")]
    for name in ("likes", "followers"):
        frame[name] = range(len(frame))
    frame.to_csv(tmp_path / "posts.csv", index=False)
    ingest = {"allow_private": True, "allow_ports": [server.port], "attempts": 2, "deadline": 3, "max_bytes": 200_000}
    return load_config(
        root=str(tmp_path / "root"),
        posts=str(tmp_path / "posts.csv"),
        ray={"dashboard": False, "num_cpus": 2},
        ingest={**ingest, **sections.pop("ingest", {})},
        **{"faces": {"enabled": False}, **sections},
    )


def plain_rows(n: int) -> list[dict[str, Any]]:
    return [{"post_id": f"p{i:03d}", "path": f"/{i}.jpg"} for i in range(n)]


def test_every_post_gets_its_row_and_its_status(
    tmp_path: Path, server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    drawn = {n: encode_jpeg(draw_picture(rng, n_faces=n, look=0.0), rng) for n in (0, 1, 2)}
    png = picture("PNG")
    answers = {
        "none": (body(drawn[0]), "ok"),
        "one": (body(drawn[1]), "ok"),
        "two": (body(drawn[2]), "ok"),
        "png": (body(png, "image/png"), "ok"),
        "limited": (status(429, times=1, data=drawn[1], Retry_After="0.2"), "ok"),
        "failing": (status(500, times=1, data=drawn[1]), "ok"),
        "moved": (redirect("/one"), "ok"),
        "slow": (drip(drawn[1], 0.005), "ok"),
        "missing": (status(404), "gone"),
        "gone": (status(410), "gone"),
        "secret": (status(403), "forbidden"),
        "busy": (status(429, Retry_After="0"), "rate_limited"),
        "broken": (status(500), "server_error"),
        "dripping": (drip(drawn[1], 0.5), "timeout"),
        "reset": (reset(), "connection"),
        "cut": (break_off(drawn[1], 2000), "truncated"),
        "half": (body(drawn[1][: len(drawn[1]) // 2]), "truncated"),
        "page": (body(b"<!doctype html>", "image/jpeg"), "not_an_image"),
        "endless": (endless(b"x" * 5000), "too_large"),
        "poster": (body(picture("JPEG", (2000, 2000), quality=30)), "too_many_pixels"),
        "loop": (redirect("/loop"), "redirects"),
        "inside": (redirect("http://169.254.169.254/"), "blocked"),
    }
    for name, (answer, _) in answers.items():
        server.behave(f"/{name}", answer)
    rows = [{"post_id": name, "path": f"/{name}", "deleted": False} for name in answers]
    rows += [
        {"post_id": "deleted", "path": "/deleted", "deleted": True},
        {"post_id": "ftp", "path": "ftp://127.0.0.1/x.jpg", "deleted": False},
        {"post_id": "nonsense", "path": "no url", "deleted": False},
    ]
    expected = {name: how for name, (_, how) in answers.items()}
    expected |= {"deleted": "deleted", "ftp": "blocked", "nonsense": "invalid_url"}
    config = configure(
        tmp_path,
        server,
        rows,
        faces={"enabled": True},
        ingest={"max_pixels": 3_000_000, "max_bytes": 400_000, "deadline": 2},
    )

    record = run(config)

    images = {row["post_id"]: row for row in tables.read_table(config.open_storage(), "images").to_pylist()}
    assert {name: row["status"] for name, row in images.items()} == expected
    assert (record.rows_in, record.rows_out, record.dropped) == (len(rows), len(rows), {})
    assert {name: row["n_faces"] for name, row in images.items() if row["status"] == "ok"} == {
        "none": 0, "one": 1, "two": 2, "png": 0, "limited": 1, "failing": 1, "moved": 1, "slow": 1
    }  # fmt: skip
    assert all((row["error"] is None) == (row["status"] in ("ok", "deleted")) for row in images.values())
    assert all((row["image"] is None) == (row["status"] != "ok") for row in images.values())
    one = images["one"]
    assert one["image"] == drawn[1]
    assert one["sha256"] == hashlib.sha256(drawn[1]).hexdigest() == images["moved"]["sha256"]
    assert one["phash"] == images["limited"]["phash"]
    assert (one["n_bytes"], one["format"], one["host"], one["attempts"]) == (len(drawn[1]), "JPEG", "127.0.0.1", 1)
    assert images["limited"]["attempts"] == images["failing"]["attempts"] == 2
    assert images["png"]["image"] == png
    assert server.requests["/deleted"] == 0
    assert record.facts["funnel"] == {"posts": 25, "present": 24, "fetched": 8, "with_face": 6, "one_face": 5}
    assert record.facts["statuses"]["ok"] == 8
    said = capsys.readouterr().out
    assert "25 posts, 24 present at the revisit (1 deleted), 8 fetched, 6 with a face, 5 with exactly one" in said
    assert "1 forbidden: HTTP 403" in said


def test_n_faces_is_null_without_face_detection(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(5))
    record = run(config)
    images = tables.read_table(config.open_storage(), "images")
    assert images["status"].to_pylist() == ["ok"] * 5
    assert images["n_faces"].null_count == images["faces"].null_count == 5
    # No picture was decoded.
    assert images["phash"].null_count == 5
    assert record.facts["funnel"]["one_face"] is None


def test_rows_are_equal_with_and_without_ray(
    tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    for number in range(4):
        server.behave(f"/{number}.jpg", body(encode_jpeg(draw_picture(rng, n_faces=number % 3, look=0.0), rng)))
    server.behave("/4.jpg", status(404))
    server.behave("/5.jpg", body(picture("WEBP")))
    server.behave("/6.jpg", body(picture()[:300]))
    found = {}
    for place in ("ray", "here"):
        config = configure(tmp_path, server, plain_rows(40), faces={"enabled": True}, ingest={"attempts": 1})
        config = config.model_copy(update={"root": str(tmp_path / place)})
        if place == "here":
            monkeypatch.setattr("raypipe.ingest.local.should_use_ray", lambda _: False)
        record = run(config)
        table = tables.read_table(config.open_storage(), "images").sort_by("post_id").drop_columns("fetched_at")
        marked = tables.read_table(config.open_storage(), "images", folder="_duplicates")
        assert all(record.seconds[step] > 0 for step in ("fetch", "decode", "detect", "write", "wall", "finish"))
        found[place] = (table, marked, record.facts, record.rows_in, record.rows_out)
    assert found["here"] == found["ray"]
    assert found["here"][0]["n_faces"].to_pylist()[:5] == [0, 1, 2, 0, None]


def ids(config: Config) -> list[str]:
    return sorted(tables.read_table(config.open_storage(), "images")["post_id"].to_pylist())


def all_ids(n: int) -> list[str]:
    return [f"p{i:03d}" for i in range(n)]


@pytest.mark.parametrize("faces", [False, True])
def test_fetchers_share_budget_and_fetch_each_picture_once(tmp_path: Path, server: WebServer, faces: bool) -> None:
    ingest = {"fetchers": 3, "per_host": 4, "block_rows": 16}
    config = configure(tmp_path, server, plain_rows(120), ingest=ingest, faces={"enabled": faces})
    server.delay = 0.01
    record = run(config)
    assert ids(config) == all_ids(120)
    assert set(server.requests.values()) == {1}
    assert server.in_flight_most == 4
    # The result is one file, independent of the number of fetchers.
    assert len([file for file in record.files if "/" not in file.path]) == 1
    assert record.seconds["fetch"] > 0
    assert (record.seconds["detect"] > 0) == faces


def test_staged_rows_are_not_fetched_again(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(40))
    storage, posts = config.open_storage(), ingest_posts(config)
    options = config.result_options("ingest", "faces")

    async def some(writer: tables.TableWriter) -> None:
        async with Fetcher(config.ingest) as fetcher:
            fetched = await fetcher.fetch_many([(f"p{i:03d}", server.url(f"/{i}.jpg")) for i in range(5, 12)])
        with picture_examiner(config.ingest, config.faces) as look:
            writer.write("early", images_table(fetched_table(fetched), look))

    def interrupted() -> None:
        with tables.begin(
            storage, "images", command="ingest", config=options, inputs={"posts": posts.run_id}
        ) as attempt:
            asyncio.run(some(attempt.writer))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(server.requests) == 7
    with pytest.raises(StageError, match="is unfinished"):
        tables.get_record(storage, "images")

    record = run(config)
    assert record.rows_out == 40
    assert ids(config) == all_ids(40)
    assert len(server.requests) == 40
    assert set(server.requests.values()) == {1}
    # The facts include the rows of earlier attempts.
    assert record.facts["statuses"] == {"ok": 40}


def test_rows_staged_twice_appear_once(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(20))
    storage, posts = config.open_storage(), ingest_posts(config)
    options = config.result_options("ingest", "faces")
    results = [deleted_result(f"p{i:03d}", server.url(f"/{i}.jpg")) for i in range(12)]
    begin = {"command": "ingest", "config": options, "inputs": {"posts": posts.run_id}}

    def interrupted() -> None:
        with tables.begin(storage, "images", **begin) as attempt, picture_examiner(config.ingest, config.faces) as look:
            for unit, part in (("a", results[:8]), ("b", results[4:])):
                attempt.writer.write(unit, images_table(fetched_table(part), look))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert run(config).rows_out == 20
    assert ids(config) == all_ids(20)


def test_second_run_fetches_nothing_or_refuses_changed_options(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(5))
    first = run(config)
    assert run(config) == first
    # Without --posts, the posts of the root are used.
    assert run(config.model_copy(update={"posts": None})) == first
    assert set(server.requests.values()) == {1}
    for section, option, value in (("ingest", "max_bytes", 5), ("faces", "upsample", 0)):
        changed = getattr(config, section).model_copy(update={option: value})
        with pytest.raises(StageError, match=rf"images: has the result .*{section}\.{option} was"):
            run(config.model_copy(update={section: changed}))
    # Options that only change the speed do not change the result.
    quicker = config.ingest.model_copy(update={"fan_out": 7, "fetchers": 3, "per_host": 2})
    assert run(config.model_copy(update={"ingest": quicker})) == first
    again = run(config.model_copy(update={"overwrite": True}))
    assert again.run_id != first.run_id
    assert set(server.requests.values()) == {2}


def test_fetch_false_only_writes_posts(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(5), ingest={"fetch": False})
    assert run(config).table == "posts"
    assert not server.requests
    assert tables.find_record(config.open_storage(), "images") is None


def test_missing_posts_raise_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"posts: does not exist; run `raypipe ingest --posts FILE"):
        raypipe.ingest(load_config(root=str(tmp_path / "root")))


def test_duplicates_are_marked(tmp_path: Path, server: WebServer) -> None:
    same, other = picture(seed=1), picture(seed=2)
    near = picture(seed=1, quality=60)
    for path, data in (("/0.jpg", same), ("/1.jpg", other), ("/2.jpg", same), ("/3.jpg", near)):
        server.behave(path, body(data))
    config = configure(tmp_path, server, plain_rows(4), ingest={"phash": True})
    record = run(config)
    marked = tables.read_table(config.open_storage(), "images", folder="_duplicates").to_pylist()
    assert [(row["post_id"], row["group"], row["kind"]) for row in marked] == [
        ("p000", "p000", "exact"), ("p002", "p000", "exact"), ("p003", "p000", "near")
    ]  # fmt: skip
    assert record.facts["duplicates"] == {"exact": 2, "near": 1, "groups": 1}
    assert len(pd.read_parquet(tmp_path / "root" / "images")) == 4


def test_unwritable_unit_raises_one_line_error(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(5))
    ingest_posts(config)
    # A file blocks the folder of staged files, so no worker can write there, not even as root.
    blocked = tmp_path / "root" / "images" / "_staging"
    blocked.parent.mkdir()
    blocked.write_text("")
    with pytest.raises(StageError, match=r"images/_staging.*: cannot"):
        run(config)
