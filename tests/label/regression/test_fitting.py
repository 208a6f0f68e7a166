"""The regression over blocks: real posts compared with statsmodels, and the saved values of a fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import statsmodels.formula.api as smf

from raypipe.errors import InputError
from raypipe.label.formula.formula import parse
from raypipe.label.regression.fitting import BlockMapper, fit, format_fit, make_design, predict
from raypipe.label.regression.saved import model_json

PAPER = "log10(1 + likes) ~ log10(1 + followers) + n_hashtags"


def over_blocks(posts: pa.Table, size: int) -> BlockMapper:
    blocks = [posts.slice(start, size) for start in range(0, len(posts), size)]

    def map_blocks(function: Callable[[pa.Table], Any], more: tuple[str, ...] = ()) -> list[Any]:  # noqa: ARG001
        return [function(block) for block in blocks]

    return map_blocks


def made_posts(n: int = 400) -> pa.Table:
    rng = np.random.default_rng(0)
    followers = rng.integers(10, 10_000, n)
    return pa.table(
        {
            "likes": (followers**0.5 * 10 ** rng.normal(0, 0.3, n)).astype(int),
            "followers": followers,
            "n_hashtags": rng.integers(0, 10, n),
            "kind": rng.choice(["a", "b", "c"], n),
            "user_id": [f"u{i}" for i in rng.integers(0, 90, n)],
        }
    )


@pytest.mark.parametrize("size", [100, 1_000_000])
@pytest.mark.parametrize("cov_type", ["nonrobust", "HC3", "cluster"])
def test_fit_of_real_posts_equals_statsmodels(shared_data: Path, size: int, cov_type: str) -> None:
    real = pd.read_csv(shared_data / "engagement.csv")
    frame = real.assign(user_id=real["account"].astype(str))[["likes", "followers", "n_hashtags", "user_id"]]
    options = {"cov_kwds": {"groups": pd.factorize(frame["user_id"])[0]}} if cov_type == "cluster" else {}
    expression = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags"
    reference = smf.ols(expression, frame).fit(cov_type=cov_type, **options)
    posts = pa.Table.from_pandas(frame, preserve_index=False)
    map_blocks = over_blocks(posts, size)
    found = fit(map_blocks, make_design(map_blocks, parse(PAPER), posts.schema), cov_type)
    assert found.nobs == len(frame) > 7_000
    for name in ("params", "bse", "tvalues", "conf_int"):
        expected = reference.conf_int() if name == "conf_int" else getattr(reference, name)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, err_msg=name)
    for name in ("rsquared", "rsquared_adj", "fvalue", "ssr", "aic", "bic", "llf"):
        assert getattr(found, name) == pytest.approx(getattr(reference, name), rel=1e-9), name


@pytest.mark.parametrize("text", [PAPER, "likes ~ kind * n_hashtags", "likes ~ bs(followers, df=4) + C(n_hashtags)"])
def test_fit_does_not_depend_on_blocks(text: str) -> None:
    posts = made_posts(120)
    fits = []
    for size in (120, 37, 1):
        map_blocks = over_blocks(posts, size)
        fits.append(fit(map_blocks, make_design(map_blocks, parse(text), posts.schema), "HC2"))
    for other in fits[1:]:
        assert other.terms == fits[0].terms
        np.testing.assert_allclose(other.params, fits[0].params, rtol=1e-9)
        np.testing.assert_allclose(other.bse, fits[0].bse, rtol=1e-9)


def test_equal_posts_have_equal_predictions() -> None:
    rng = np.random.default_rng(1)
    X = np.repeat(rng.normal(size=(7, 5)), 31, axis=0)
    params = rng.normal(size=5)
    order = rng.permutation(len(X))
    fitted = predict(X, params)
    np.testing.assert_array_equal(predict(X[order], params), fitted[order])
    assert len(np.unique(fitted)) == 7
    np.testing.assert_allclose(fitted, X @ params, rtol=1e-12, atol=1e-12)


def test_no_posts_raise_error() -> None:
    posts = made_posts().slice(0, 0)
    map_blocks = over_blocks(posts, 10)
    with pytest.raises(InputError, match="no post to fit"):
        fit(map_blocks, make_design(map_blocks, parse(PAPER), posts.schema), "nonrobust")


def test_model_file_is_valid_json_keyed_by_term() -> None:
    posts = made_posts()
    map_blocks = over_blocks(posts, 100)
    found = fit(map_blocks, make_design(map_blocks, parse(PAPER), posts.schema), "nonrobust")
    values = json.loads(model_json(found, formula=PAPER, thresholds={"top": [0.3, float("inf")]}))
    terms = ["Intercept", "log10(1 + followers)", "n_hashtags"]
    for name in ("params", "bse", "tvalues", "pvalues", "conf_int"):
        assert list(values[name]) == terms
    assert values["params"]["n_hashtags"] == found.params[2]
    assert values["conf_int"]["Intercept"] == found.conf_int[0].tolist()
    assert values["cov_params"]["n_hashtags"]["Intercept"] == found.cov_params[2, 0]
    assert values["thresholds"]["top"] == [0.3, None]
    assert (values["nobs"], values["cov_type"], values["formula"]) == (400, "nonrobust", PAPER)
    assert json.loads(model_json(None, scheme="column")) == {"scheme": "column"}


def test_formula_is_shown_readably() -> None:
    posts = made_posts()
    map_blocks = over_blocks(posts, 100)
    line = format_fit(
        "y", fit(map_blocks, make_design(map_blocks, parse("likes ~ n_hashtags - 1"), posts.schema), "nonrobust")
    )
    assert line.startswith("y = ")
    assert "·n_hashtags   (R² " in line
    assert line.endswith("400 posts)")
