"""Answers of the server over real sockets: each misbehaviour, on request and by a picture's assigned behaviour."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web

from raypipe import tables
from raypipe.storage import Storage
from raypipe.world.application import application
from raypipe.world.behaviour import BEHAVIOURS, ON_DEMAND
from raypipe.world.posts import GeneratedPosts
from tests.world.conftest import write_world

T = TypeVar("T")
Ask = Callable[[aiohttp.ClientSession], Awaitable[T]]


def with_server(storage: Storage, port: int, ask: Ask[T]) -> T:
    """Run `ask` against the application on a real port and return its result."""

    async def go() -> T:
        runner = web.AppRunner(application(storage), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                return await ask(session)
        finally:
            await runner.cleanup()

    return asyncio.run(go())


@pytest.fixture
def picture(world_storage: Storage) -> tuple[str, bytes]:
    """Name and bytes of one picture of the shared world."""
    row = tables.read_table(world_storage, "pictures").slice(5, 1).to_pylist()[0]
    return row["post_id"], row["image"]


async def get(session: aiohttp.ClientSession, path: str, **options: bool) -> tuple[int, bytes, str]:
    async with session.get(path, **options) as answer:  # type: ignore[arg-type]
        return answer.status, await answer.read(), answer.headers.get("Content-Type", "")


@pytest.mark.parametrize(("kind", "status"), [("403", 403), ("404", 404), ("410", 410)])
def test_misbehaving_paths_answer_with_their_status(
    world_storage: Storage, free_port: int, picture: tuple[str, bytes], kind: str, status: int
) -> None:
    found = with_server(world_storage, free_port, lambda s: get(s, f"/misbehave/{kind}/{picture[0]}.jpg"))
    assert found[0] == status


def test_429_sends_retry_after_then_picture(world_storage: Storage, free_port: int, picture: tuple[str, bytes]) -> None:
    async def ask(session: aiohttp.ClientSession) -> list[tuple[int, str | None]]:
        seen = []
        for _ in range(4):
            async with session.get(f"/misbehave/429/{picture[0]}.jpg?times=2&retry_after=3") as answer:
                seen.append((answer.status, answer.headers.get("Retry-After")))
                last = await answer.read()
            if answer.status == 200:
                assert last == picture[1]
        return seen

    assert with_server(world_storage, free_port, ask) == [(429, "3"), (429, "3"), (200, None), (429, "3")]


def test_500_is_sent_every_other_time(world_storage: Storage, free_port: int, picture: tuple[str, bytes]) -> None:
    async def ask(session: aiohttp.ClientSession) -> list[int]:
        return [(await get(session, f"/misbehave/500/{picture[0]}.jpg"))[0] for _ in range(4)]

    assert with_server(world_storage, free_port, ask) == [500, 200, 500, 200]


def test_slow_answer_is_delayed_and_complete(
    world_storage: Storage, free_port: int, picture: tuple[str, bytes]
) -> None:
    async def ask(session: aiohttp.ClientSession) -> tuple[bytes, float, float]:
        started = time.monotonic()
        async with session.get(f"/misbehave/slow/{picture[0]}.jpg?seconds=0.6") as answer:
            headers_after = time.monotonic() - started
            return await answer.read(), headers_after, time.monotonic() - started

    body, headers_after, took = with_server(world_storage, free_port, ask)
    assert body == picture[1]
    assert headers_after < took
    assert took >= 0.5


def test_truncated_answer_is_shorter_than_content_length(
    world_storage: Storage, free_port: int, picture: tuple[str, bytes]
) -> None:
    async def ask(session: aiohttp.ClientSession) -> tuple[str, bytes]:
        body = bytearray()

        async def receive(answer: aiohttp.ClientResponse) -> None:
            async for piece in answer.content.iter_any():
                body.extend(piece)

        async with session.get(f"/misbehave/truncated/{picture[0]}.jpg") as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await receive(answer)
            return answer.headers["Content-Length"], bytes(body)

    promised, body = with_server(world_storage, free_port, ask)
    assert int(promised) == len(picture[1])
    assert picture[1].startswith(body)
    assert len(body) < len(picture[1])


def test_reset_closes_connection_without_answer(
    world_storage: Storage, free_port: int, picture: tuple[str, bytes]
) -> None:
    async def ask(session: aiohttp.ClientSession) -> None:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await get(session, f"/misbehave/reset/{picture[0]}.jpg")

    with_server(world_storage, free_port, ask)


def test_corrupt_bodies_are_served_with_200(world_storage: Storage, free_port: int, picture: tuple[str, bytes]) -> None:
    async def ask(session: aiohttp.ClientSession) -> list[tuple[int, bytes, str]]:
        kinds = ("half", "wrong_type", "disguised")
        return [await get(session, f"/misbehave/{kind}/{picture[0]}.jpg") for kind in kinds]

    half, wrong, disguised = with_server(world_storage, free_port, ask)
    assert half == (200, picture[1][: len(picture[1]) // 2], "image/jpeg")
    assert wrong[0] == disguised[0] == 200
    assert wrong[1] == disguised[1]
    assert b"<!doctype html>" in wrong[1]
    assert (wrong[2].split(";")[0], disguised[2]) == ("text/html", "image/jpeg")


def test_redirect_reaches_picture_and_loop_never_ends(
    world_storage: Storage, free_port: int, picture: tuple[str, bytes]
) -> None:
    async def ask(session: aiohttp.ClientSession) -> None:
        path = f"/misbehave/redirect/{picture[0]}.jpg"
        assert (await get(session, path, allow_redirects=False))[0] == 302
        assert (await get(session, path))[1] == picture[1]
        with pytest.raises(aiohttp.TooManyRedirects):
            await get(session, f"/misbehave/redirect_loop/{picture[0]}.jpg")

    with_server(world_storage, free_port, ask)


def test_unknown_requests_get_clear_errors(world_storage: Storage, free_port: int, picture: tuple[str, bytes]) -> None:
    async def ask(session: aiohttp.ClientSession) -> None:
        status, body, _ = await get(session, f"/misbehave/dance/{picture[0]}.jpg")
        assert status == 400
        assert all(kind.encode() in body for kind in {**BEHAVIOURS, **ON_DEMAND})
        assert (await get(session, f"/misbehave/429/{picture[0]}.jpg?times=x"))[0] == 400
        assert (await get(session, "/p/nobody.jpg"))[0] == 404

    with_server(world_storage, free_port, ask)


def test_deleted_posts_have_no_picture(world_storage: Storage, world_posts: GeneratedPosts, free_port: int) -> None:
    deleted = world_posts.post_ids[world_posts.deleted].tolist()
    assert deleted

    async def ask(session: aiohttp.ClientSession) -> set[int]:
        return {(await get(session, f"/p/{name}.jpg"))[0] for name in deleted}

    assert with_server(world_storage, free_port, ask) == {404}


def test_served_behaviour_matches_truth(tmp_path: Path, free_port: int) -> None:
    storage = write_world(tmp_path, 30, misbehave=1.0).open_storage()
    truth = tables.read_table(storage, "truth").to_pylist()
    kinds = {row["post_id"]: row["behaviour"] for row in truth if row["behaviour"]}
    first = {"404": 404, "410": 410, "429": 429, "500": 500, "redirect": 302, "redirect_loop": 302}

    async def ask(session: aiohttp.ClientSession) -> dict[str, int]:
        seen = {}
        for name in kinds:
            async with session.get(f"/p/{name}.jpg", allow_redirects=False) as answer:
                seen[name] = answer.status
        return seen

    seen = with_server(storage, free_port, ask)
    assert seen == {name: first.get(kind, 200) for name, kind in kinds.items()}
    assert len(set(kinds.values())) > 5


def test_stats_count_requests_at_a_time(world_storage: Storage, free_port: int, picture: tuple[str, bytes]) -> None:
    async def ask(session: aiohttp.ClientSession) -> dict[str, object]:
        slow = [get(session, f"/misbehave/slow/{picture[0]}.jpg?seconds=0.3") for _ in range(5)]
        await asyncio.gather(*slow, get(session, "/p/nobody.jpg"))
        async with session.get("/stats") as answer:
            found: dict[str, object] = await answer.json()
            return found

    stats = with_server(world_storage, free_port, ask)
    assert stats["requests"] == 6
    assert stats["in_flight_most"] in (5, 6)
    assert stats["behaviours"] == {"slow": 5, "normal": 1}
    assert stats["statuses"] == {"200": 5, "404": 1}
    assert stats["asked_most"] == 5
