"""Intervals and tests by users: equal to the plain ones without clusters, to their definitions, and in simulations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from raypipe.statistics.clustered import (
    clustered_auc_error,
    clustered_auc_interval,
    clustered_share_interval,
    clustered_spearman_interval,
    effective_size,
    number_users,
    paired_p,
)
from raypipe.statistics.intervals import auc_interval, spearman_interval, wilson_interval
from raypipe.statistics.ranks import roc_auc


def draw_users(rng: np.random.Generator, n_users: int) -> np.ndarray:
    """Users with 1 to 11 posts each."""
    return np.repeat(np.arange(n_users), rng.integers(1, 12, n_users))


def test_users_are_numbered_and_unknown_users_stay_separate() -> None:
    assert number_users(["b", None, "a", "b", float("nan"), None, "1"]).tolist() == [0, 1, 2, 0, 3, 4, 5]
    assert number_users([]).tolist() == []


@given(right=st.lists(st.booleans(), min_size=1, max_size=60), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_share_interval_equals_wilson_for_one_post_per_user(right: list[bool], confidence: float) -> None:
    alone = np.random.default_rng(len(right)).permutation(len(right))
    found = clustered_share_interval(float(np.mean(right)), np.array(right), alone, confidence)
    assert found == wilson_interval(sum(right), len(right), confidence)


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=40))
def test_intervals_are_plain_for_one_post_per_user(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([s for s, _ in rows], float), np.array([y for _, y in rows])
    alone, n_positive = np.arange(len(rows)), int(labels.sum())
    area = roc_auc(scores, labels)
    found = clustered_auc_interval([scores], labels, alone)
    assert found == (None if area is None else auc_interval(area, n_positive, len(rows) - n_positive))
    assert clustered_spearman_interval(0.3, [scores], scores[::-1], alone) == spearman_interval(0.3, len(rows))


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.integers(0, 7), st.floats(-9, 9).map(round)), min_size=3, max_size=40))
def test_effective_size_follows_design_effect_definition(rows: list[tuple[int, int]]) -> None:
    users, values = np.array([u for u, _ in rows]), np.array([v for _, v in rows], float)
    n, names = len(values), sorted(set(users))
    found = effective_size(values, users)
    sizes = [np.sum(users == name) for name in names]
    if len(names) == n:
        assert found == n
    elif len(names) == 1 or np.ptp(values) == 0:
        assert found == pytest.approx(n * n / np.dot(sizes, sizes))
    else:
        # Variance of the ratio estimator: Cochran, Sampling Techniques, equation 6.9, for an infinite population.
        k, residuals = len(names), [values[users == u].sum() - np.sum(users == u) * values.mean() for u in names]
        clustered, plain = k / (k - 1) * np.dot(residuals, residuals) / n**2, values.var(ddof=1) / n
        quantiles = stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, k - 1)
        assert found == pytest.approx(n / max(1, clustered / plain) * quantiles**2)
    assert 0 < found <= n


def test_copies_and_several_classifiers_do_not_narrow_interval() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(300) < 0.7
    low, high = clustered_share_interval(float(one.mean()), np.repeat(one, 4), np.repeat(np.arange(300), 4))
    # Equal except for rounding and for t instead of the normal distribution.
    assert (low, high) == pytest.approx(wilson_interval(int(one.sum()), 300), abs=3e-4)
    users = draw_users(rng, 60)
    many = (rng.random((5, len(users))) < rng.beta(7, 3, 60)[users]).mean(axis=0)
    low, high = clustered_share_interval(float(many.mean()), many, users)
    plain = wilson_interval(round(many.mean() * len(users)), len(users))
    assert high - low > 1.2 * (plain[1] - plain[0])


def test_one_user_or_no_spread_gives_wide_interval() -> None:
    assert clustered_share_interval(1.0, np.ones(40), np.repeat(np.arange(4), 10)) == wilson_interval(4, 4)
    assert clustered_share_interval(0.5, np.tile([0, 1], 20), np.zeros(40, np.int64)) == wilson_interval(0.5, 1)
    assert clustered_auc_interval([np.arange(8.0)], np.arange(8) > 3, np.repeat([0, 1], 4)) == auc_interval(1.0, 1, 1)
    assert clustered_auc_interval([np.arange(8.0)], np.ones(8), np.arange(8)) is None
    with pytest.raises(ValueError, match="0 posts"):
        clustered_share_interval(0.0, np.empty(0), np.empty(0, np.int64))


def test_one_wrong_answer_narrows_all_right_interval() -> None:
    """The example in docs/labels.md."""
    users, right = np.repeat(np.arange(50), 20), np.ones(1000)
    assert clustered_share_interval(1.0, right, users) == pytest.approx((0.929, 1.0), abs=5e-4)
    right[0] = 0
    assert clustered_share_interval(0.999, right, users) == pytest.approx((0.994, 0.9998), abs=5e-4)


@pytest.mark.parametrize("unit", [1e-150, 1e-9, 1e9, 1e150])
def test_effective_size_does_not_depend_on_unit(unit: float) -> None:
    rng = np.random.default_rng(6)
    users = draw_users(rng, 20)
    for values in (rng.normal(size=len(users)), (rng.random(len(users)) < 0.1) + 3.0, np.full(len(users), 0.1)):
        assert effective_size(values * unit, users) == pytest.approx(effective_size(values, users))


def test_one_misordered_pair_gives_plain_area_interval() -> None:
    n = 3_000
    labels, users = np.arange(2 * n) >= n, np.arange(2 * n) // 2
    scores = np.arange(2.0 * n)
    all_right = clustered_auc_interval([scores], labels, users)
    scores[[n - 1, n]] = scores[[n, n - 1]]
    one_wrong, alone = (
        clustered_auc_interval([scores], labels, users),
        clustered_auc_interval([scores], labels, np.arange(2 * n)),
    )
    # If all are right, a user's posts count as copies. With one wrong pair, they count as independent.
    assert all_right == auc_interval(1.0, n / 2, n / 2)
    assert one_wrong == pytest.approx(alone, abs=1e-6)


REPETITIONS, USERS = 400, 100


def share_of_users(rng: np.random.Generator) -> tuple[float, dict[str, tuple[float, float]]]:
    """A share of 0.75 with intraclass correlation 0.3, from a beta distribution with a + b = 7/3."""
    users = draw_users(rng, USERS)
    right = rng.random(len(users)) < rng.beta(0.75 * 7 / 3, 0.25 * 7 / 3, USERS)[users]
    share = float(right.mean())
    return 0.75, {
        "ours": clustered_share_interval(share, right, users),
        "plain": wilson_interval(int(right.sum()), len(right)),
    }


def area_of_users(rng: np.random.Generator) -> tuple[float, dict[str, tuple[float, float]]]:
    """Score and class both depend mostly on the user. The classes differ by one standard deviation."""
    users = draw_users(rng, USERS)
    labels = rng.random(USERS)[users] + 0.5 * (rng.random(len(users)) - 0.5) > 0.5
    scores = labels + (rng.normal(size=USERS)[users] + rng.normal(size=len(users))) / math.sqrt(2)
    area = roc_auc(scores, labels)
    found = clustered_auc_interval([scores], labels, users)
    assert area is not None
    assert found is not None
    plain = auc_interval(area, int(labels.sum()), int((~labels).sum()))
    return float(stats.norm.cdf(1 / math.sqrt(2))), {"ours": found, "plain": plain}


def correlation_of_users(rng: np.random.Generator) -> tuple[float, dict[str, tuple[float, float]]]:
    """Prediction and score are normal with correlation 0.5. Half of the variance of both is the user's."""
    users, rho = draw_users(rng, USERS), 0.5
    pairs = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], USERS)[users]
    pairs = (pairs + rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], len(users))) / math.sqrt(2)
    seen = float(stats.spearmanr(*pairs.T).statistic)
    found = clustered_spearman_interval(seen, [pairs[:, 0]], pairs[:, 1], users)
    return 6 / math.pi * math.asin(rho / 2), {"ours": found, "plain": spearman_interval(seen, len(users))}


@pytest.mark.parametrize("world", [share_of_users, area_of_users, correlation_of_users])
def test_clustered_intervals_cover_95_percent_unlike_plain_ones(world: Callable[..., Any]) -> None:
    rng, held = np.random.default_rng(4), {"ours": 0, "plain": 0}
    for _ in range(REPETITIONS):
        truth, found = world(rng)
        for name, (low, high) in found.items():
            held[name] += low <= truth <= high
    assert 0.91 < held["ours"] / REPETITIONS < 0.98
    assert held["plain"] / REPETITIONS < 0.88


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_paired_p_equals_exact_sign_permutation(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, users = (np.array(column) for column in zip(*rows, strict=True))
    d = np.array([np.sum(second[users == u]) - np.sum(first[users == u]) for u in range(6)])
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    assert paired_p(first, second, users) == pytest.approx(np.mean(np.abs(signs @ d) >= abs(d.sum())))
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    plain = mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue if only_first + only_second else 1.0
    assert paired_p(first, second, np.arange(len(rows))) == pytest.approx(plain)


def test_paired_p_equals_obuchowski_for_many_users() -> None:
    rng = np.random.default_rng(2)
    users = draw_users(rng, 2_000)
    first = rng.random(len(users)) < rng.beta(3, 1, 2_000)[users]
    second = np.where(rng.random(len(users)) < 0.12, ~first, first) | (rng.random(len(users)) < 0.005)
    d = np.bincount(users, second.astype(int) - first.astype(int))
    chi2 = (len(d) - 1) / len(d) * d.sum() ** 2 / np.dot(d, d)
    assert paired_p(first, second, users) == pytest.approx(stats.chi2.sf(chi2, 1), rel=0.05)


def test_paired_p_has_5_percent_errors_unlike_mcnemar() -> None:
    rng, held = np.random.default_rng(3), {"ours": 0, "plain": 0}
    for _ in range(REPETITIONS):
        users = draw_users(rng, 60)
        # Both classifiers are equally good. Which is better on a post depends mostly on its user.
        lean = rng.choice([-0.25, 0.25], 60)[users]
        first, second = (rng.random(len(users)) < 0.65 + sign * lean for sign in (-1, 1))
        held["ours"] += paired_p(first, second, users) < 0.05
        held["plain"] += paired_p(first, second, np.arange(len(users))) < 0.05
    assert held["ours"] / REPETITIONS < 0.08
    assert held["plain"] / REPETITIONS > 0.15


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 9)), min_size=4, max_size=40))
def test_area_and_its_error_follow_definitions(rows: list[tuple[int, bool, int]]) -> None:
    score, truth = np.array([s for s, _, _ in rows], float), np.array([t for _, t, _ in rows])
    if truth.sum() < 2 or (~truth).sum() < 2:
        return
    # ψ(x, y) of each pair of a positive and a negative: DeLong et al., equations 1 and 4.
    psi = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in score[~truth]] for x in score[truth]])
    assert roc_auc(score, truth) == pytest.approx(psi.mean())
    variance = np.var(psi.mean(axis=1), ddof=1) / len(psi) + np.var(psi.mean(axis=0), ddof=1) / psi.shape[1]
    assert clustered_auc_error(score, truth, np.arange(len(score))) == pytest.approx(np.sqrt(variance), abs=1e-12)
    users = np.array([u for _, _, u in rows])
    if min(len(set(users[truth])), len(set(users[~truth]))) < 2:
        return
    # Sums of a user's components: Obuchowski, section 3.
    m, n = psi.shape
    ones, zeros = psi.mean(axis=1) - psi.mean(), psi.mean(axis=0) - psi.mean()
    own = [(ones[users[truth] == u], zeros[users[~truth] == u]) for u in sorted(set(users))]
    many = sum(len(a) > 0 for a, _ in own), sum(len(b) > 0 for _, b in own), len(own)
    s10, s01, s11 = (
        k / (k - 1) / count * sum(terms)
        for k, count, terms in (
            (many[0], m, [a.sum() ** 2 for a, _ in own]),
            (many[1], n, [b.sum() ** 2 for _, b in own]),
            (many[2], 1, [a.sum() * b.sum() for a, b in own]),
        )
    )
    expected = max(0.0, s10 / m + s01 / n + 2 * s11 / (m * n))
    assert clustered_auc_error(score, truth, users) == pytest.approx(np.sqrt(expected), abs=1e-7)


def test_area_error_equals_simulated_spread() -> None:
    rng, users = np.random.default_rng(0), np.repeat(np.arange(120), 5)
    areas, errors = [], []
    for _ in range(300):
        # Both the score and the class depend mostly on the user.
        taste = rng.normal(size=120)[users]
        truth = taste + rng.normal(0, 0.7, len(users)) > 0
        score = rng.normal(size=120)[users] + 0.5 * taste + rng.normal(0, 0.3, len(users))
        areas.append(roc_auc(score, truth))
        errors.append(clustered_auc_error(score, truth, users))
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.12)
    assert np.mean(errors) > 1.5 * clustered_auc_error(score, truth, np.arange(len(users)))
