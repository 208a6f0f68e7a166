"""Asynchronous successive halving: which trials continue at a rung."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.train.trials.halving import SuccessiveHalving


def halving(epochs: dict[str, int], grace: int = 1, reduction: int = 3, group: str = "") -> SuccessiveHalving:
    return SuccessiveHalving(dict.fromkeys(epochs, group or "one"), epochs, grace, reduction)


@pytest.mark.parametrize(
    ("epochs", "grace", "reduction", "rungs"),
    [(12, 1, 3, [1, 3, 9]), (9, 1, 3, [1, 3]), (20, 2, 4, [2, 8]), (1, 1, 2, []), (8, 1, 2, [1, 2, 4])],
)
def test_rungs_are_spaced_by_reduction(epochs: int, grace: int, reduction: int, rungs: list[int]) -> None:
    assert halving({"a": epochs}, grace, reduction).rungs("a") == rungs


def test_one_in_three_continues() -> None:
    rungs = halving(dict.fromkeys("abcdef", 9))
    # The first trial has no rival. Later, the best one of up to five continues, then the best two of six.
    said = {
        name: rungs.should_continue(name, [merit])
        for name, merit in zip("abcdef", (0.5, 0.4, 0.6, 0.5, 0.7, 0.65), strict=True)
    }
    assert said == {"a": True, "b": False, "c": True, "d": False, "e": True, "f": True}


def test_trials_end_only_at_rungs_by_best_epoch() -> None:
    rungs = halving({"a": 9, "b": 9})
    assert rungs.should_continue("a", [0.5])
    assert rungs.should_continue("a", [0.5, 0.4])
    assert rungs.should_continue("a", [0.5, 0.9, 0.2])
    assert rungs.should_continue("b", [0.6])
    assert rungs.should_continue("b", [0.6, 0.1])
    assert not rungs.should_continue("b", [0.6, 0.1, 0.8])


def test_trials_compete_only_within_group() -> None:
    rungs = SuccessiveHalving({"a": "A 0", "b": "A 1"}, {"a": 9, "b": 9}, 1, 3)
    assert rungs.should_continue("a", [0.9])
    assert rungs.should_continue("b", [0.1])


def test_recorded_results_of_interrupted_sweep_count() -> None:
    rungs = halving({"done": 9, "new": 9})
    rungs.record("done", [0.5, 0.5, 0.7, 0.7])
    assert not rungs.should_continue("new", [0.4])
    assert rungs.should_continue("new", [0.4, 0.8, 0.8])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(2, 5))
def test_best_so_far_continues_and_decision_is_repeatable(merits: list[float], reduction: int) -> None:
    names = [f"t{i}" for i in range(len(merits))]
    rungs = halving(dict.fromkeys(names, 9), reduction=reduction)
    for i, (name, merit) in enumerate(zip(names, merits, strict=True)):
        should_continue = rungs.should_continue(name, [merit])
        better = sum(other > merit for other in merits[:i])
        assert should_continue == (better < max(1, (i + 1) // reduction))
        assert rungs.should_continue(name, [merit]) == should_continue
