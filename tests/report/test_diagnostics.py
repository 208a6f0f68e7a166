"""The report's diagnostics and judgement, on posts with planted faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.judge.pipeline import run as judge
from raypipe.label.pipeline import run as label
from raypipe.report import diagnostics, judge_results
from raypipe.report.pipeline import run
from raypipe.tables.root_tables import RootTables
from tests.label.roots import labelled, made_posts, put

DAY_US = 86_400_000_000


def with_faults(seed: int = 0) -> pa.Table:
    """Posts with more likes at night and when read late, and one user with far too many likes."""
    posts = made_posts(seed=seed)
    n = len(posts)
    rng = np.random.default_rng(seed)
    created = rng.integers(0, 14 * DAY_US, n)
    age = rng.uniform(1, 9, n)
    hour = created // 3_600_000_000 % 24
    users = np.array(posts["user_id"].to_pylist(), dtype=object)
    users[:40] = "star"
    factor = 10 ** (0.05 * (age - 5) + 0.15 * np.cos(hour * np.pi / 12))
    factor[:40] *= 300
    likes = (posts["likes"].to_numpy() * factor).astype(int)
    when = pa.timestamp("us", "UTC")
    changed = {
        "created_at": pa.array(created, when),
        "revisited_at": pa.array(created + (age * DAY_US).astype(int), when),
        "user_id": pa.array(users, pa.string()),
        "likes": pa.array(likes),
    }
    for name, values in changed.items():
        posts = posts.set_column(posts.column_names.index(name), posts.schema.field(name), values)
    return posts


def test_group_intervals_group_posts_by_user() -> None:
    n = 800
    values, users = np.repeat([0.0, 1.0], n // 2), np.arange(n) // 4
    scores = np.random.default_rng(1).normal(size=n)[users]
    alone = diagnostics._groups("x", values, scores, np.arange(n))
    together = diagnostics._groups("x", values, scores, users)
    assert alone is not None
    assert together is not None
    assert together.mean.tolist() == alone.mean.tolist()
    # Each user's posts are four copies.
    assert together.half_width / alone.half_width == pytest.approx(2, rel=0.05)


@pytest.fixture
def root(config: Config) -> Config:
    put(config, "posts", with_faults())
    label(labelled(config, eligible="post"))
    return config


def test_unreadable_model_is_reported(root: Config, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(root.open_storage().path("labels/_model.json"))
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"formula": "likes ~ followers + I(__import__('os'))"}))
    assert diagnostics.build(RootTables.open(root.open_storage())) is None
    run(root)
    said = capsys.readouterr().out
    assert "the regression's diagnostics are left out of the report: " in said
    assert "labels/_model.json: " in said


def test_planted_faults_are_found(root: Config) -> None:
    found = diagnostics.build(RootTables.open(root.open_storage()))
    assert found is not None
    groups = {item.name: item for item in found.groups}
    assert set(groups) == {"hour", "n_hashtags", "age_days"}
    hours = groups["hour"]
    assert hours.group_values.tolist() == list(range(24))
    assert hours.mean[0] - hours.half_width[0] > 0 > hours.mean[12] + hours.half_width[12]
    assert found.age_slope is not None
    assert found.age_slope[0] == pytest.approx(0.05, abs=0.01)
    assert found.age_slope[1] < 1e-6
    assert len(groups["age_days"].group_values) == 10
    assert (np.diff(groups["age_days"].group_values) > 0).all()
    assert groups["n_hashtags"].n.sum() == len(found.scores)
    assert found.influences[0].user == "star"
    assert found.influences[0].posts > 30
    assert found.influences[0].largest > 3 * found.influences[1].largest


def test_means_and_influence_equal_plain_code(root: Config) -> None:
    found = diagnostics.build(RootTables.open(root.open_storage()))
    assert found is not None
    frame = with_faults().filter(pc.invert(with_faults()["deleted"])).to_pandas()
    formula = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags"
    fit = smf.ols(formula, frame).fit()
    by_hour = fit.resid.groupby(frame["created_at"].dt.hour)
    (hours,) = (item for item in found.groups if item.name == "hour")
    np.testing.assert_allclose(hours.mean, by_hour.mean(), atol=1e-10)
    for half_width, (_, own) in zip(hours.half_width, by_hour, strict=True):
        users, one = pd.factorize(frame.loc[own.index, "user_id"])[0], np.ones(len(own))
        errors = [sm.OLS(own, one).fit(cov_type=kind, cov_kwds=more).bse.iloc[0] for kind, more in (
            ("nonrobust", None), ("cluster", {"groups": users})
        )]  # fmt: skip
        few = stats.t.ppf(0.975, users.max()) / stats.t.ppf(0.975, len(own) - 1)
        assert half_width == pytest.approx(stats.norm.ppf(0.975) * max(errors) * few, rel=1e-8)
    without = smf.ols(formula, frame[frame["user_id"] != "star"]).fit()
    np.testing.assert_allclose(found.influences[0].shift, (fit.params - without.params) / fit.bse, rtol=1e-6)
    normal, seen = found.quantiles
    assert len(normal) == len(seen) == 199
    assert np.corrcoef(normal, seen)[0, 1] > 0.9


def test_page_shows_diagnostics_and_judgement(root: Config) -> None:
    run(load_config(root=root.root))
    page = root.open_storage().read("report/index.html").decode()
    assert "Residual diagnostics" in page
    assert "Most influential users" in page
    assert "The labels have not been judged" in page
    judge(load_config(root=root.root, judge={"bootstraps": 4}))
    run(load_config(root=root.root))
    page = root.open_storage().read("report/index.html").decode()
    assert "Quality of the labels" in page
    assert "is predicted with an area under the ROC curve of 0." in page
    assert "Opposite label" in page
    assert "have not been judged" not in page
    # New labels are not the judged ones.
    label(labelled(root, eligible="post", quantile=0.2, overwrite=True))
    assert judge_results.build(RootTables.open(root.open_storage())) is None


def test_diagnostics_need_regression_and_times(config: Config) -> None:
    posts = made_posts(300)
    nothing = pa.nulls(300, pa.timestamp("us", "UTC"))
    put(config, "posts", posts.set_column(posts.column_names.index("created_at"), "created_at", nothing))
    label(labelled(config, eligible="post"))
    found = diagnostics.build(RootTables.open(config.open_storage()))
    assert found is not None
    assert [item.name for item in found.groups] == ["n_hashtags"]
    assert found.age_slope is None
    label(labelled(config, eligible="post", scheme="karpathy", overwrite=True))
    assert diagnostics.build(RootTables.open(config.open_storage())) is None


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"auc": 0.7, "low": 0.65, "high": 0.75}, "far above chance (0.5)"),
        ({"auc": 0.55, "low": 0.52, "high": 0.58}, "a little above chance (0.5)"),
        ({"auc": 0.51, "low": 0.48, "high": 0.54}, "not clearly different from chance (0.5)"),
        ({"auc": None, "low": None, "high": None}, "too few posts to predict top"),
    ],
)
def test_baseline_sentence_follows_interval(numbers: dict[str, Any], words: str) -> None:
    text = judge_results._baseline({"label": "top", "covariates": ["followers", "n_hashtags"], **numbers})
    assert words in text
    assert "followers, hashtags alone" in text
