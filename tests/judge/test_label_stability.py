"""Labels under other formulas and other data, and agreement of schemes, compared with plain computations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from raypipe.errors import InputError
from raypipe.judge.label_stability import (
    ExtremeLabels,
    LabelAgreement,
    bootstrap,
    compare_formulas,
    compare_labels,
    label_extremes,
    label_extremes_of_draw,
)
from raypipe.judge.overlap import labels_by_scheme, overlaps

PAPER = "log10(1 + likes) ~ log10(1 + followers) + n_hashtags"


def posts(n: int = 2_000, noise: float = 0.4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    followers = (10 ** rng.normal(2.5, 0.7, n)).astype(int)
    comments = rng.poisson(4, n)
    y = 0.35 + 0.45 * np.log10(1 + followers) + 0.2 * np.log10(1 + comments) + rng.normal(0, noise, n)
    frame = pd.DataFrame(
        {
            "post_id": [f"p{i:05d}" for i in range(n)],
            "user_id": [f"u{i}" for i in rng.integers(0, n // 2, n)],
            "followers": followers,
            "n_hashtags": rng.integers(0, 9, n),
            "comments": comments,
            "likes": np.maximum(0, 10**y - 1).astype(int),
        }
    )
    fit = smf.ols("np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags", frame).fit()
    return frame.assign(y=fit.model.endog, score=fit.resid)


def test_formulas_are_compared_on_commonly_usable_posts() -> None:
    frame = posts()
    frame["comments"] = frame["comments"].astype(float).mask(frame.index % 5 == 0)
    usable = frame.dropna()
    first, second = compare_formulas(frame, [PAPER, f"{PAPER} + log10(1 + comments)"], 0.1)
    theirs = [
        smf.ols("np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags" + more, usable).fit()
        for more in ("", " + np.log10(1 + comments)")
    ]
    for found, reference in zip((first, second), theirs, strict=True):
        assert found.nobs == reference.nobs == 1_600
        assert (found.aic, found.bic) == pytest.approx((reference.aic, reference.bic), rel=1e-9)
        assert found.rsquared_adj == pytest.approx(reference.rsquared_adj, rel=1e-9)
    assert first.kept == LabelAgreement(1.0, 0.0, 0.0)
    assert second.aic is not None
    assert first.aic is not None
    assert second.aic < first.aic
    a, b = (fit.resid.rank(method="first") for fit in theirs)
    tops = (a > 1_440) & (b > 1_440)
    bottoms = (a <= 160) & (b <= 160)
    assert second.kept.same == pytest.approx((tops.sum() + bottoms.sum()) / 320)
    assert second.score_correlation == pytest.approx(np.corrcoef(theirs[0].resid, theirs[1].resid)[0, 1])


def test_aic_is_none_for_another_y() -> None:
    found = compare_formulas(posts(), [PAPER, "likes ~ followers"], 0.1)[1]
    assert found.aic is None
    assert found.bic is None
    with pytest.raises(InputError, match="collinear"):
        compare_formulas(posts(), [PAPER, f"{PAPER} + I(2 * n_hashtags)"], 0.1)


def test_label_changes_are_counted() -> None:
    def of(bottom: list[int], top: list[int]) -> ExtremeLabels:
        return ExtremeLabels(np.isin(np.arange(6), bottom), np.isin(np.arange(6), top))

    assert compare_labels(of([0, 1], [4, 5]), of([0, 4], [5])) == LabelAgreement(0.5, 0.25, 0.25)
    assert compare_labels(of([], []), of([0], [1])) == LabelAgreement(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("n", "q"), [(205, 0.1), (100, 0.07), (10, 0.5), (33, 0.2)])
def test_drawing_each_post_once_changes_no_label(n: int, q: float) -> None:
    rng = np.random.default_rng(n)
    score, ids = rng.integers(0, 9, n).astype(float), pd.Series([f"p{i:03d}" for i in rng.permutation(n)])
    first = label_extremes(score, ids, q)
    again = label_extremes_of_draw(score, ids, np.ones(n, np.int64), q)
    np.testing.assert_array_equal(again.bottom, first.bottom)
    np.testing.assert_array_equal(again.top, first.top)
    # Each post drawn twice gives the same deciles.
    twice = label_extremes_of_draw(score, ids, np.full(n, 2), q)
    assert abs(int(twice.top.sum()) - int(first.top.sum())) <= 1


def test_draws_with_an_empty_class_are_excluded() -> None:
    frame = posts(400)
    rare = np.where(np.arange(400) < 2, "rare", "usual")
    found = bootstrap(frame.assign(kind=rare), f"{PAPER} + kind", 0.1, 40, seed=3)
    assert found.failed > 0
    assert found.failed + found.replicates == 40


def test_weights_apply_to_fit_and_bootstrap() -> None:
    frame = posts().assign(w=np.random.default_rng(5).gamma(1.0, 2.0, 2_000) + 0.01)
    (found,) = compare_formulas(frame, [PAPER], 0.1, "w")
    text = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags"
    assert found.aic == pytest.approx(smf.wls(text, frame, weights=frame["w"]).fit().aic, rel=1e-9)
    assert bootstrap(frame, PAPER, 0.1, 5, 1, "w") != bootstrap(frame, PAPER, 0.1, 5, 1)


def test_bootstrap_changes_few_labels_and_is_reproducible() -> None:
    frame = posts()
    found = bootstrap(frame, PAPER, 0.1, 30, seed=1)
    assert found.unit == "users"
    assert found.opposite == 0.0
    mean, low, high = found.same
    assert 0.85 < low <= mean <= high <= 1.0
    assert mean < 1.0
    assert bootstrap(frame, PAPER, 0.1, 30, seed=1) == found != bootstrap(frame, PAPER, 0.1, 30, seed=2)
    assert bootstrap(frame.assign(user_id=None), PAPER, 0.1, 5, seed=1).unit == "posts"
    # With 5 % of the posts, coefficients and deciles are less certain.
    assert bootstrap(frame.head(100), PAPER, 0.1, 30, seed=1).same[0] < mean


def test_scheme_agreement_equals_plain_counting() -> None:
    frame = posts()
    found = labels_by_scheme(frame.assign(label=None), 0.1, 100)
    assert {name: int((e.top | e.bottom).sum()) for name, e in found.items()} == {
        "residual": 400,
        "likes": 400,
        "karpathy": 2_000,
    }
    table = {(item.first, item.second): item for item in overlaps(found)}
    assert len(table) == 6
    one = table["residual", "karpathy"]
    top, bottom = found["residual"].top, found["residual"].bottom
    same = int((top & found["karpathy"].top).sum() + (bottom & found["karpathy"].bottom).sum())
    assert one.same == same / 400 > 0.8
    assert one.same + one.opposite == 1.0
    itself = overlaps({"a": found["likes"], "b": found["likes"]})[0]
    assert (itself.same, itself.opposite) == (1.0, 0.0)


def test_ties_are_broken_by_post_id() -> None:
    found = label_extremes(np.zeros(10), pd.Series([f"p{i}" for i in range(10)]), 0.2)
    assert found.bottom.tolist() == [True] * 2 + [False] * 8
    assert found.top.tolist() == [False] * 8 + [True] * 2
