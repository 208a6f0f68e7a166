"""Collecting from the generated world's feed over loopback: snapshots, then the posts of the revisit."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.collect import mastodon, pipeline, revisit, timeline
from raypipe.collect.client import ApiClient, ApiResponse
from raypipe.collect.snapshots import SNAPSHOTS
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import ConfigError, InputError, StageError
from raypipe.storage import Storage
from raypipe.tables.schemas import POSTS
from raypipe.world.server import running_server


def collecting(root: Path, instance: str, **options: Any) -> Config:
    return load_config(root=str(root), collect={"instance": instance, "requests_per_second": 10_000, **options})


def test_collect_and_revisit_return_all_world_posts(tmp_path: Path, instance: str, feed_world: Config) -> None:
    first = pipeline.run(collecting(tmp_path, instance))
    snapshots = tables.read_table(Storage(str(tmp_path)), "snapshots")
    assert first.table == "snapshots"
    assert first.rows_in == first.rows_out == snapshots.num_rows == 100
    assert snapshots.schema.equals(SNAPSHOTS)
    assert set(snapshots["likes"].to_pylist()) == {0}

    second = pipeline.run(collecting(tmp_path, instance, revisit=True, revisit_days=0))
    posts = tables.read_table(Storage(str(tmp_path)), "posts")
    assert posts.schema.equals(POSTS)
    planted = {row["post_id"]: row for row in tables.read_table(feed_world.open_storage(), "posts").to_pylist()}
    assert second.rows_out == len(planted) == 100
    assert second.facts["deleted"] == sum(row["deleted"] for row in planted.values()) > 0
    for row in posts.to_pylist():
        true = planted[row["post_id"]]
        assert row["deleted"] == true["deleted"]
        assert row["image_url"] == f"{instance}/p/{row['post_id']}.jpg"
        for name in ("user_id", "followers", "n_hashtags", "created_at", "caption"):
            assert row[name] == true[name], name
        expected = (0, 0) if true["deleted"] else (true["likes"], true["comments"])
        assert (row["likes"], row["comments"]) == expected
        assert row["revisited_at"] >= row["collected_at"]


def test_collect_takes_newest_posts_up_to_limit(tmp_path: Path, instance: str, feed_world: Config) -> None:
    record = pipeline.run(collecting(tmp_path, instance, posts=45, hashtag="#Selfie"))
    names = tables.read_table(Storage(str(tmp_path)), "snapshots")["post_id"].to_pylist()
    everyone = tables.read_table(feed_world.open_storage(), "posts")["post_id"].to_pylist()
    assert names == sorted(everyone, reverse=True)[:45]
    assert record.rows_in == 80
    assert record.dropped == {"enough": 35}
    assert pipeline.run(collecting(tmp_path, instance, posts=45, hashtag="selfie")) == record


def test_interrupted_collection_resumes_after_last_page(
    tmp_path: Path, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str | None] = []
    get = ApiClient.get

    async def twice_at_most(self: ApiClient, path: str, query: dict[str, str]) -> ApiResponse:
        if len(pages) == 2:
            raise KeyboardInterrupt
        pages.append(query.get("max_id"))
        return await get(self, path, query)

    with monkeypatch.context() as patch:
        patch.setattr(ApiClient, "get", twice_at_most)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(collecting(tmp_path, instance))
    rest: list[str | None] = []

    async def remember(self: ApiClient, path: str, query: dict[str, str]) -> ApiResponse:
        rest.append(query.get("max_id"))
        return await get(self, path, query)

    monkeypatch.setattr(ApiClient, "get", remember)
    record = pipeline.run(collecting(tmp_path, instance))
    assert pages[0] is None
    assert rest[0] is not None
    assert rest[0] not in pages
    assert record.rows_out == record.rows_in == 100


def test_early_revisit_error_gives_due_time(tmp_path: Path, instance: str) -> None:
    pipeline.run(collecting(tmp_path, instance, posts=3))
    due = tables.read_table(Storage(str(tmp_path)), "snapshots")["collected_at"][0].as_py() + timedelta(days=7)
    with pytest.raises(StageError, match=rf"0 of 3 posts revisited.*{due:%Y-%m-%d %H:%M}.*--collect.wait true"):
        pipeline.run(collecting(tmp_path, instance, revisit=True))
    assert not (tmp_path / "posts").exists()


def run_of(storage: Storage) -> tables.TableRun:
    return tables.begin(storage, "posts", command="collect", config={}, inputs={})


def snapshots_of(feed_world: Config, ages: list[timedelta]) -> pa.Table:
    """Some of the world's posts, collected `ages` ago."""
    rows = tables.read_table(feed_world.open_storage(), "posts", SNAPSHOTS.names).to_pylist()
    now = datetime.now(UTC)
    aged = [{**row, "collected_at": now - age} for row, age in zip(rows, ages, strict=False)]
    return pa.Table.from_pylist(aged, schema=SNAPSHOTS)


async def revisit_now(base: str, run: tables.TableRun, snapshots: pa.Table, **options: Any) -> Any:
    async with ApiClient(base, 10_000) as client:
        return await revisit.revisit(client, mastodon, run, snapshots, 7.0, **options)


def test_due_revisits_are_kept_for_next_run(tmp_path: Path, instance: str, feed_world: Config) -> None:
    week, storage = timedelta(days=7), Storage(str(tmp_path))
    some_due = snapshots_of(feed_world, [week + timedelta(minutes=1)] * 45 + [week - timedelta(hours=1)] * 10)
    with pytest.raises(StageError, match="40 of 55 posts revisited"), run_of(storage) as run:
        asyncio.run(revisit_now(instance, run, some_due, wait=False))
    again = run_of(storage)
    assert again.resumed
    assert again.writer.units_done() == {"000000"}


def test_each_post_is_revisited_when_due(tmp_path: Path, instance: str, feed_world: Config) -> None:
    week = timedelta(days=7)
    ages = [week - timedelta(seconds=1.2), week - timedelta(seconds=0.6), week]
    snapshots = snapshots_of(feed_world, ages)
    with run_of(Storage(str(tmp_path))) as run:
        asyncio.run(revisit_now(instance, run, snapshots, wait=True))
    posts = tables.read_table(Storage(str(tmp_path)), "posts")
    assert posts.num_rows == 3
    for row in posts.to_pylist():
        assert row["revisited_at"] - row["collected_at"] >= week


def test_small_rate_limit_is_never_exceeded(tmp_path: Path, feed_world: Config, free_port: int) -> None:
    with running_server(feed_world.open_storage(), free_port, rate_limit=8, rate_window=0.4) as base:
        pipeline.run(collecting(tmp_path, base, posts=20))
        pipeline.run(collecting(tmp_path, base, posts=20, revisit=True, revisit_days=0))
        with urllib.request.urlopen(f"{base}/stats", timeout=10) as answer:
            stats = json.load(answer)
    assert stats["requests"] == 21
    assert set(stats["statuses"]) <= {"200", "404"}, "the client was told to stop"


def test_hashtag_without_pictures_raises_one_line_error(tmp_path: Path, instance: str) -> None:
    with pytest.raises(InputError, match="nobodyusesthis: has no post with a picture"):
        pipeline.run(collecting(tmp_path / "root", instance, hashtag="nobodyusesthis"))
    assert not (tmp_path / "root" / "snapshots").exists()


@pytest.mark.parametrize("wrong", ["mastodon.social", "ftp://x.org", "http://", ""])
def test_instance_must_be_a_url(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"collect\.instance: .*is not the URL"):
        pipeline.run(collecting(tmp_path, wrong))


@pytest.mark.parametrize("wrong", ["", "#", "two words", "a/b", "../x"])
def test_hashtag_must_be_one_word(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"collect\.hashtag"):
        pipeline.run(collecting(tmp_path, "http://127.0.0.1:1", hashtag=wrong))


def test_revisit_needs_snapshots_of_same_instance(tmp_path: Path, instance: str) -> None:
    with pytest.raises(StageError, match="run `raypipe collect"):
        pipeline.run(collecting(tmp_path, instance, revisit=True))
    pipeline.run(collecting(tmp_path, instance, posts=2))
    with pytest.raises(ConfigError, match="the snapshots are from"):
        pipeline.run(collecting(tmp_path, "https://other.example", revisit=True))


class Looping(ApiClient):
    """A client whose every page links to itself."""

    async def get(self, path: str, query: Any = None) -> ApiResponse:  # noqa: ARG002
        return ApiResponse([{"no": "status"}], "5")


def test_page_linking_to_itself_raises_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match="the page before 5 links to itself"),
        tables.begin(Storage(str(tmp_path)), "snapshots", command="collect", config={}, inputs={}) as run,
    ):
        asyncio.run(timeline.collect(Looping("http://127.0.0.1:1", 1), mastodon, "selfie", run, 10))
