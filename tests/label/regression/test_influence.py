"""The influence of single users, compared with fits without them."""

from __future__ import annotations

import numpy as np
import statsmodels.api as sm

from raypipe.label.regression.influence import most_influential
from raypipe.label.regression.least_squares import qr_factor, solve


def test_influence_equals_refitting_without_user() -> None:
    rng = np.random.default_rng(0)
    n = 600
    users = np.array([f"u{i}" for i in rng.integers(0, 60, n)], dtype=object)
    # One user has half of all posts, one has a single outlier, and some posts have no user.
    users[:300] = "many"
    users[300] = "far"
    users[301:310] = None
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.poisson(3, n)])
    X[300, 1] = 25.0
    y = X @ [1.0, 0.5, 0.1] + rng.normal(size=n)
    y[300] += 9.0
    whole = sm.OLS(y, X).fit()
    solution = solve(qr_factor(X, y), ("a", "b", "c"))
    found = most_influential(X, whole.resid, users, solution.R, whole.bse, n=100)
    assert len(found) == len(set(users) - {None})
    by_hand = {}
    for user in set(users) - {None}:
        rest = users != user
        by_hand[user] = (whole.params - sm.OLS(y[rest], X[rest]).fit().params) / whole.bse
    for influence in found:
        np.testing.assert_allclose(influence.shift, by_hand[influence.user], rtol=1e-7, atol=1e-9)
        assert influence.posts == np.sum(users == influence.user)
    largest = [influence.largest for influence in found]
    assert largest == sorted(largest, reverse=True)
    assert found[0].user == max(by_hand, key=lambda user: np.abs(by_hand[user]).max()) == "far"
    assert [item.user for item in most_influential(X, whole.resid, users, solution.R, whole.bse, n=3)] == [
        influence.user for influence in found[:3]
    ]


def test_no_influence_with_unknown_or_single_user() -> None:
    X, y = np.ones((5, 1)), np.arange(5.0)
    solution = solve(qr_factor(X, y), ("a",))
    nobody, one = np.array([None] * 5, dtype=object), np.array(["u"] * 5, dtype=object)
    assert most_influential(X, y - 2, nobody, solution.R, np.ones(1)) == []
    assert most_influential(X, y - 2, one, solution.R, np.ones(1)) == []
