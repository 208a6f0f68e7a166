"""How often a fetcher requests from a host: parallel requests, pauses, and budgets shared by several fetchers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from raypipe.config.data_options import IngestOptions
from raypipe.ingest.fetching.budgets import BudgetGrant, BudgetReport, HostBudgets
from raypipe.ingest.fetching.client import FetchResult
from raypipe.ingest.fetching.fetch import Fetcher
from tests.ingest.asking import fetch
from tests.ingest.conftest import WebServer, body, drip, http_date, picture, status

pytestmark = pytest.mark.usefixtures("little_patience")

PICTURE = picture()


@pytest.mark.parametrize("in_words", [False, True])
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_pauses_whole_host(server: WebServer, options: IngestOptions, code: int, in_words: bool) -> None:
    wait = http_date(2) if in_words else "0.5"
    server.behave("/limited", status(code, times=1, data=PICTURE, Retry_After=wait))
    options = options.model_copy(update={"per_host": 1})
    results = fetch(options, server.url("/limited"), *(server.url(f"/{i}") for i in range(5)))
    assert {result.status for result in results} == {"ok"}
    assert results[0].attempts == 2
    moments = [when for _, when, _ in server.asked]
    # An HTTP date has whole seconds, so up to one of the two seconds has already passed.
    assert moments[1] - moments[0] >= (0.9 if in_words else 0.5)
    assert server.asked[0][0] == "/limited"


def test_too_long_retry_after_is_not_waited_for(server: WebServer, options: IngestOptions) -> None:
    server.behave("/limited", status(429, Retry_After="3600"))
    options = options.model_copy(update={"per_host": 1, "max_wait": 10})
    began = time.monotonic()
    first, second = fetch(options, server.url("/limited"), server.url("/other"))
    assert time.monotonic() - began < 5
    assert (first.status, first.attempts) == ("rate_limited", 1)
    assert "HTTP 429" in str(first.error)
    assert "requested a pause (3" in str(first.error)
    assert (second.status, second.attempts, second.http_status) == ("rate_limited", 0, None)
    assert server.requests["/other"] == 0


def test_requests_per_host_are_limited_and_connections_reused(server: WebServer, options: IngestOptions) -> None:
    server.delay = 0.02
    ports = set()

    async def answer(request: web.Request, _before: int) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response(body=PICTURE)

    urls = [server.behave(f"/{i}", answer) for i in range(40)]
    results = fetch(options.model_copy(update={"per_host": 4, "fan_out": 16}), *urls)
    assert [result.url for result in results] == urls
    assert {result.status for result in results} == {"ok"}
    assert server.in_flight_most == 4
    assert len(ports) == 4


def shared(options: IngestOptions, parts: list[list[str]], delay: float = 0.0) -> list[FetchResult]:
    """Run one fetcher per part. All report to one `HostBudgets`, with a delay in each direction."""

    async def work() -> list[FetchResult]:
        budgets = HostBudgets(options.per_host, options.per_host_rate)

        async def exchange(name: str, report: BudgetReport) -> BudgetGrant:
            await asyncio.sleep(delay)
            grant = budgets.exchange(name, report)
            await asyncio.sleep(delay)
            return grant

        async def one(urls: list[str]) -> list[FetchResult]:
            async with Fetcher(options, exchange=exchange, fetchers=len(parts)) as fetcher:
                return await fetcher.fetch_many([(url, url) for url in urls])

        return [result for part in await asyncio.gather(*map(one, parts)) for result in part]

    return asyncio.run(work())


@pytest.mark.parametrize("per_host", [1, 2, 5])
def test_several_fetchers_share_one_budget(server: WebServer, options: IngestOptions, per_host: int) -> None:
    server.delay = 0.02
    parts = [[server.url(f"/{part}/{i}") for i in range(30)] for part in range(3)]
    results = shared(options.model_copy(update={"per_host": per_host}), parts, delay=0.01)
    assert Counter(result.status for result in results) == {"ok": 90}
    assert server.in_flight_most == per_host


def test_several_fetchers_share_one_rate_limit(server: WebServer, options: IngestOptions) -> None:
    parts = [[server.url(f"/{part}/{i}") for i in range(12)] for part in range(2)]
    shared(options.model_copy(update={"per_host": 8, "per_host_rate": 20.0}), parts)
    moments = [when for _, when, _ in server.asked]
    # There are 23 pauses of 1/20 s between 24 requests. A timer may be early by its resolution.
    assert moments[-1] - moments[0] >= 23 / 20 * 0.95


def test_retry_after_pauses_host_for_all_fetchers(server: WebServer, options: IngestOptions) -> None:
    server.behave("/limited", status(429, times=1, data=PICTURE, Retry_After="1.5"))
    server.delay = 0.05
    parts = [[server.url("/limited"), *(server.url(f"/0/{i}") for i in range(40))]]
    parts += [[server.url(f"/{part}/{i}") for i in range(80)] for part in (1, 2)]
    results = shared(options.model_copy(update={"per_host": 6}), parts)
    assert Counter(result.status for result in results) == {"ok": 201}
    limited = next(when for path, when, _ in server.asked if path == "/limited")
    # The others learn of the pause after one report and its answer. Then no requests come until it ends.
    quiet = [when - limited for _, when, _ in server.asked if 0.7 < when - limited < 1.5]
    assert quiet == []
    assert max(when for _, when, _ in server.asked) - limited > 1.5


def test_fetcher_stops_without_budgets(server: WebServer, options: IngestOptions) -> None:
    async def work() -> int:
        lost = False
        budgets = HostBudgets(2)

        async def exchange(name: str, report: BudgetReport) -> BudgetGrant:
            if lost:
                raise ConnectionError("the actor is gone")
            return budgets.exchange(name, report)

        async with Fetcher(options, exchange=exchange, fetchers=2) as fetcher:
            assert (await fetcher.fetch("a", server.url("/a"))).status == "ok"
            lost = True
            await asyncio.sleep(0.6)
            waiting = asyncio.create_task(fetcher.fetch("b", server.url("/b")))
            await asyncio.sleep(0.3)
            before = server.requests["/b"]
            lost = False
            assert (await waiting).status == "ok"
            return before

    assert asyncio.run(work()) == 0


def test_new_fetcher_respects_earlier_pauses(server: WebServer, options: IngestOptions) -> None:
    budgets = HostBudgets(options.per_host)
    budgets.exchange("gone", BudgetReport({}, pauses={"127.0.0.1": 1.0}))
    budgets.clear()

    async def exchange(name: str, report: BudgetReport) -> BudgetGrant:
        return budgets.exchange(name, report)

    async def work() -> float:
        started = time.monotonic()
        async with Fetcher(options, exchange=exchange) as fetcher:
            await asyncio.sleep(0.05)
            assert (await fetcher.fetch("a", server.url("/a"))).status == "ok"
        return time.monotonic() - started

    assert asyncio.run(work()) >= 0.9


def test_closing_starts_no_further_requests(server: WebServer, options: IngestOptions) -> None:
    server.delay = 0.3

    async def work() -> set[asyncio.Task[Any]]:
        async with Fetcher(options.model_copy(update={"per_host": 8})) as fetcher:
            fetcher.submit([(f"p{i}", server.url(f"/{i}")) for i in range(200)], lambda _result: None)
            await asyncio.sleep(0.1)
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(work()) == set()
    assert len(server.requests) == 8


def test_pause_delays_requests(server: WebServer, options: IngestOptions) -> None:
    async def work() -> None:
        async with Fetcher(options) as fetcher:
            fetcher.set_paused(True)
            waiting = asyncio.create_task(fetcher.fetch("a", server.url("/a")))
            await asyncio.sleep(0.2)
            assert not server.requests
            fetcher.set_paused(False)
            assert (await waiting).status == "ok"

    asyncio.run(work())


def robots(text: bytes, code: int = 200) -> Any:
    return body(text, "text/plain") if code == 200 else status(code)


def test_robots_txt_is_followed_if_enabled(server: WebServer, options: IngestOptions) -> None:
    server.behave("/robots.txt", robots(b"User-agent: *\nDisallow: /private/\n"))
    urls = [server.url(path) for path in ("/private/a", "/b", "/private/c")]
    assert {result.status for result in fetch(options, *urls)} == {"ok"}
    assert server.requests["/robots.txt"] == 0
    options = options.model_copy(update={"robots": True})
    first, second, third = fetch(options, *urls)
    assert (first.status, second.status, third.status) == ("forbidden", "ok", "forbidden")
    assert "robots.txt of 127.0.0.1 disallows it" in str(first.error)
    assert (first.attempts, first.http_status) == (0, None)
    assert server.requests["/robots.txt"] == 1
    assert server.requests["/private/a"] == 1


@pytest.mark.parametrize(("code", "expected"), [(404, "ok"), (403, "ok"), (500, "server_error")])
def test_missing_robots_txt_allows_but_server_error_forbids(
    server: WebServer, options: IngestOptions, code: int, expected: str
) -> None:
    server.behave("/robots.txt", robots(b"", code))
    (result,) = fetch(options.model_copy(update={"robots": True}), server.url("/a"))
    assert result.status == expected
    if expected != "ok":
        assert (result.attempts, server.requests["/a"]) == (0, 0)
        assert f"robots.txt of 127.0.0.1 cannot be read (HTTP {code})" in str(result.error)
        assert server.requests["/robots.txt"] == options.attempts


def test_failed_robots_txt_request_is_retried(server: WebServer, options: IngestOptions) -> None:
    server.behave("/robots.txt", status(503, times=2, data=b"User-agent: *\nDisallow: /b\n"))
    results = fetch(options.model_copy(update={"robots": True}), server.url("/a"), server.url("/b"))
    assert [result.status for result in results] == ["ok", "forbidden"]
    assert server.requests["/robots.txt"] == 3


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_on_robots_txt_is_followed(server: WebServer, options: IngestOptions, code: int) -> None:
    rules = b"User-agent: *\nDisallow: /b\n"
    server.behave("/robots.txt", status(code, times=1, data=rules, Retry_After="0.6"))
    first, second = fetch(options.model_copy(update={"robots": True}), server.url("/a"), server.url("/b"))
    assert (first.status, second.status) == ("ok", "forbidden")
    moments = [when for _, when, _ in server.asked]
    assert [path for path, _, _ in server.asked] == ["/robots.txt", "/robots.txt", "/a"]
    assert moments[1] - moments[0] >= 0.59


def test_retry_after_of_a_redirected_robots_txt_is_followed(server: WebServer, options: IngestOptions) -> None:
    server.behave("/robots.txt", status(302, Location=f"http://localhost:{server.port}/rules"))
    server.behave("/rules", status(503, times=1, data=b"User-agent: *\nAllow: /\n", Retry_After="0.6"))
    (result,) = fetch(options.model_copy(update={"robots": True}), server.url("/a"))
    assert result.status == "ok"
    moments = {path: when for path, when, _ in server.asked if path != "/robots.txt"}
    first = next(when for path, when, _ in server.asked if path == "/rules")
    assert moments["/rules"] - first >= 0.59
    assert moments["/a"] - first >= 0.59


def test_robots_txt_with_repeated_retry_after_gives_server_error(server: WebServer, options: IngestOptions) -> None:
    server.behave("/robots.txt", status(503, Retry_After="0.1"))
    (result,) = fetch(options.model_copy(update={"robots": True}), server.url("/a"))
    assert (result.status, result.attempts, server.requests["/a"]) == ("server_error", options.attempts, 0)
    assert "answers robots.txt with Retry-After" in str(result.error)


def test_whole_robots_txt_is_read(server: WebServer, options: IngestOptions) -> None:
    rules = b"User-agent: *\n" + b"# nothing\n" * 20_000 + b"Disallow: /a\n"
    server.behave("/robots.txt", drip(rules, 0.01, pieces=20))
    assert fetch(options.model_copy(update={"robots": True}), server.url("/a"))[0].status == "forbidden"


def test_guard_checks_redirected_robots_txt(server: WebServer, options: IngestOptions) -> None:
    server.behave("/robots.txt", status(302, Location="http://169.254.169.254/robots.txt"))
    result = fetch(options.model_copy(update={"robots": True}), server.url("/a"))[0]
    # The guard blocks the redirect, so robots.txt is unreachable, which forbids all (RFC 9309, section 2.3.1.4).
    assert result.status == "connection"
    assert "no answer" in str(result.error)


def test_crawl_delay_spaces_requests(server: WebServer, options: IngestOptions) -> None:
    server.behave("/robots.txt", robots(b"User-agent: raypipe\nCrawl-delay: 0.3\n"))
    urls = [server.url(f"/{i}") for i in range(4)]
    results = fetch(options.model_copy(update={"robots": True, "per_host": 8}), *urls)
    assert {result.status for result in results} == {"ok"}
    moments = [when for path, when, _ in server.asked if path != "/robots.txt"]
    # The first request waits too, if it was let through before the pace was known. Timers may be early.
    assert min(b - a for a, b in itertools.pairwise(moments)) >= 0.27


@pytest.mark.parametrize(
    ("tag", "expected"), [("noai, noimageai", "forbidden"), ("googlebot: noindex", "ok"), ("nofollow", "ok")]
)
def test_x_robots_tag_is_followed_if_enabled(
    server: WebServer, options: IngestOptions, tag: str, expected: str
) -> None:
    url = server.behave("/a", body(PICTURE, **{"X-Robots-Tag": tag}))
    server.behave("/robots.txt", robots(b"", 404))
    assert fetch(options, url)[0].status == "ok"
    assert fetch(options.model_copy(update={"robots": True}), url)[0].status == expected
