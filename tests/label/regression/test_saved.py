"""A saved and loaded model has the same fit and the same predictions for new posts, equal to statsmodels'."""

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

from raypipe import tables
from raypipe.errors import InputError, StageError
from raypipe.label.formula.formula import parse
from raypipe.label.regression.fitting import fit, make_design
from raypipe.label.regression.saved import MODEL_FILE, SavedModel, load_model, model_json, read_model_file
from raypipe.label.regression.saved_fit import BY_TERM, MATRICES
from raypipe.label.regression.summary import summary
from raypipe.storage import Storage
from tests.label.regression.test_fitting import PAPER, made_posts, over_blocks

LEARNED = (
    "likes ~ bs(log10(1 + followers), df=5) + C(kind, contr.sum) * n_hashtags + poly(followers, 2)"
    " + scale(log10(1 + n_hashtags))"
)


def saved(
    posts: pa.Table, text: str, tmp_path: Path, cov_type: str = "nonrobust", weights: str | None = None
) -> SavedModel:
    map_blocks = over_blocks(posts, 90)
    design = make_design(map_blocks, parse(text), posts.schema, weights)
    found = fit(map_blocks, design, cov_type)
    return load_model(put_model(tmp_path, model_json(found, design, formula=text)))


def put_model(root: Path, model: bytes) -> Storage:
    """Write labels without rows, and their model."""
    storage = Storage(str(root))
    with tables.begin(storage, "labels", command="label", config={}, inputs={}, overwrite=True) as run:
        run.writer.write_file(MODEL_FILE, model)
        run.commit(rows_in=0, rows_out=0)
    return storage


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC3"])
@pytest.mark.parametrize("weights", [None, "w"])
def test_predictions_equal_statsmodels(tmp_path: Path, cov_type: str, weights: str | None) -> None:
    rng = np.random.default_rng(0)
    old = made_posts().append_column("w", pa.array(rng.random(400) + 0.5))
    new = made_posts(900).slice(400).append_column("w", pa.array(rng.random(500) + 0.5))
    text = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags + C(kind)"
    found = saved(old, text, tmp_path, cov_type, weights).predict(new)
    frame = old.to_pandas()
    model = smf.wls(text, frame, weights=frame["w"]) if weights else smf.ols(text, frame)
    reference = model.fit(cov_type=cov_type)
    wanted = reference.get_prediction(new.to_pandas(), weights=new["w"].to_numpy() if weights else None).summary_frame(
        alpha=0.05
    )
    for column in wanted.columns:
        np.testing.assert_allclose(found[column], wanted[column], rtol=1e-9, err_msg=column)
    np.testing.assert_allclose(found["score"], np.log10(1 + new["likes"].to_numpy()) - wanted["mean"], atol=1e-10)


@pytest.mark.parametrize("text", [PAPER, LEARNED])
def test_posts_without_likes_are_predicted_without_score(tmp_path: Path, text: str) -> None:
    posts = made_posts()
    model = saved(posts, text, tmp_path)
    whole, bare = model.predict(posts), model.predict(posts.drop_columns("likes"))
    for column in ("mean", "mean_se", "obs_ci_lower"):
        np.testing.assert_array_equal(bare[column], whole[column])
    assert bare[["y", "score"]].isna().all(axis=None)
    weighted = saved(posts.append_column("w", pa.array(np.arange(1.0, 401.0))), text, tmp_path, weights="w")
    assert len(weighted.predict(posts)) == len(whole)
    with pytest.raises(InputError, match="posts/ has no column 'followers'"):
        model.predict(posts.drop_columns(["likes", "followers"]))


@pytest.mark.parametrize("text", [PAPER, LEARNED])
def test_saved_design_is_restored_bit_for_bit(tmp_path: Path, text: str) -> None:
    posts = made_posts()
    map_blocks = over_blocks(posts, 90)
    design = make_design(map_blocks, parse(text), posts.schema)
    again = saved(posts, text, tmp_path)
    assert again.design.terms == design.terms
    # Some blocks lack some of the classes.
    for part in (posts, posts.slice(7, 3), posts.filter(pa.array(np.array(posts["kind"]) != "a"))):
        ours, theirs = again.design.matrices(part), design.matrices(part)
        np.testing.assert_array_equal(ours.X, theirs.X)
        np.testing.assert_array_equal(ours.y, theirs.y)
    first = fit(map_blocks, design)
    assert again.summary() == summary("likes" if text == LEARNED else "log10(1 + likes)", first)
    np.testing.assert_array_equal(again.fit.cov_params, first.cov_params)


def test_unknown_posts_are_left_out(tmp_path: Path) -> None:
    model = saved(made_posts(), LEARNED, tmp_path)
    new = made_posts(6)
    strange = new.set_column(new.column_names.index("kind"), "kind", pa.array(["a", "z", "b", None, "c", "z"]))
    matrices = model.design.matrices(strange)
    assert matrices.dropped == {"unknown_level": 2, "missing_value": 1}
    assert model.predict(strange).index.tolist() == [0, 2, 4]
    giant = new.set_column(new.column_names.index("followers"), "followers", pa.array([10**9] * 6))
    with pytest.raises(InputError, match=r"cannot be applied to these posts: .*beyond upper and/or lower bounds"):
        model.predict(giant)
    with pytest.raises(InputError, match="posts/ has no column 'kind'"):
        model.predict(new.drop_columns("kind"))


def test_unseen_classes_of_an_expression_are_dropped(tmp_path: Path) -> None:
    posts = made_posts()
    model = saved(posts, "likes ~ C(n_hashtags // 3) + followers", tmp_path)
    new = pa.table({"followers": [10, 20], "n_hashtags": [4, 99]})
    assert model.predict(new).index.tolist() == [0]
    assert model.predict(new.to_pandas()).equals(model.predict(new))


def test_mixed_posts_without_likes_are_predicted(tmp_path: Path) -> None:
    posts = made_posts()
    new = posts.slice(0, 3).set_column(0, "likes", pa.array([5, None, 7], pa.int64()))
    found = saved(posts, LEARNED, tmp_path).predict(new)
    assert found["score"].isna().tolist() == [False, True, False]
    assert found["mean"].notna().all()


def test_small_coefficients_are_shown(tmp_path: Path) -> None:
    posts = made_posts()
    text = saved(posts, "likes ~ I(followers ** 2) + I(followers ** 3)", tmp_path).summary()
    reference = smf.ols("likes ~ I(followers ** 2) + I(followers ** 3)", posts.to_pandas()).fit()
    line = next(line for line in text.splitlines() if line.startswith("I(followers ** 2)"))
    assert float(line.split()[3]) == pytest.approx(reference.params.iloc[1], rel=1e-3)
    assert "e-" in line
    assert "The condition number is large" in text


def test_loading_model_of_scheme_without_regression_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scheme 'karpathy' has no regression"):
        load_model(put_model(tmp_path, model_json(None, scheme="karpathy")))
    with pytest.raises(StageError, match="labels: does not exist; run `raypipe label"):
        load_model(str(tmp_path / "nothing"))


def changed(tmp_path: Path, posts: pa.Table, change: dict[str, Any]) -> Storage:
    """Labels whose model was changed. `change` maps dotted names to values."""
    map_blocks = over_blocks(posts, 90)
    design = make_design(map_blocks, parse(LEARNED), posts.schema)
    values = json.loads(model_json(fit(map_blocks, design), design, formula=LEARNED))
    for place, value in change.items():
        *within, name = place.split(".")
        part = values
        for step in within:
            part = part[step]
        part[name] = value
    return put_model(tmp_path, json.dumps(values).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formula": "likes ~ I(followers + hash(MAKE))"}, "name 'hash' is not defined"),
        ({"formula": "I((lambda: MAKE)()()) ~ followers"}, "call a function by its name"),
        ({"formula": ["likes", "followers"]}, "must be a text"),
        ({"formula": "likes ~ (a + b + c) ** 20"}, "too many terms"),
        ({"learned.levels": {"MAKE": ["a"]}}, "is not part of the formula"),
        ({"learned.levels": {"C(MAKE)": ["a"]}}, "is not part of the formula"),
        ({"learned.levels": {"C(kind, contr.sum)": [{"a": 1}]}}, "a class must be a text or a number"),
        ({"learned.transforms": {"center(MAKE)": {}}}, "is not part of the formula"),
        ({"learned.transforms": {"poly(followers, 2)": [1]}}, "learned values must have names"),
        ({"learned.transforms": {"poly(followers, 2)": {"alpha": {"array": ["MAKE"]}}}}, "must have only a few"),
        ({"learned.transforms": {"poly(followers, 2)": {"alpha": [1.0] * 2_001}}}, "2,001 numbers of one transform"),
        ({"learned": None}, "was not written by `raypipe label`"),
        ({"weights": ["w"]}, "must be the name of a column"),
        ({"shape": {"unknown": 1}}, "was not written by `raypipe label`"),
        ({"params": [1, 2]}, "was not written by `raypipe label`"),
    ],
)
def test_hostile_model_executes_no_code(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    marker = tmp_path / "marker"
    text = json.dumps(change).replace("MAKE", f"open({str(marker)!r}, 'w')")
    posts = made_posts()
    storage = changed(tmp_path / "root", posts, json.loads(text))
    with pytest.raises(InputError) as caught:
        load_model(storage).predict(posts)
    assert message in str(caught.value)
    assert "_model.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"df_resid": "x"}, "df_resid: Input should be a valid integer"),
        ({"df_resid": None}, "df_resid: Input should be a valid integer"),
        ({"nobs": 1.5}, "nobs: Input should be a valid integer"),
        ({"scale": "1"}, "scale: Input should be a valid number"),
        ({"llf": [1]}, "llf: Input should be a valid number"),
        ({"has_constant": 1}, "has_constant: Input should be a valid boolean"),
        ({"cov_type": ["HC3"]}, "cov_type: Input should be 'nonrobust', 'HC0'"),
        ({"cov_type": "HC9"}, "cov_type: Input should be 'nonrobust', 'HC0'"),
        ({"params.Intercept": "1"}, "params.Intercept: Input should be a valid number"),
        ({"params": {"Intercept": 1.0}}, "but params has Intercept"),
        ({"params.more": 1.0}, "but params has Intercept"),
        ({"bse": {}}, "but params has Intercept"),
        ({"conf_int.Intercept": [1.0]}, "conf_int.Intercept: List should have at least 2 items"),
        ({"conf_int.Intercept": 5}, "conf_int.Intercept: Input should be a valid list"),
        ({"cov_params.Intercept": {"Intercept": 1.0}}, "but params has Intercept"),
        ({"R": {}}, "but params has Intercept"),
        ({"shape": {"skew": 1}}, "shape.kurtosis: Field required"),
        ({"learned.levels": {"C(kind, contr.sum)": "abc"}}, "the classes of a factor must be a list"),
    ],
)
def test_model_with_inconsistent_numbers_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    storage = changed(tmp_path, made_posts(), change)
    with pytest.raises(
        InputError, match=r"_model.json: was not written by `raypipe label`: .*; run it again"
    ) as caught:
        load_model(storage)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("edit", [lambda names: names[::-1], lambda names: names[1:], lambda names: [*names, "more"]])
def test_coefficients_of_other_terms_are_refused(tmp_path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    posts = made_posts()
    map_blocks = over_blocks(posts, 90)
    design = make_design(map_blocks, parse(PAPER), posts.schema)
    values = json.loads(model_json(fit(map_blocks, design), design, formula=PAPER))
    terms = edit(list(values["params"]))
    for name in BY_TERM:
        values[name] = {term: values[name].get(term, [0.0, 1.0] if name == "conf_int" else 1.0) for term in terms}
    for name in MATRICES:
        values[name] = {row: dict.fromkeys(terms, 1.0) for row in terms}
    model = load_model(put_model(tmp_path, json.dumps(values).encode()))
    assert "Intercept" in model.summary() or "Intercept" not in terms
    with pytest.raises(InputError, match=r"its formula makes Intercept, .*, but has coefficients of ") as caught:
        model.predict(posts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"[" * 100_000, b"\x00", b"[]", b"5", b"\xff", b'{"params":' + b"9" * 5_000 + b"}"])
def test_damaged_model_raises_one_line_error(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(InputError, match=r"_model.json: was not written by `raypipe label`") as caught:
        load_model(put_model(tmp_path, damage))
    with pytest.raises(InputError, match=r"_model.json: was not written by `raypipe label`"):
        read_model_file(Storage(str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC1", "cluster"])
def test_summary_shows_statsmodels_numbers(cov_type: str) -> None:
    posts = made_posts()
    map_blocks = over_blocks(posts, 64)
    text = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags"
    found = summary("likes", fit(map_blocks, make_design(map_blocks, parse(text), posts.schema), cov_type))
    frame = posts.to_pandas()
    options = {"cov_kwds": {"groups": pd.factorize(frame["user_id"])[0]}} if cov_type == "cluster" else {}
    theirs = str(smf.ols(text, frame).fit(cov_type=cov_type, **options).summary())
    # statsmodels' numbers, except the date, the time and those that depend on the order of posts.
    for name in (
        "R-squared:",
        "Adj. R-squared:",
        "F-statistic:",
        "Log-Likelihood:",
        "AIC:",
        "BIC:",
        "Prob(JB):",
        "Cond. No.",
    ):
        number = theirs.partition(name)[2].split()[0]
        assert found.partition(name)[2].split()[0] == number, name
    rows = {
        line.split("  ")[0]: line.split()[-6:] for line in theirs.splitlines() if line.startswith(("np", "n_", "Int"))
    }
    ours = {
        line.split("  ")[0]: line.split()[-6:] for line in found.splitlines() if line.startswith(("np", "n_", "Int"))
    }
    assert ours == rows
    assert len(rows) == 3
