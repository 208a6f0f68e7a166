"""One budget for several fetchers: never exceeded despite delayed reports, shared fairly, no fetcher starves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.fetching.frontier import Frontier
from raypipe.ingest.fetching.ledger import Grant, HostLedger, Report, fair_shares
from tests.ingest.fetching.test_frontier import Clock


@given(st.integers(0, 50), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 30)), st.integers(0, 9))
def test_shares_are_fair_and_use_whole_budget(total: int, wants: dict[str, int], turn: int) -> None:
    shares = fair_shares(total, wants, turn)
    assert sum(shares.values()) == min(total, sum(wants.values()))
    assert all(0 <= shares[name] <= wants[name] for name in wants)
    # No share is larger by two or more than a share that wants more.
    hungry = [shares[name] for name in wants if shares[name] < wants[name]]
    assert not hungry or max(shares.values()) - min(hungry) <= 1


def test_first_share_rotates_with_turn() -> None:
    assert {tuple(fair_shares(1, {"a": 5, "b": 5, "c": 5}, turn).items()) for turn in range(3)} == {
        (("a", 1), ("b", 0), ("c", 0)), (("a", 0), ("b", 1), ("c", 0)), (("a", 0), ("b", 0), ("c", 1))
    }  # fmt: skip


def test_single_fetcher_holds_budget_until_another_reports() -> None:
    clock = Clock()
    ledger = HostLedger(10, 5.0, clock=clock)
    assert ledger.exchange("one", Report({"h": (10, 0)})).limits == {"h": (10, 0.2)}
    # The first fetcher's share is not given away before it reports that it holds less.
    assert ledger.exchange("two", Report({"h": (10, 0)})).limits == {"h": (0, 0.0)}
    assert ledger.exchange("one", Report({"h": (10, 10)})).limits == {"h": (5, 0.4)}
    assert ledger.exchange("two", Report({"h": (10, 0)})).limits == {"h": (0, 0.0)}
    assert ledger.exchange("one", Report({"h": (10, 7)})).limits["h"][0] == 5
    assert ledger.exchange("two", Report({"h": (10, 0)})).limits["h"][0] == 3
    ledger.exchange("one", Report({}, pauses={"slow": 50.0}))
    ledger.clear()
    again = ledger.exchange("three", Report({"h": (10, 0)}))
    assert again.limits["h"][0] == 10
    assert again.pauses == {"slow": 50.0}


def test_pause_is_passed_once_to_other_fetchers() -> None:
    clock = Clock()
    ledger = HostLedger(4, clock=clock)
    ledger.exchange("two", Report({}))
    clock.now += 1
    ledger.exchange("one", Report({}, {"h": 30.0}))
    clock.now += 1
    assert ledger.exchange("two", Report({})).pauses == {"h": 29.0}
    clock.now += 1
    assert ledger.exchange("two", Report({})).pauses == {}
    # A fetcher that reports later also gets the pause.
    assert ledger.exchange("three", Report({})).pauses == {"h": 28.0}
    ledger.exchange("one", Report({}, {"h": 1.0}))
    assert ledger.exchange("four", Report({})).pauses == {"h": 28.0}


def test_budget_of_lost_fetcher_is_returned() -> None:
    clock = Clock()
    ledger = HostLedger(4, forget=60, clock=clock)
    ledger.exchange("lost", Report({"h": (4, 0)}))
    clock.now += 59
    assert ledger.exchange("other", Report({"h": (4, 0)})).limits["h"][0] == 0
    clock.now += 2
    assert ledger.exchange("other", Report({"h": (4, 0)})).limits["h"][0] == 4


def test_new_ledger_grants_no_more_during_grace_period() -> None:
    clock = Clock()
    ledger = HostLedger(4, grace=2, clock=clock)
    assert ledger.exchange("one", Report({"h": (4, 3)})).limits["h"][0] == 3
    assert ledger.exchange("two", Report({"h": (4, 1)})).limits["h"][0] == 1
    clock.now += 2
    assert ledger.exchange("one", Report({"h": (4, 3)})).limits["h"][0] == 2


@pytest.mark.parametrize("seed", range(12))
def test_simulated_fetchers_finish_within_budget(seed: int) -> None:
    """Each fetcher has its own frontier. Answers and reports take any time."""
    rng = np.random.default_rng(seed)
    clock = Clock()
    per_host, n_fetchers = int(rng.integers(1, 9)), int(rng.integers(2, 6))
    ledger = HostLedger(per_host, clock=clock)
    frontiers: list[Frontier[int]] = [Frontier(per_host, shared=True, clock=clock) for _ in range(n_fetchers)]
    pushed = Counter[int]()
    for number in range(600):
        who = int(rng.integers(n_fetchers))
        frontiers[who].push(f"host{rng.integers(3)}", number)
        pushed[who] += 1
    running: list[tuple[float, int, str]] = []
    answers: dict[int, tuple[float, Grant]] = {}
    finished = Counter[int]()
    most = 0
    for _ in range(20_000):
        clock.now += 0.01
        for who, frontier in enumerate(frontiers):
            if who in answers and answers[who][0] <= clock.now:
                frontier.allow(answers.pop(who)[1].limits)
            while (turn := frontier.pop()) is not None:
                running.append((clock.now + rng.exponential(0.05), who, turn.host))
            if who not in answers and rng.random() < 0.3:
                grant = ledger.exchange(str(who), Report(frontier.demand()))
                answers[who] = (clock.now + rng.exponential(0.1), grant)
        by_host = Counter(host for _, _, host in running)
        assert all(n <= per_host for n in by_host.values())
        most = max(most, *by_host.values(), 0)
        for item in [item for item in running if item[0] <= clock.now]:
            running.remove(item)
            frontiers[item[1]].done(item[2])
            finished[item[1]] += 1
        if finished == pushed:
            break
    assert finished == pushed
    assert most == per_host
