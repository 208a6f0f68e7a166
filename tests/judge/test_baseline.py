"""The metadata-only baseline: what leaks is seen, what does not is not, and areas are those of plain definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.judge.baseline import area, area_error, baselines, explained


def posts(n: int = 3_000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "post_id": [f"p{i}" for i in range(n)],
            "user_id": [f"u{i}" for i in rng.integers(0, n // 3, n)],
            "followers": (10 ** rng.normal(2.5, 0.7, n)).astype(int),
            "n_hashtags": rng.geometric(0.12, n) - 1,
            "created_at": pd.Timestamp("2016-05-01", tz="UTC")
            + pd.to_timedelta(rng.integers(0, 14 * 24 * 60, n), "min"),
            "label": rng.choice(["bottom", "top"], n),
        }
    )


def test_nothing_is_told_where_nothing_leaks() -> None:
    (found,) = baselines(posts(), seed=0)
    assert found.label == "top"
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.06
    assert found.covariates == ("followers", "n_hashtags", "hour", "weekday")


@pytest.mark.parametrize("leak", ["followers", "hour"])
def test_a_leak_is_seen_whatever_its_shape(leak: str) -> None:
    frame = posts()
    rng = np.random.default_rng(1)
    # High in the middle of followers, or at night: no straight line tells it.
    x = (
        np.abs(np.log10(1 + frame["followers"]) - 2.5)
        if leak == "followers"
        else np.cos(frame["created_at"].dt.hour * np.pi / 12)
    )
    told = x + rng.normal(0, x.std() * 0.7, len(x)) > x.median()
    frame["label"] = np.where(told, "top", "bottom")
    (found,) = baselines(frame, seed=0)
    assert found.low > 0.75


def test_each_of_several_classes_and_posts_without_a_time_or_user() -> None:
    frame = posts(900).assign(created_at=pd.NaT, user_id=None)
    frame["label"] = np.where(
        frame["followers"] > frame["followers"].median(), "b", np.where(frame.index % 2, "a", "c")
    )
    found = baselines(frame, seed=3)
    assert [item.label for item in found] == ["a", "b", "c"]
    assert found[1].auc > 0.95
    assert found[0].covariates == ("followers", "n_hashtags")
    assert baselines(frame.assign(label=None), seed=0) == []
    assert baselines(frame.assign(label=0.5), seed=0) == []


def test_what_metadata_explain_of_a_score() -> None:
    frame = posts()
    rng = np.random.default_rng(4)
    reach = np.log10(1 + frame["followers"])
    told = (reach - reach.mean()) / reach.std()
    found = explained(frame.assign(label=told + rng.normal(size=len(frame))), seed=0)
    assert found == pytest.approx(0.5, abs=0.05)
    nothing = explained(frame.assign(label=rng.normal(size=len(frame))), seed=0)
    assert nothing == pytest.approx(0, abs=0.03)
    assert explained(frame, seed=0) is None
    assert baselines(frame.assign(label=rng.normal(size=len(frame))), seed=0) == []


def test_each_hashtag_is_asked_for() -> None:
    frame = posts(1_500)
    rain = np.random.default_rng(1).random(1_500) < 0.3
    carried = [["far"] * int(f) + ["rain"] * int(r) for f, r in zip(frame["followers"] > 400, rain, strict=True)]
    first, second = baselines(frame.assign(label=carried), seed=0)
    assert (first.label, second.label) == ("far", "rain")
    assert first.low > 0.95
    assert second.low < 0.5
    assert second.auc < 0.55


def test_hours_and_days_are_asked_for_where_a_few_posts_have_no_time() -> None:
    frame = posts()
    frame["label"] = np.where(frame["created_at"].dt.hour < 12, "top", "bottom")
    frame.loc[:9, "created_at"] = pd.NaT
    (found,) = baselines(frame, seed=0)
    assert found.covariates == ("followers", "n_hashtags", "hour", "weekday")
    assert found.low > 0.9


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 9)), min_size=4, max_size=40))
def test_area_and_its_error_by_their_definitions(rows: list[tuple[int, bool, int]]) -> None:
    score, truth = np.array([s for s, _, _ in rows], float), np.array([t for _, t, _ in rows])
    if truth.sum() < 2 or (~truth).sum() < 2:
        return
    # ψ(x, y) of each pair of a positive and a negative: DeLong et al., equations 1 and 4.
    psi = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in score[~truth]] for x in score[truth]])
    assert area(score, truth) == pytest.approx(psi.mean())
    variance = np.var(psi.mean(axis=1), ddof=1) / len(psi) + np.var(psi.mean(axis=0), ddof=1) / psi.shape[1]
    assert area_error(score, truth, np.arange(len(score))) == pytest.approx(np.sqrt(variance), abs=1e-12)
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
    assert area_error(score, truth, users) == pytest.approx(np.sqrt(expected), abs=1e-7)


def test_the_error_is_that_of_repetition_where_posts_of_a_user_are_alike() -> None:
    rng, users = np.random.default_rng(0), np.repeat(np.arange(120), 5)
    areas, errors = [], []
    for _ in range(300):
        # Both the score and the class are mostly the user's.
        taste = rng.normal(size=120)[users]
        truth = taste + rng.normal(0, 0.7, len(users)) > 0
        score = rng.normal(size=120)[users] + 0.5 * taste + rng.normal(0, 0.3, len(users))
        areas.append(area(score, truth))
        errors.append(area_error(score, truth, users))
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.12)
    assert np.mean(errors) > 1.5 * area_error(score, truth, np.arange(len(users)))
