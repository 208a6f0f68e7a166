"""Turns at hosts: how many at a time, how many a second, pauses, and that hosts do not hold each other up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.hosts import HostBudget, HostPausedError, retry_after


class Watch:
    """Counts how many turns are held at a time, by host and in all."""

    def __init__(self, budget: HostBudget) -> None:
        self.budget = budget
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_of_all = 0
        self.started: list[tuple[str, float]] = []

    async def hold(self, host: str, seconds: float = 0.01) -> None:
        async with self.budget.turn(host):
            self.started.append((host, time.monotonic()))
            self.now[host] += 1
            self.most[host] = max(self.most[host], self.now[host])
            self.most_of_all = max(self.most_of_all, self.now.total())
            await asyncio.sleep(seconds)
            self.now[host] -= 1


def test_limits_a_host_and_all_hosts_together() -> None:
    async def work() -> Watch:
        watch = Watch(HostBudget(fan_out=5, per_host=2, rate=None, max_wait=1))
        await asyncio.gather(*(watch.hold(f"h{i % 4}") for i in range(40)))
        return watch

    watch = asyncio.run(work())
    assert len(watch.started) == 40
    assert max(watch.most.values()) == 2
    assert watch.most_of_all == 5


def test_limits_requests_a_second() -> None:
    async def work() -> Watch:
        watch = Watch(HostBudget(fan_out=50, per_host=50, rate=20, max_wait=1))
        await asyncio.gather(*(watch.hold("h", 0) for _ in range(8)))
        return watch

    times = sorted(when for _, when in asyncio.run(work()).started)
    assert all(later - earlier >= 0.049 for earlier, later in pairwise(times))


def test_a_paused_host_is_left_alone_while_others_go_on() -> None:
    async def work() -> tuple[Watch, float]:
        budget = HostBudget(fan_out=2, per_host=4, rate=None, max_wait=10)
        watch, began = Watch(budget), time.monotonic()
        budget.pause("slow", 0.3)
        await asyncio.gather(*(watch.hold("slow") for _ in range(8)), *(watch.hold("quick") for _ in range(8)))
        return watch, began

    watch, began = asyncio.run(work())
    slow = [when - began for host, when in watch.started if host == "slow"]
    # Eight waiters of a paused host would fill a fan-out of two, were they to hold it.
    assert [host for host, _ in watch.started[:8]] == ["quick"] * 8
    assert min(slow) >= 0.3


def test_a_pause_is_never_shortened_and_reaches_those_already_waiting() -> None:
    async def work() -> float:
        budget = HostBudget(fan_out=1, per_host=1, rate=None, max_wait=10)
        watch, began = Watch(budget), time.monotonic()
        budget.pause("h", 0.1)
        waiting = asyncio.create_task(watch.hold("h"))
        await asyncio.sleep(0.02)
        budget.pause("h", 0.3)
        budget.pause("h", 0.01)
        await waiting
        return watch.started[0][1] - began

    assert asyncio.run(work()) >= 0.3


def test_a_pause_beyond_patience_is_refused_at_once() -> None:
    async def work() -> None:
        budget = HostBudget(fan_out=1, per_host=1, rate=None, max_wait=5)
        budget.pause("h", 3600)
        async with asyncio.timeout(1):
            with pytest.raises(HostPausedError, match=r"h has asked to be left alone for another 3\d\d\d s"):
                async with budget.turn("h"):
                    pass
            async with budget.turn("other"):
                pass

    asyncio.run(work())


def test_a_failure_gives_its_turn_back() -> None:
    async def work() -> None:
        budget = HostBudget(fan_out=1, per_host=1, rate=None, max_wait=5)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with budget.turn("h"):
                    raise ZeroDivisionError
        async with asyncio.timeout(1), budget.turn("h"):
            pass

    asyncio.run(work())


def test_hosts_that_are_done_are_forgotten() -> None:
    async def work() -> int:
        budget = HostBudget(fan_out=10, per_host=2, rate=None, max_wait=5)
        watch = Watch(budget)
        await asyncio.gather(*(watch.hold(f"host{i}", 0) for i in range(200)))
        return len(budget._hosts)

    assert asyncio.run(work()) == 0


NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (" 30 ", 30.0),
        ("-3", 0.0),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90.0),
        ("Sun Mar  1 12:01:30 2026", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        (None, None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_retry_after_takes_any_text(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
