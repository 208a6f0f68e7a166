"""Which request may start when, by host budgets, pauses, delays and turns, on a clock set by the tests."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.fetching.host_queues import HostQueues


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start_all(host_queues: HostQueues[str]) -> list[str]:
    started = []
    while (turn := host_queues.pop()) is not None:
        started.append(turn.item)
    return started


def make(**options: object) -> tuple[HostQueues[str], Clock]:
    clock = Clock()
    return HostQueues(**{"per_host": 2, "clock": clock, **options}), clock  # type: ignore[arg-type]


def test_per_host_limit_holds_and_hosts_alternate() -> None:
    host_queues, _ = make()
    for i in range(4):
        host_queues.push("a", f"a{i}")
        host_queues.push("b", f"b{i}")
    assert start_all(host_queues) == ["a0", "b0", "a1", "b1"]
    assert host_queues.pop() is None
    assert host_queues.next_at() is None
    host_queues.release("b")
    assert start_all(host_queues) == ["b2"]
    assert host_queues.waiting == 3


def test_hosts_are_forgotten_after_interval_and_pause() -> None:
    host_queues, clock = make(rate=10)
    for i in range(50):
        host_queues.push(f"host{i}", "picture")
        turn = host_queues.pop()
        assert turn is not None
        host_queues.release(turn.host)
    host_queues.pause("host7", 5.0)
    clock.now += 1
    assert host_queues.pop() is None
    assert list(host_queues._hosts) == ["host7"]
    clock.now += 5
    assert host_queues.pop() is None
    assert not host_queues._hosts


def test_requests_per_second_are_limited() -> None:
    host_queues, clock = make(per_host=50, rate=10)
    for i in range(3):
        host_queues.push("a", str(i))
    host_queues.push("b", "other")
    assert start_all(host_queues) == ["0", "other"]
    assert host_queues.hosts_waiting() == 1
    for expected in ("1", "2"):
        at = host_queues.next_at()
        assert at is not None
        assert abs(at - clock.now - 0.1) < 1e-9
        clock.now = at
        assert start_all(host_queues) == [expected]


def test_paused_host_does_not_delay_others() -> None:
    host_queues, clock = make()
    host_queues.pause("slow", 30)
    host_queues.pause("slow", 3)
    for i in range(5):
        host_queues.push("slow", f"s{i}")
        host_queues.push("quick", f"q{i}")
    assert start_all(host_queues) == ["q0", "q1"]
    assert host_queues.hosts_waiting() == 1
    assert host_queues.next_at() == clock.now + 30
    clock.now += 30
    assert start_all(host_queues) == ["s0", "s1"]


def test_pause_applies_to_queued_items() -> None:
    host_queues, clock = make()
    host_queues.push("a", "x")
    host_queues.pause("a", 5)
    assert host_queues.pop() is None
    clock.now += 5
    assert start_all(host_queues) == ["x"]


def test_pause_longer_than_max_wait_fails_items_immediately() -> None:
    host_queues, clock = make(max_wait=60)
    for i in range(3):
        host_queues.push("a", str(i))
    assert start_all(host_queues) == ["0", "1"]
    host_queues.pause("a", 3600)
    turn = host_queues.pop()
    assert turn is not None
    assert (turn.item, turn.pause) == ("2", 3600)
    host_queues.push("b", "b")
    assert start_all(host_queues) == ["b"]
    clock.now += 3550
    host_queues.push("a", "3")
    host_queues.release("a")
    assert host_queues.pop() is None
    clock.now += 50
    assert start_all(host_queues) == ["3"]


def test_delayed_item_goes_first_after_its_delay() -> None:
    host_queues, clock = make(per_host=1)
    host_queues.push("a", "again", delay=2)
    assert host_queues.pop() is None
    assert host_queues.next_at() == clock.now + 2
    host_queues.push("a", "new")
    host_queues.push("a", "newer")
    assert start_all(host_queues) == ["new"]
    clock.now += 2
    host_queues.release("a")
    assert start_all(host_queues) == ["again"]


def test_rate_can_only_be_lowered() -> None:
    host_queues, clock = make(per_host=9, rate=2)
    host_queues.raise_interval("a", 4)
    host_queues.raise_interval("a", 1)
    for i in range(3):
        host_queues.push("a", str(i))
    starts = []
    while host_queues.waiting:
        at = host_queues.next_at()
        assert at is not None
        clock.now = max(clock.now, at)
        starts += [clock.now] * len(start_all(host_queues))
    assert all(later - earlier >= 4 for earlier, later in pairwise(starts))


def test_finished_hosts_are_forgotten() -> None:
    host_queues, _ = make()
    for i in range(200):
        host_queues.push(f"h{i}", str(i))
    for item in start_all(host_queues):
        host_queues.release(f"h{item}")
    assert not host_queues._hosts


def test_shared_budget_is_requested_and_not_exceeded() -> None:
    host_queues, _ = make(per_host=4, shared=True)
    for i in range(6):
        host_queues.push("a", str(i))
    assert host_queues.pop() is None
    assert host_queues.lacks_slots
    assert host_queues.demand() == {"a": (4, 0)}
    host_queues.apply_limits({"a": (3, 0.0), "unknown": (2, 0.0)})
    assert start_all(host_queues) == ["0", "1", "2"]
    assert host_queues.demand() == {"a": (4, 3)}
    host_queues.apply_limits({"a": (1, 0.0)})
    host_queues.release("a")
    host_queues.release("a")
    assert host_queues.pop() is None
    assert host_queues.demand() == {"a": (4, 1)}
    host_queues.release("a")
    assert start_all(host_queues) == ["3"]


def test_remaining_hosts_are_requested_later() -> None:
    host_queues, _ = make(shared=True)
    for i in range(5):
        host_queues.push(f"h{i}", str(i))
    first = host_queues.demand(max_hosts=3)
    host_queues.apply_limits(dict.fromkeys(first, (2, 0.0)))
    for item in start_all(host_queues):
        host_queues.release(f"h{item}")
    assert set(first) | set(host_queues.demand(max_hosts=3)) == {f"h{i}" for i in range(5)}


@st.composite
def story(draw: st.DrawFn) -> list[tuple[str, str, float]]:
    words = st.sampled_from(["push", "later", "pause", "done", "tick", "pop", "slow"])
    return draw(st.lists(st.tuples(words, st.sampled_from("abc"), st.floats(0.01, 5)), max_size=60))


@given(story(), st.integers(1, 3), st.sampled_from([None, 2.0, 50.0]))
def test_all_items_start_within_host_limits(
    words: list[tuple[str, str, float]], per_host: int, rate: float | None
) -> None:
    host_queues, clock = make(per_host=per_host, rate=rate, max_wait=1e9)
    pushed: list[str] = []
    started: list[str] = []
    active: Counter[str] = Counter()
    paused_until: Counter[str] = Counter()
    last: dict[str, float] = {}

    def pop() -> bool:
        turn = host_queues.pop()
        if turn is None:
            return False
        started.append(turn.item)
        active[turn.host] += 1
        assert active[turn.host] <= per_host
        assert clock.now >= paused_until[turn.host]
        if rate is not None and turn.host in last:
            assert clock.now - last[turn.host] >= 1 / rate - 1e-9
        last[turn.host] = clock.now
        return True

    for word, host, number in words:
        match word:
            case "push" | "later":
                pushed.append(f"{len(pushed)}")
                host_queues.push(host, pushed[-1], number if word == "later" else 0.0)
            case "pause":
                host_queues.pause(host, number)
                paused_until[host] = max(paused_until[host], clock.now + number)  # type: ignore[assignment]
            case "done" if active[host]:
                active[host] -= 1
                host_queues.release(host)
            case "tick":
                clock.now += number
            case "slow":
                host_queues.raise_interval(host, number / 10)
            case "pop":
                pop()
    assert len(host_queues._timers) <= 10 * len(words) + 10
    for _ in range(1000):
        while pop():
            pass
        for host in [host for host, n in active.items() if n]:
            active[host] -= 1
            host_queues.release(host)
        at = host_queues.next_at()
        if at is not None:
            clock.now = max(clock.now, at)
        elif not host_queues.waiting:
            break
    assert sorted(started) == sorted(pushed)
    assert host_queues.waiting == 0
    assert host_queues.waiting == 0
