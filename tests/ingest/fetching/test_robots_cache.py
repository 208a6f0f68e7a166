"""The robots.txt cache: one request per origin and day, and errors reach all waiters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from yarl import URL

from raypipe.ingest.fetching.robots import READ_BYTES, RobotsCache
from tests.ingest.fetching.test_robots import HOST, US


class Host:
    """Answers requests for robots.txt and counts them."""

    def __init__(self, status: int | None = 200, body: bytes = b"User-agent: *\nDisallow: /a\n") -> None:
        self.status, self.body = status, body
        self.asked: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.ended = 0

    async def ask(self, url: URL) -> tuple[int | None, bytes]:
        self.asked[str(url)] += 1
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.ended += 1
        if self.status == 0:
            raise LookupError("nothing here")
        return self.status, self.body


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def in_a_loop(test: Callable[[Host, RobotsCache, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = Clock()
        await test(Host(), RobotsCache(clock), clock)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_parallel_requests_fetch_robots_txt_once_per_origin() -> None:
    async def test(host: Host, cache: RobotsCache, _clock: Clock) -> None:
        host.gate.clear()
        urls = [URL(f"{HOST}/{name}/{i}.jpg") for i in range(250) for name in "ab"]
        tasks = [asyncio.create_task(cache.rules(url, host.ask)) for url in urls]
        await asyncio.sleep(0.01)
        host.gate.set()
        rules = await asyncio.gather(*tasks)
        assert host.asked == {f"{HOST}/robots.txt": 1}
        assert [found.allows(str(url), US) for found, url in zip(rules, urls, strict=True)] == [False, True] * 250
        for other in ("http://example.org/a", "https://example.org:8443/a", "https://www.example.org/a"):
            await cache.rules(URL(other), host.ask)
        assert len(host.asked) == 4
        await cache.rules(URL("https://example.org:443/b"), host.ask)
        assert host.asked.total() == 4

    in_a_loop(test)


@pytest.mark.parametrize(("status", "seconds"), [(200, 24 * 3600), (404, 24 * 3600), (503, 300), (None, 300)])
def test_answers_expire_after_status_dependent_time(status: int | None, seconds: float) -> None:
    async def test(host: Host, cache: RobotsCache, clock: Clock) -> None:
        host.status = status
        for later, asked in ((0, 1), (seconds - 1, 1), (1, 2), (1, 2)):
            clock.now += later
            await cache.rules(URL(HOST), host.ask)
            assert host.asked.total() == asked

    in_a_loop(test)


def test_cancelling_one_waiter_keeps_answer_for_others() -> None:
    async def test(host: Host, cache: RobotsCache, _clock: Clock) -> None:
        host.gate.clear()
        first, second = (asyncio.create_task(cache.rules(URL(HOST), host.ask)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        host.gate.set()
        assert not (await second).allows(f"{HOST}/a", US)
        assert first.cancelled()
        assert host.asked.total() == 1

    in_a_loop(test)


def test_request_stops_if_all_waiters_cancel() -> None:
    async def test(host: Host, cache: RobotsCache, _clock: Clock) -> None:
        host.gate.clear()
        tasks = [asyncio.create_task(cache.rules(URL(HOST), host.ask)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert host.ended == 1
        host.gate.set()
        await cache.rules(URL(HOST), host.ask)
        assert host.asked.total() == 2

    in_a_loop(test)


def test_error_reaches_all_waiters_and_is_not_cached() -> None:
    async def test(host: Host, cache: RobotsCache, _clock: Clock) -> None:
        host.status = 0
        results = await asyncio.gather(*(cache.rules(URL(HOST), host.ask) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [LookupError] * 3
        host.status = 200
        await cache.rules(URL(HOST), host.ask)
        assert host.asked.total() == 2

    in_a_loop(test)


def test_cache_is_bounded_and_evicts_least_recent() -> None:
    async def test(host: Host, cache: RobotsCache, _clock: Clock) -> None:
        host.body = b"#" * READ_BYTES
        for i in range(16):
            await cache.rules(URL(f"http://host{i}/"), host.ask)
        await cache.rules(URL("http://host0/"), host.ask)
        assert host.asked.total() == 16
        # The seventeenth origin replaces the least recently used one.
        await cache.rules(URL("http://another/"), host.ask)
        await cache.rules(URL("http://host0/"), host.ask)
        assert host.asked.total() == 17
        await cache.rules(URL("http://host1/"), host.ask)
        assert host.asked.total() == 18

    in_a_loop(test)
