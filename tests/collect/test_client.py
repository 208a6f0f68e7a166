"""The client's pace, Retry-After, rate limit windows, retries, and errors of servers that refuse."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from raypipe.collect.client import ApiClient, ApiResponse, pause_after
from raypipe.errors import StageError
from raypipe.ingest.fetching.guard import AddressGuard
from tests.ingest.asking import LoopbackSocket

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """A clock whose sleeps take no time and are recorded."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def ask(
    port: int,
    answers: list[Callable[[], web.Response]],
    requests: int = 1,
    per_second: float = 1000.0,
    guard: AddressGuard | None = None,
) -> tuple[list[ApiResponse], list[web.Request], list[float]]:
    """Return what a client gets from a real server that sends `answers` in turn, the requests, and the sleeps."""
    seen: list[web.Request] = []
    clock = Clock()

    async def handle(request: web.Request) -> web.Response:
        seen.append(request)
        return answers[min(len(seen), len(answers)) - 1]()

    async def go() -> list[ApiResponse]:
        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            base = f"http://127.0.0.1:{port}/"
            client = ApiClient(base, per_second, "me@example.org", sleep=clock.sleep, guard=guard)
            async with client:
                return [await client.get("/api/x", {"limit": "2"}) for _ in range(requests)]
        finally:
            await runner.cleanup()

    return asyncio.run(go()), seen, clock.slept


def ok(**headers: str) -> Callable[[], web.Response]:
    return lambda: web.json_response([1], headers=headers)


def error(status: int, body: Any = None, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=status, text=json.dumps(body), headers=headers)


def test_requests_are_paced_and_carry_user_agent(free_port: int) -> None:
    answers, seen, slept = ask(free_port, [ok()], requests=3, per_second=0.5)
    assert [answer.body for answer in answers] == [[1]] * 3
    assert len(slept) == 2
    assert all(0 < seconds <= 2 for seconds in slept)
    assert re.fullmatch(r"raypipe/\S+ \(\+me@example\.org\)", seen[0].headers["User-Agent"])
    assert str(seen[0].rel_url) == "/api/x?limit=2"


def test_429_waits_for_retry_after(free_port: int) -> None:
    answers, seen, slept = ask(free_port, [error(429, **{"Retry-After": "33"}), ok()])
    assert answers[0].body == [1]
    assert len(seen) == 2
    assert [round(seconds) for seconds in slept] == [33]


def test_client_waits_until_rate_limit_resets(free_port: int) -> None:
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2999-01-01T00:00:00.000000Z"}
    _, seen, slept = ask(free_port, [ok(**spent), ok()], requests=2)
    assert len(seen) == 2
    assert len(slept) == 1
    assert slept[0] > 1e9


def test_server_errors_are_retried_with_growing_waits(free_port: int) -> None:
    answers, seen, slept = ask(free_port, [error(503), error(500), error(502), ok()])
    assert answers[0].body == [1]
    assert len(seen) == 4
    assert all(0.4 * wait < seconds <= 1.5 * wait for seconds, wait in zip(slept, (1, 2, 4), strict=True))


def test_five_failures_raise_one_line_error(free_port: int) -> None:
    with pytest.raises(StageError, match=r"/api/x: HTTP 500 \(down\), 5 times; run the same command later"):
        ask(free_port, [error(500, {"error": "down"})])


@pytest.mark.parametrize("status", [404, 410])
def test_missing_status_gives_empty_answer(free_port: int, status: int) -> None:
    answers, seen, _ = ask(free_port, [error(status, {"error": "Record not found"})])
    assert answers == [ApiResponse(None, None)]
    assert len(seen) == 1


def test_refused_requests_are_not_retried(free_port: int) -> None:
    with pytest.raises(StageError, match=r"HTTP 401 \(This method requires an authenticated user\)"):
        ask(free_port, [error(401, {"error": "This method requires an authenticated user"})])


def test_html_answer_raises_error(free_port: int) -> None:
    with pytest.raises(StageError, match="the answer is not JSON"):
        ask(free_port, [lambda: web.Response(text="<html>", content_type="text/html")])


@pytest.mark.parametrize("body", ["[" * 100_000, "", "\x00", "9" * 5_000])
def test_invalid_json_raises_one_line_error(free_port: int, body: str) -> None:
    with pytest.raises(StageError, match="the answer is not JSON"):
        ask(free_port, [lambda: web.Response(text=body, content_type="application/json")])
    with pytest.raises(StageError, match="HTTP 403; check"):
        ask(free_port, [lambda: web.Response(status=403, text=body)])


def test_too_long_answer_raises_error(free_port: int) -> None:
    with pytest.raises(StageError, match="larger than 8,000,000 bytes"):
        ask(free_port, [lambda: web.Response(body=b" " * 8_100_000)])


@pytest.mark.parametrize("link", ["<http://[::1/x?max_id=5>; rel=next", "<http://a:b/?max_id=5>; rel=next", "<", ";;,"])
def test_malformed_link_header_ends_the_timeline(free_port: int, link: str) -> None:
    answers, _, _ = ask(free_port, [ok(Link=link)])
    assert (answers[0].body, answers[0].next_id) == ([1], None)


def test_link_header_only_gives_next_id(free_port: int) -> None:
    elsewhere = '<http://elsewhere.example/api?max_id=77>; rel="next", </api?min_id=5>; rel="prev"'
    answers, _, _ = ask(free_port, [ok(Link=elsewhere)])
    assert answers[0].next_id == "77"


@pytest.mark.parametrize("inside", ["169.254.169.254", "168.63.129.16", "[fd00:ec2::254]"])
def test_redirect_to_cloud_metadata_is_not_followed(free_port: int, inside: str) -> None:
    dialled: type[LoopbackSocket] = type("Dialled", (LoopbackSocket,), {"asked": []})
    elsewhere = error(302, Location=f"http://{inside}/latest/meta-data/")
    with pytest.raises(StageError, match=r"/api/x: has or redirects to a refused address: .*"):
        ask(free_port, [elsewhere], guard=AddressGuard(allow_private=True, make_socket=dialled))
    assert dialled.asked == ["127.0.0.1"]


def test_unreachable_server_raises_one_line_error(free_port: int) -> None:
    async def go() -> None:
        clock = Clock()
        async with ApiClient(f"http://127.0.0.1:{free_port}", 1000, sleep=clock.sleep) as client:
            await client.get("/api/x")

    with pytest.raises(StageError, match=rf"127\.0\.0\.1:{free_port}.*5 times"):
        asyncio.run(go())


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (200, {}, 0),
        (200, {"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "2026-01-02T03:05:05Z"}, 0),
        (200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2026-01-02T03:05:05.000Z"}, 60),
        (200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"}, 0),
        (404, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2026-01-02T03:04:15Z"}, 10),
        (429, {"Retry-After": "7", "X-RateLimit-Reset": "2026-01-02T03:05:05Z"}, 7),
        (429, {"Retry-After": "Fri, 02 Jan 2026 03:04:25 GMT"}, 20),
        (429, {"X-RateLimit-Reset": "2026-01-02T03:05:05Z"}, 60),
        (429, {"X-RateLimit-Reset": "2026-01-02T03:00:00Z"}, 0),
        (503, {"Retry-After": "5"}, 5),
    ],
)
def test_pause_length_follows_status_and_headers(status: int, headers: dict[str, str], seconds: float) -> None:
    assert pause_after(status, headers, NOW, attempt=3) == seconds


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "whenever"}), (500, {})])
def test_pause_doubles_if_the_server_names_none(status: int, headers: dict[str, str]) -> None:
    for attempt, wait in enumerate((1, 2, 4, 8)):
        assert 0.5 * wait <= pause_after(status, headers, NOW, attempt) <= 1.5 * wait
