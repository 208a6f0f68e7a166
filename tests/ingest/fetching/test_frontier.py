"""Which request may start when, by host budgets, pauses, delays and turns, on a clock set by the tests."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.fetching.frontier import Frontier


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start_all(frontier: Frontier[str]) -> list[str]:
    started = []
    while (turn := frontier.pop()) is not None:
        started.append(turn.item)
    return started


def make(**options: object) -> tuple[Frontier[str], Clock]:
    clock = Clock()
    return Frontier(**{"per_host": 2, "clock": clock, **options}), clock  # type: ignore[arg-type]


def test_per_host_limit_holds_and_hosts_alternate() -> None:
    frontier, _ = make()
    for i in range(4):
        frontier.push("a", f"a{i}")
        frontier.push("b", f"b{i}")
    assert start_all(frontier) == ["a0", "b0", "a1", "b1"]
    assert frontier.pop() is None
    assert frontier.next_at() is None
    frontier.done("b")
    assert start_all(frontier) == ["b2"]
    assert frontier.waiting == 3


def test_hosts_are_forgotten_after_pace_and_pause_end() -> None:
    frontier, clock = make(rate=10)
    for i in range(50):
        frontier.push(f"host{i}", "picture")
        turn = frontier.pop()
        assert turn is not None
        frontier.done(turn.host)
    frontier.pause("host7", 5.0)
    clock.now += 1
    assert frontier.pop() is None
    assert list(frontier._hosts) == ["host7"]
    clock.now += 5
    assert frontier.pop() is None
    assert not frontier._hosts


def test_requests_per_second_are_limited() -> None:
    frontier, clock = make(per_host=50, rate=10)
    for i in range(3):
        frontier.push("a", str(i))
    frontier.push("b", "other")
    assert start_all(frontier) == ["0", "other"]
    assert frontier.hosts_waiting() == 1
    for expected in ("1", "2"):
        at = frontier.next_at()
        assert at is not None
        assert abs(at - clock.now - 0.1) < 1e-9
        clock.now = at
        assert start_all(frontier) == [expected]


def test_paused_host_does_not_delay_others() -> None:
    frontier, clock = make()
    frontier.pause("slow", 30)
    frontier.pause("slow", 3)
    for i in range(5):
        frontier.push("slow", f"s{i}")
        frontier.push("quick", f"q{i}")
    assert start_all(frontier) == ["q0", "q1"]
    assert frontier.hosts_waiting() == 1
    assert frontier.next_at() == clock.now + 30
    clock.now += 30
    assert start_all(frontier) == ["s0", "s1"]


def test_pause_applies_to_queued_items() -> None:
    frontier, clock = make()
    frontier.push("a", "x")
    frontier.pause("a", 5)
    assert frontier.pop() is None
    clock.now += 5
    assert start_all(frontier) == ["x"]


def test_pause_longer_than_max_wait_fails_items_immediately() -> None:
    frontier, clock = make(max_wait=60)
    for i in range(3):
        frontier.push("a", str(i))
    assert start_all(frontier) == ["0", "1"]
    frontier.pause("a", 3600)
    turn = frontier.pop()
    assert turn is not None
    assert (turn.item, turn.pause) == ("2", 3600)
    frontier.push("b", "b")
    assert start_all(frontier) == ["b"]
    clock.now += 3550
    frontier.push("a", "3")
    frontier.done("a")
    assert frontier.pop() is None
    clock.now += 50
    assert start_all(frontier) == ["3"]


def test_delayed_item_goes_first_after_its_delay() -> None:
    frontier, clock = make(per_host=1)
    frontier.push("a", "again", delay=2)
    assert frontier.pop() is None
    assert frontier.next_at() == clock.now + 2
    frontier.push("a", "new")
    frontier.push("a", "newer")
    assert start_all(frontier) == ["new"]
    clock.now += 2
    frontier.done("a")
    assert start_all(frontier) == ["again"]


def test_rate_can_only_be_lowered() -> None:
    frontier, clock = make(per_host=9, rate=2)
    frontier.slow_down("a", 4)
    frontier.slow_down("a", 1)
    for i in range(3):
        frontier.push("a", str(i))
    starts = []
    while frontier.waiting:
        at = frontier.next_at()
        assert at is not None
        clock.now = max(clock.now, at)
        starts += [clock.now] * len(start_all(frontier))
    assert all(later - earlier >= 4 for earlier, later in pairwise(starts))


def test_finished_hosts_are_forgotten() -> None:
    frontier, _ = make()
    for i in range(200):
        frontier.push(f"h{i}", str(i))
    for item in start_all(frontier):
        frontier.done(f"h{item}")
    assert not frontier._hosts


def test_shared_budget_is_requested_and_not_exceeded() -> None:
    frontier, _ = make(per_host=4, shared=True)
    for i in range(6):
        frontier.push("a", str(i))
    assert frontier.pop() is None
    assert frontier.starved
    assert frontier.demand() == {"a": (4, 0)}
    frontier.allow({"a": (3, 0.0), "unknown": (2, 0.0)})
    assert start_all(frontier) == ["0", "1", "2"]
    assert frontier.demand() == {"a": (4, 3)}
    frontier.allow({"a": (1, 0.0)})
    frontier.done("a")
    frontier.done("a")
    assert frontier.pop() is None
    assert frontier.demand() == {"a": (4, 1)}
    frontier.done("a")
    assert start_all(frontier) == ["3"]


def test_remaining_hosts_are_requested_later() -> None:
    frontier, _ = make(shared=True)
    for i in range(5):
        frontier.push(f"h{i}", str(i))
    first = frontier.demand(most=3)
    frontier.allow(dict.fromkeys(first, (2, 0.0)))
    for item in start_all(frontier):
        frontier.done(f"h{item}")
    assert set(first) | set(frontier.demand(most=3)) == {f"h{i}" for i in range(5)}


@st.composite
def story(draw: st.DrawFn) -> list[tuple[str, str, float]]:
    words = st.sampled_from(["push", "later", "pause", "done", "tick", "pop", "slow"])
    return draw(st.lists(st.tuples(words, st.sampled_from("abc"), st.floats(0.01, 5)), max_size=60))


@given(story(), st.integers(1, 3), st.sampled_from([None, 2.0, 50.0]))
def test_all_items_start_within_host_limits(
    words: list[tuple[str, str, float]], per_host: int, rate: float | None
) -> None:
    frontier, clock = make(per_host=per_host, rate=rate, max_wait=1e9)
    pushed: list[str] = []
    started: list[str] = []
    active: Counter[str] = Counter()
    paused_until: Counter[str] = Counter()
    last: dict[str, float] = {}

    def pop() -> bool:
        turn = frontier.pop()
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
                frontier.push(host, pushed[-1], number if word == "later" else 0.0)
            case "pause":
                frontier.pause(host, number)
                paused_until[host] = max(paused_until[host], clock.now + number)  # type: ignore[assignment]
            case "done" if active[host]:
                active[host] -= 1
                frontier.done(host)
            case "tick":
                clock.now += number
            case "slow":
                frontier.slow_down(host, number / 10)
            case "pop":
                pop()
    assert len(frontier._timers) <= 10 * len(words) + 10
    for _ in range(1000):
        while pop():
            pass
        for host in [host for host, n in active.items() if n]:
            active[host] -= 1
            frontier.done(host)
        at = frontier.next_at()
        if at is not None:
            clock.now = max(clock.now, at)
        elif not frontier.waiting:
            break
    assert sorted(started) == sorted(pushed)
    assert frontier.waiting == 0
    assert frontier.waiting == 0
