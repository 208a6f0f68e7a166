"""The metadata-only baseline finds leaks and reports none without a leak."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from raypipe.judge.baseline import metadata_baselines, metadata_r_squared


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


def test_baseline_is_at_chance_without_leak() -> None:
    (found,) = metadata_baselines(posts(), seed=0)
    assert found.label == "top"
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.06
    assert found.covariates == ("followers", "n_hashtags", "hour", "weekday")


@pytest.mark.parametrize("leak", ["followers", "hour"])
def test_baseline_detects_nonlinear_leaks(leak: str) -> None:
    frame = posts()
    rng = np.random.default_rng(1)
    # The label depends on a middle range of followers or on the night, which no straight line can describe.
    x = (
        np.abs(np.log10(1 + frame["followers"]) - 2.5)
        if leak == "followers"
        else np.cos(frame["created_at"].dt.hour * np.pi / 12)
    )
    told = x + rng.normal(0, x.std() * 0.7, len(x)) > x.median()
    frame["label"] = np.where(told, "top", "bottom")
    (found,) = metadata_baselines(frame, seed=0)
    assert found.low > 0.75


def test_baseline_per_class_works_without_times_and_users() -> None:
    frame = posts(900).assign(created_at=pd.NaT, user_id=None)
    frame["label"] = np.where(
        frame["followers"] > frame["followers"].median(), "b", np.where(frame.index % 2, "a", "c")
    )
    found = metadata_baselines(frame, seed=3)
    assert [item.label for item in found] == ["a", "b", "c"]
    assert found[1].auc > 0.95
    assert found[0].covariates == ("followers", "n_hashtags")
    assert metadata_baselines(frame.assign(label=None), seed=0) == []
    assert metadata_baselines(frame.assign(label=0.5), seed=0) == []


def test_explained_variance_of_score_by_metadata() -> None:
    frame = posts()
    rng = np.random.default_rng(4)
    reach = np.log10(1 + frame["followers"])
    told = (reach - reach.mean()) / reach.std()
    found = metadata_r_squared(frame.assign(label=told + rng.normal(size=len(frame))), seed=0)
    assert found == pytest.approx(0.5, abs=0.05)
    nothing = metadata_r_squared(frame.assign(label=rng.normal(size=len(frame))), seed=0)
    assert nothing == pytest.approx(0, abs=0.03)
    assert metadata_r_squared(frame, seed=0) is None
    assert metadata_baselines(frame.assign(label=rng.normal(size=len(frame))), seed=0) == []


def test_each_hashtag_has_its_own_baseline() -> None:
    frame = posts(1_500)
    rain = np.random.default_rng(1).random(1_500) < 0.3
    carried = [["far"] * int(f) + ["rain"] * int(r) for f, r in zip(frame["followers"] > 400, rain, strict=True)]
    first, second = metadata_baselines(frame.assign(label=carried), seed=0)
    assert (first.label, second.label) == ("far", "rain")
    assert first.low > 0.95
    assert second.low < 0.5
    assert second.auc < 0.55


def test_hour_and_weekday_are_used_despite_missing_times() -> None:
    frame = posts()
    frame["label"] = np.where(frame["created_at"].dt.hour < 12, "top", "bottom")
    frame.loc[:9, "created_at"] = pd.NaT
    (found,) = metadata_baselines(frame, seed=0)
    assert found.covariates == ("followers", "n_hashtags", "hour", "weekday")
    assert found.low > 0.9


def test_baseline_interval_groups_posts_by_user() -> None:
    frame = posts(1_500)
    one_each = frame.assign(user_id=[f"u{i}" for i in range(len(frame))])
    alike = pd.concat([one_each.assign(post_id=one_each["post_id"] + f"-{i}") for i in range(4)], ignore_index=True)
    (one,), (four,) = metadata_baselines(one_each, seed=0), metadata_baselines(alike, seed=0)
    (apart,) = metadata_baselines(alike.assign(user_id=None), seed=0)
    # Four copies of a post by one user add no information. By different users they would be four times as much.
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.05)
    assert apart.high - apart.low == pytest.approx((one.high - one.low) / 2, rel=0.05)
