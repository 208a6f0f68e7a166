"""One budget for several fetchers: never exceeded despite delayed reports, shared fairly, no fetcher starves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.fetching.budgets import BudgetGrant, BudgetReport, HostBudgets, fair_shares
from raypipe.ingest.fetching.host_queues import HostQueues
from tests.ingest.fetching.test_host_queues import Clock


@given(st.integers(0, 50), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 30)), st.integers(0, 9))
def test_shares_are_fair_and_use_whole_budget(total: int, demand: dict[str, int], turn: int) -> None:
    shares = fair_shares(total, demand, turn)
    assert sum(shares.values()) == min(total, sum(demand.values()))
    assert all(0 <= shares[name] <= demand[name] for name in demand)
    # No share is larger by two or more than a share that wants more.
    unmet = [shares[name] for name in demand if shares[name] < demand[name]]
    assert not unmet or max(shares.values()) - min(unmet) <= 1


def test_first_share_changes_with_rotation() -> None:
    assert {tuple(fair_shares(1, {"a": 5, "b": 5, "c": 5}, turn).items()) for turn in range(3)} == {
        (("a", 1), ("b", 0), ("c", 0)), (("a", 0), ("b", 1), ("c", 0)), (("a", 0), ("b", 0), ("c", 1))
    }  # fmt: skip


def test_single_fetcher_holds_budget_until_another_reports() -> None:
    clock = Clock()
    budgets = HostBudgets(10, 5.0, clock=clock)
    assert budgets.exchange("one", BudgetReport({"h": (10, 0)})).limits == {"h": (10, 0.2)}
    # The first fetcher's share is not given away before it reports that it holds less.
    assert budgets.exchange("two", BudgetReport({"h": (10, 0)})).limits == {"h": (0, 0.0)}
    assert budgets.exchange("one", BudgetReport({"h": (10, 10)})).limits == {"h": (5, 0.4)}
    assert budgets.exchange("two", BudgetReport({"h": (10, 0)})).limits == {"h": (0, 0.0)}
    assert budgets.exchange("one", BudgetReport({"h": (10, 7)})).limits["h"][0] == 5
    assert budgets.exchange("two", BudgetReport({"h": (10, 0)})).limits["h"][0] == 3
    budgets.exchange("one", BudgetReport({}, pauses={"slow": 50.0}))
    budgets.clear()
    again = budgets.exchange("three", BudgetReport({"h": (10, 0)}))
    assert again.limits["h"][0] == 10
    assert again.pauses == {"slow": 50.0}


def test_pause_is_passed_once_to_other_fetchers() -> None:
    clock = Clock()
    budgets = HostBudgets(4, clock=clock)
    budgets.exchange("two", BudgetReport({}))
    clock.now += 1
    budgets.exchange("one", BudgetReport({}, {"h": 30.0}))
    clock.now += 1
    assert budgets.exchange("two", BudgetReport({})).pauses == {"h": 29.0}
    clock.now += 1
    assert budgets.exchange("two", BudgetReport({})).pauses == {}
    # A fetcher that reports later also gets the pause.
    assert budgets.exchange("three", BudgetReport({})).pauses == {"h": 28.0}
    budgets.exchange("one", BudgetReport({}, {"h": 1.0}))
    assert budgets.exchange("four", BudgetReport({})).pauses == {"h": 28.0}


def test_budget_of_lost_fetcher_is_returned() -> None:
    clock = Clock()
    budgets = HostBudgets(4, forget_seconds=60, clock=clock)
    budgets.exchange("lost", BudgetReport({"h": (4, 0)}))
    clock.now += 59
    assert budgets.exchange("other", BudgetReport({"h": (4, 0)})).limits["h"][0] == 0
    clock.now += 2
    assert budgets.exchange("other", BudgetReport({"h": (4, 0)})).limits["h"][0] == 4


def test_new_budgets_grant_no_more_during_grace_period() -> None:
    clock = Clock()
    budgets = HostBudgets(4, grace=2, clock=clock)
    assert budgets.exchange("one", BudgetReport({"h": (4, 3)})).limits["h"][0] == 3
    assert budgets.exchange("two", BudgetReport({"h": (4, 1)})).limits["h"][0] == 1
    clock.now += 2
    assert budgets.exchange("one", BudgetReport({"h": (4, 3)})).limits["h"][0] == 2


@pytest.mark.parametrize("seed", range(12))
def test_simulated_fetchers_finish_within_budget(seed: int) -> None:
    """Each fetcher has its own queues. Answers and reports take any time."""
    rng = np.random.default_rng(seed)
    clock = Clock()
    per_host, n_fetchers = int(rng.integers(1, 9)), int(rng.integers(2, 6))
    budgets = HostBudgets(per_host, clock=clock)
    all_queues: list[HostQueues[int]] = [HostQueues(per_host, shared=True, clock=clock) for _ in range(n_fetchers)]
    pushed = Counter[int]()
    for number in range(600):
        who = int(rng.integers(n_fetchers))
        all_queues[who].push(f"host{rng.integers(3)}", number)
        pushed[who] += 1
    running: list[tuple[float, int, str]] = []
    answers: dict[int, tuple[float, BudgetGrant]] = {}
    finished = Counter[int]()
    most = 0
    for _ in range(20_000):
        clock.now += 0.01
        for who, host_queues in enumerate(all_queues):
            if who in answers and answers[who][0] <= clock.now:
                host_queues.apply_limits(answers.pop(who)[1].limits)
            while (turn := host_queues.pop()) is not None:
                running.append((clock.now + rng.exponential(0.05), who, turn.host))
            if who not in answers and rng.random() < 0.3:
                grant = budgets.exchange(str(who), BudgetReport(host_queues.demand()))
                answers[who] = (clock.now + rng.exponential(0.1), grant)
        by_host = Counter(host for _, _, host in running)
        assert all(n <= per_host for n in by_host.values())
        most = max(most, *by_host.values(), 0)
        for item in [item for item in running if item[0] <= clock.now]:
            running.remove(item)
            all_queues[item[1]].release(item[2])
            finished[item[1]] += 1
        if finished == pushed:
            break
    assert finished == pushed
    assert most == per_host
