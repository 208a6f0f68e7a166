"""Formulas: each block has the same columns as the whole, and each mistake gives one line."""

from __future__ import annotations

import decimal
import pickle
from dataclasses import replace

import formulaic
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import ConfigError, InputError
from raypipe.label.formula.design import (
    MAX_LEVELS,
    Design,
    design_without_learning,
    join_learning_data,
    learn_design,
    learning_data,
)
from raypipe.label.formula.formula import check_columns, parse

PAPER = "log10(1 + likes) ~ log10(1 + followers) + n_hashtags"


@pytest.fixture(scope="module")
def posts() -> pa.Table:
    rng = np.random.default_rng(0)
    n = 200
    return pa.table(
        {
            "likes": rng.integers(0, 5_000, n),
            "followers": rng.integers(1, 100_000, n),
            "n_hashtags": pa.array(rng.integers(0, 12, n), pa.int32()),
            "kind": rng.choice(["photo", "album", "video"], n),
            "comments": pa.array(rng.integers(0, 50, n), mask=rng.random(n) < 0.1),
            "a b": rng.normal(size=n),
        }
    )


def design_of(text: str, posts: pa.Table) -> Design:
    formula = parse(text)
    check_columns(formula, posts.schema)
    if (fixed := design_without_learning(formula, posts.schema)) is not None:
        return fixed
    parts = [
        learning_data(formula, posts.slice(0, len(posts) // 3)),
        learning_data(formula, posts.slice(len(posts) // 3)),
    ]
    return learn_design(formula, *join_learning_data(formula, parts))


def test_paper_formula_needs_only_column_types(posts: pa.Table) -> None:
    formula = parse(PAPER)
    design = design_without_learning(formula, posts.schema)
    assert formula.variables == ("followers", "likes", "n_hashtags")
    assert formula.response == "log10(1 + likes)"
    assert design is not None
    assert design.terms == ("Intercept", "log10(1 + followers)", "n_hashtags")
    matrices = design.matrices(posts)
    np.testing.assert_array_equal(matrices.y, np.log10(1 + posts["likes"].to_numpy()))
    followers = np.log10(1 + posts["followers"].to_numpy())
    np.testing.assert_array_equal(matrices.X, np.column_stack([np.ones(200), followers, posts["n_hashtags"]]))


@pytest.mark.parametrize(
    ("text", "learns"),
    [
        (PAPER, False),
        ("likes ~ followers:n_hashtags - 1", False),
        ("likes ~ `a b` + I(`a b` ** 2)", False),
        ("likes ~ np.log1p(comments) + abs(n_hashtags)", False),
        ("likes ~ kind * n_hashtags", True),
        ("likes ~ C(n_hashtags) + followers", True),
        ("log10(1 + likes) ~ bs(log10(1 + followers), df=5)", True),
        ("likes ~ center(followers) + poly(n_hashtags, 2) + scale(`a b`)", True),
        ("likes ~ cr(followers, df=4) + C(kind, contr.treatment('photo'))", True),
    ],
)
def test_blocks_have_same_columns_as_whole(posts: pa.Table, text: str, learns: bool) -> None:
    assert (design_without_learning(parse(text), posts.schema) is None) == learns
    design = pickle.loads(pickle.dumps(design_of(text, posts)))
    whole = design.matrices(posts)
    blocks = [design.matrices(posts.slice(start, size)) for start, size in ((0, 1), (1, 70), (71, 0), (71, 129))]
    np.testing.assert_array_equal(np.vstack([block.X for block in blocks]), whole.X)
    np.testing.assert_array_equal(np.concatenate([block.y for block in blocks]), whole.y)
    assert sum(block.dropped.total() for block in blocks) == whole.dropped.total() == 200 - whole.kept.sum()
    reference = formulaic.model_matrix(text, posts.to_pandas())
    assert list(design.terms) == list(reference.rhs.columns)
    np.testing.assert_allclose(whole.X, reference.rhs.to_numpy(float), rtol=1e-12, atol=1e-12)


def test_missing_and_infinite_values_are_counted_by_reason() -> None:
    posts = pa.table(
        {"likes": [1, 2, 3, 4, None], "x": [1.0, float("nan"), None, float("inf"), 2.0], "z": [0, 1, 1, 1, 1]}
    )
    design = design_of("likes ~ x", posts)
    matrices = design.matrices(posts)
    assert matrices.dropped == {"missing_value": 3, "not_finite": 1}
    assert matrices.kept.tolist() == [True, False, False, False, False]
    logarithm = design_of("likes ~ log10(z)", posts).matrices(posts)
    assert logarithm.dropped == {"missing_value": 1, "not_finite": 1}
    assert logarithm.y.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "message", "culprit"),
    [
        ("likes", "must have one y, one ~ and terms", None),
        ("", "must have one y", None),
        ("likes ~ a ~ b", "Operator `~` is incorrectly used", "~ b"),
        ("likes + kind ~ followers", "must have one y", None),
        ("likes ~ (followers", "Could not find matching context marker", "(followers"),
        ("likes ~ log10(a b", "Formula ended before", "log10(a b"),
        ("likes ~ a + log10(a b)", "invalid syntax", "a b)"),
        ("likes ~ a +* b", "Operator `+*` is incorrectly used", "+* b"),
        ("likes = followers", "Unknown operator '='", "= followers"),
        ("likes ~ followers | n_hashtags", "must have one y", None),
        ("likes ~ 0", "no term on the right", None),
        ("likes ~", "no term on the right; write y ~ 1 for the mean alone", None),
        ("likes ~ \n", "no term on the right", None),
        ("likes ~ .", "cannot be read", None),
    ],
)
def test_unparsable_formula_raises_error(text: str, message: str, culprit: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    line, shown = str(caught.value), caught.value.extra_lines.splitlines()
    assert line.startswith(f"label.formula: {text!r}")
    assert message in line
    assert "\n" not in line
    assert "\x1b" not in line
    if culprit is not None:
        assert shown == [f"  {text}", "  " + " " * text.index(culprit) + "^"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("likes ~ folowers", InputError, "posts/ has no column 'folowers'"),
        ("likes ~ lgo10(followers)", ConfigError, "name 'lgo10' is not defined"),
        ("likes ~ log10(kind)", InputError, r"column 'kind' contains string, but log10\(kind\) needs a number"),
        ("kind ~ followers", InputError, "y must be a number, but 'kind' is not one"),
        ("likes ~ lag(followers)", ConfigError, "uses other rows"),
        ("likes ~ I(followers - followers.mean())", ConfigError, ".mean is not allowed in a formula"),
    ],
)
def test_formula_unsuited_to_posts_raises_error(posts: pa.Table, text: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        design_of(text, posts)


def test_too_many_classes_are_refused() -> None:
    n = MAX_LEVELS + 1
    posts = pa.table({"likes": range(n), "caption": [f"caption {i}" for i in range(n)], "followers": range(n)})
    for text in ("likes ~ caption", "likes ~ C(followers)"):
        with pytest.raises(InputError, match="1,001 classes"):
            design_of(text, posts)
    with pytest.raises(InputError, match="no post has a usable value in each of comments, likes"):
        design_of("likes ~ comments", pa.table({"likes": [1], "comments": pa.nulls(1)}))


def test_formula_with_only_a_response(posts: pa.Table) -> None:
    design = design_of(parse(PAPER).response_only().text, posts)
    np.testing.assert_array_equal(design.matrices(posts).y, np.log10(1 + posts["likes"].to_numpy()))
    assert design.formula.variables == ("likes",)


def test_caret_marks_missing_column(posts: pa.Table) -> None:
    text = "likes ~ n_hashtags + log10(1 + hashtags)"
    with pytest.raises(InputError) as caught:
        check_columns(parse(text), posts.schema)
    assert "posts/ has no column 'hashtags'" in str(caught.value)
    formula, caret = caught.value.extra_lines.split("\n")
    assert formula[caret.index("^") :] == "hashtags)"
    with pytest.raises(ConfigError, match="name 'lgo10' is not defined") as wrong:
        design_of("likes ~ n_hashtags + lgo10(followers)", posts)
    formula, caret = wrong.value.extra_lines.split("\n")
    assert formula[caret.index("^") :] == "lgo10(followers)"
    with pytest.raises(InputError, match=r"no column 'created_at' \(needed for age_days\)"):
        check_columns(parse("likes ~ age_days"), posts.schema)


def test_derived_columns_are_computed() -> None:
    day = 86_400_000_000
    when = pa.timestamp("us", "UTC")
    made = pa.table(
        {
            "likes": [3, 4, 5],
            # A Sunday, a Monday, and a missing time.
            "created_at": pa.array([3 * day + day // 2, 4 * day, None], when),
            "collected_at": pa.array([4 * day, 5 * day, 5 * day], when),
            "revisited_at": pa.array([10 * day + day // 2, None, 9 * day], when),
            "caption": ["#häh", None, ""],
        }
    )
    design = design_of("likes ~ age_days + hour + weekday + caption_length - 1", made)
    matrices = design.matrices(made)
    np.testing.assert_allclose(matrices.X, [[7, 12, 6, 4], [1, 0, 0, 0]])
    assert matrices.dropped == {"missing_value": 1}
    own = made.append_column("hour", pa.array([23, 22, 21]))
    np.testing.assert_allclose(design_of("likes ~ hour - 1", own).matrices(own).X, [[23], [22], [21]])


def test_other_column_types_are_converted_by_value() -> None:
    posts = pa.table(
        {
            "likes": pa.array([255, 1, 7, 3], pa.uint8()),
            "price": pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.25"), None, decimal.Decimal("0.75")]),
            "kind": pa.array(["a", "b", "a", "b"]).dictionary_encode(),
        }
    )
    matrices = design_of("I(1 + likes) ~ price + kind", posts).matrices(posts)
    np.testing.assert_array_equal(matrices.y, [256, 2, 4])
    np.testing.assert_array_equal(matrices.X, [[1, 1.5, 0], [1, 2.25, 1], [1, 0.75, 1]])
    assert matrices.dropped == {"missing_value": 1}


def test_products_of_counts_do_not_overflow() -> None:
    posts = pa.table(
        {
            "likes": [1, 2, 3],
            "followers": [5_000_000, 10, 4_000_000_000],
            "n_hashtags": pa.array([2**16, 1, 3], pa.int32()),
            "up": pa.array([1, 2, 9], pa.uint32()),
        }
    )
    text = "likes ~ I(followers ** 3) + I(n_hashtags * n_hashtags) + I(up - 2) + I(n_hashtags ** -1) - 1"
    X = design_of(text, posts).matrices(posts).X
    wanted = [[1.25e20, 2.0**32, -1, 2.0**-16], [1e3, 1, 0, 1], [6.4e28, 9, 7, 1 / 3]]
    np.testing.assert_allclose(X, wanted, rtol=1e-15)


def test_class_limit_applies_only_inside_c() -> None:
    n = MAX_LEVELS + 5
    posts = pa.table(
        {"likes": range(n), "followers": [i * 7 for i in range(n)], "followers_tenth": [i % 10 for i in range(n)]}
    )
    design = design_of("likes ~ followers + C(followers_tenth)", posts)
    assert len(design.terms) == 11
    assert parse("y ~ C(`a b`) * x + C(log10(z)) + x").classes == {"a b", "z"}
    with pytest.raises(InputError, match="column 'followers' has 1,005 classes"):
        design_of("likes ~ C(log10(1 + followers))", posts)


def test_rows_of_zero_weight_do_not_affect_learning() -> None:
    posts = pa.table(
        {"likes": [1.0, 2, 4, 3], "x": [1.0, 2, 3, 100], "kind": ["a", "b", "a", "rare"], "w": [1, 1, 2, 0]}
    )
    formula = parse("likes ~ center(x) + kind")
    design = learn_design(formula, *join_learning_data(formula, [learning_data(formula, posts, "w")]), "w")
    assert design.terms == ("Intercept", "center(x)", "kind[T.b]")
    np.testing.assert_allclose(design.matrices(posts).X[:, 1], [-1, 0, 1])


def test_rows_without_positive_weight_are_dropped() -> None:
    posts = pa.table({"likes": [1, 2, None, 4, 5, 6], "x": [1.0, 2, 3, 4, 5, 6], "w": [2, 0, 1, None, 3, -1]})
    design = design_without_learning(parse("likes ~ x"), posts.schema, "w")
    assert design is not None
    matrices = design.matrices(posts)
    assert matrices.dropped == {"missing_value": 1, "no_weight": 3}
    np.testing.assert_array_equal(matrices.weights, [2, 3])
    np.testing.assert_array_equal(matrices.y, [1, 5])


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300))
def test_arithmetic_equals_formulaic_bit_for_bit(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    posts = pa.table({name: rng.integers(-(10**6), 10**6, n) for name in "abc"} | {"y": rng.normal(size=n)})
    for text in ("y ~ log10(1 + abs(a)) + a:b + I(c ** 2) / b", "a ~ b * c - 1", "exp(y) ~ a + I(a / b) + 1"):
        design = design_without_learning(parse(text), posts.schema)
        assert design is not None
        assert design.numpy_evaluator is not None
        slow = replace(design, numpy_evaluator=None)
        ours, theirs = design.matrices(posts), slow.matrices(posts)
        np.testing.assert_array_equal(ours.X, theirs.X)
        np.testing.assert_array_equal(ours.y, theirs.y)
        assert ours.dropped == theirs.dropped
    assert design_without_learning(parse("y ~ I(a % b)"), posts.schema).numpy_evaluator is None  # type: ignore[union-attr]


def test_unusable_posts_do_not_affect_learned_values() -> None:
    posts = pa.table(
        {
            "y": [1.0, 2, 4, 8, np.inf, 3],
            "likes": [10, 0, 1000, 100, 10**9, 10],
            "a b": [1.0, 2, 3, 4, 5, -1],
            "kind": ["a", "b", "a", "b", "c", "a"],
        }
    )
    design = design_of("y ~ center(log10(likes)) + scale(`a b`) + C(kind)", posts)
    found = design.matrices(posts)
    # Post 1 has no logarithm, and post 4 has an infinite y. Both are dropped and do not change the mean.
    np.testing.assert_array_equal(found.kept, [True, False, True, True, False, True])
    np.testing.assert_allclose(found.X[:, design.terms.index("center(log10(likes))")], [-0.75, 1.25, 0.25, -0.75])
    assert found.dropped == {"not_finite": 2}
    spline = design_of("y ~ bs(log10(`a b`), df=4)", posts)
    assert np.isfinite(spline.matrices(posts).X).all()


def test_excerpt_keeps_few_rows_if_only_classes_matter() -> None:
    n = 5_000
    posts = pa.table(
        {"likes": np.arange(n), "x": np.arange(n) % 7, "z": np.arange(n) % 24, "kind": ["b", "a"] * (n // 2)}
    )
    formula = parse("likes ~ x + C(z) + C(x // 3) + kind")
    variables, rows = learning_data(formula, posts)
    assert rows == MAX_LEVELS == len(variables["likes"])
    assert (len(variables["z"]), len(variables["x"]), len(variables["kind"])) == (24, 7, 2)
    design = design_of(formula.text, posts)
    whole = learn_design(formula, {name: posts[name] for name in formula.variables}, n)
    assert design.terms == whole.terms
    np.testing.assert_array_equal(design.matrices(posts).X, whole.matrices(posts).X)


def test_classes_of_two_columns_are_observed_combinations() -> None:
    posts = pa.table({"likes": np.arange(12), "a": [0, 0, 0, 4] * 3, "b": [0, 1, 2, 7] * 3})
    design = design_of("likes ~ C(a + b)", posts)
    assert design.terms == ("Intercept", "C(a + b)[T.1]", "C(a + b)[T.2]", "C(a + b)[T.11]")
    new = pa.table({"likes": [1, 2], "a": [0, 4], "b": [1, 0]})
    assert design.matrices(new).dropped == {"unknown_level": 1}


def test_rows_of_left_out_classes_are_dropped() -> None:
    posts = pa.table({"likes": [1, 2, 3, 5, 8], "kind": ["a", "b", "c", "a", "b"]})
    found = design_of("likes ~ C(kind, levels=['a', 'b'])", posts).matrices(posts)
    assert found.dropped == {"unknown_level": 1}
    np.testing.assert_array_equal(found.y, [1, 2, 5, 8])


@pytest.mark.parametrize("text", ["likes ~ `my kind`", "likes ~ C(`my kind`)", "likes ~ C(`x y`) + `my kind`"])
def test_classes_work_for_backticked_columns(text: str) -> None:
    posts = pa.table({"likes": range(12), "my kind": ["a", "b"] * 6, "x y": [0, 1, 2] * 4})
    design = design_of(text, posts)
    assert design.matrices(posts).dropped == {}
    new = pa.table({"likes": [1, 2], "my kind": ["a", "new"], "x y": [1, 2]})
    assert design.matrices(new).dropped == {"unknown_level": 1}
