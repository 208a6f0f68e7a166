"""The feed follows Mastodon's API: the shape of real answers, paging to the end, and rate limit headers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from raypipe.storage import Storage
from raypipe.world.hashtag_feed import HashtagFeed
from raypipe.world.posts import GeneratedPosts


class Server:
    """The feed without pictures, on a real port."""

    def __init__(self, storage: Storage, port: int, rate_limit: int = 300, rate_window: float = 300.0) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self._port = port
        app = web.Application()
        HashtagFeed(storage, rate_limit, rate_window).add_routes(app.router)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Server:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def get(self, path: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        async with self._session.get(path if path.startswith("http") else self.base + path) as answer:
            return answer.status, await answer.json(), answer


def test_paging_returns_each_post_once_newest_first(
    world_storage: Storage, world_posts: GeneratedPosts, free_port: int
) -> None:
    async def go() -> list[str]:
        found, path = [], "/api/v1/timelines/tag/Selfie?limit=7"
        async with Server(world_storage, free_port) as server:
            while path:
                status, page, answer = await server.get(path)
                assert status == 200
                assert len(page) <= 7
                found += [item["id"] for item in page]
                path = str(answer.links["next"]["url"]) if "next" in answer.links else ""
        return found

    assert asyncio.run(go()) == list(map(str, sorted(world_posts.post_ids.tolist(), reverse=True)))


def test_timeline_of_tag_has_only_its_posts(
    world_storage: Storage, world_posts: GeneratedPosts, free_port: int
) -> None:
    captions = world_posts.captions.texts(0, len(world_posts.post_ids))
    expected = {str(n) for n, text in zip(world_posts.post_ids, captions, strict=True) if "#love" in text.split()}
    assert 0 < len(expected) < len(captions)

    async def go() -> tuple[list[Any], list[Any]]:
        async with Server(world_storage, free_port) as server:
            love = (await server.get("/api/v1/timelines/tag/love?limit=40"))[1]
            return love, (await server.get("/api/v1/timelines/tag/lov?limit=40"))[1]

    love, prefix = asyncio.run(go())
    assert {item["id"] for item in love} == expected
    assert all("love" in {tag["name"] for tag in item["tags"]} for item in love)
    assert prefix == []


def test_single_status_is_as_at_revisit(world_storage: Storage, world_posts: GeneratedPosts, free_port: int) -> None:
    async def go() -> dict[str, tuple[int, Any, Any]]:
        found = {}
        async with Server(world_storage, free_port) as server:
            timeline = {item["id"]: item for item in (await server.get("/api/v1/timelines/tag/selfie?limit=40"))[1]}
            for name in map(str, world_posts.post_ids.tolist()):
                status, body, _ = await server.get(f"/api/v1/statuses/{name}")
                found[name] = status, body, timeline[name]
            assert (await server.get("/api/v1/statuses/1"))[0] == 404
        return found

    found = asyncio.run(go())
    for row, (status, body, fresh) in enumerate(found.values()):
        assert fresh["favourites_count"] == fresh["replies_count"] == 0
        if world_posts.deleted[row]:
            assert status == 404
            continue
        assert status == 200
        assert body["favourites_count"] == world_posts.likes[row]
        assert body["replies_count"] == world_posts.comments[row]
        assert body["account"]["followers_count"] == world_posts.followers[row]
        assert len(body["tags"]) == world_posts.n_hashtags[row]


def test_rate_limit_is_announced_and_enforced(world_storage: Storage, free_port: int) -> None:
    async def go() -> list[tuple[int, str, float]]:
        seen = []
        async with Server(world_storage, free_port, rate_limit=2, rate_window=0.5) as server:
            for step in range(4):
                if step == 3:
                    await asyncio.sleep(0.6)
                status, _, answer = await server.get("/api/v1/statuses/1")
                until = datetime.fromisoformat(answer.headers["X-RateLimit-Reset"]) - datetime.now(UTC)
                seen.append((status, answer.headers["X-RateLimit-Remaining"], until.total_seconds()))
        return seen

    seen = asyncio.run(go())
    assert [(status, left) for status, left, _ in seen] == [(404, "1"), (404, "0"), (429, "0"), (404, "1")]
    assert all(0 <= seconds <= 0.5 for _, _, seconds in seen)


def test_invalid_limits_raise_error(world_storage: Storage, free_port: int) -> None:
    async def go() -> tuple[int, Any]:
        async with Server(world_storage, free_port) as server:
            status, body, _ = await server.get("/api/v1/timelines/tag/selfie?limit=many")
            return status, body

    assert asyncio.run(go()) == (400, {"error": "limit is not a number"})


def test_answers_have_shape_of_real_server(shared_data: Path, world_storage: Storage, free_port: int) -> None:
    real = json.loads((shared_data / "mastodon" / "hashtag_timeline.json").read_text())

    async def go() -> tuple[Any, aiohttp.ClientResponse]:
        async with Server(world_storage, free_port) as server:
            _, page, answer = await server.get("/api/v1/timelines/tag/selfie?limit=5")
            return page, answer

    page, answer = asyncio.run(go())
    theirs = next(item for item in real["body"] if item["media_attachments"])
    for ours in page:
        assert_subset(ours, theirs)
    assert {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Link"} <= set(answer.headers)
    assert {name.lower() for name in real["headers"]} <= {name.lower() for name in answer.headers}
    with pytest.raises(AssertionError):
        assert_subset({"id": 5}, theirs)


def assert_subset(ours: Any, theirs: Any) -> None:
    """Check that each name and type of `ours` is in `theirs`. null matches any type."""
    if ours is None or theirs is None:
        return
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, dict):
        assert set(ours) <= set(theirs)
        for name, value in ours.items():
            assert_subset(value, theirs[name])
    if isinstance(ours, list) and ours and theirs:
        assert_subset(ours[0], theirs[0])
