"""Columns whose names need backticks: each name is its own column, or the formula is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raypipe.errors import ConfigError, InputError
from raypipe.label.formula.backticks import replace_backticks
from raypipe.label.formula.formula import check_columns, parse
from tests.label.formula.test_formula import design_of

_RNG = np.random.default_rng(0)
_NAMES = (
    "a b",
    "a-b",
    "a_b",
    "a",
    "ab",
    "1",
    "2",
    "log10(a)",
    "a:b",
    "b",
    "true divide",
    "for",
    "k[T.q]",
    "_formulaic_a_b",
)
POSTS = pa.table(
    {"likes": _RNG.integers(1, 100, 40), "k": ["p", "q"] * 20} | {name: _RNG.uniform(1, 2, 40) for name in _NAMES}
)


def values(name: str) -> np.ndarray:
    return POSTS[name].to_numpy()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("I(`a b` + a_b)", values("a b") + values("a_b")),
        ("I(a_b - `a b`)", values("a_b") - values("a b")),
        ("I(`a_b` - `a b`)", values("a_b") - values("a b")),
        ("I(`a b` - 2 * `a-b`)", values("a b") - 2 * values("a-b")),
        ("I(`a b` - 2 * `a-b` - 4 * a_b)", values("a b") - 2 * values("a-b") - 4 * values("a_b")),
        ("I(`a b` * `a b`)", values("a b") ** 2),
        ("log10(`a b` / a_b)", np.log10(values("a b") / values("a_b"))),
        ("I(`true divide` - true_divide(a, 2))", values("true divide") - values("a") / 2),
        ("I(`1`)", values("1")),
        ("I(`log10(a)` + log10(a))", values("log10(a)") + np.log10(values("a"))),
        ("`for`", values("for")),
        ("clip(`a b`, a_b, a_b)", values("a_b")),
        ("center(`a b`)", values("a b") - values("a b").mean()),
        ("center(`a b` - a)", values("a b") - values("a") - (values("a b") - values("a")).mean()),
    ],
)
def test_each_backticked_name_is_its_own_column(text: str, wanted: np.ndarray) -> None:
    formula = parse(f"likes ~ {text} - 1")
    check_columns(formula, POSTS.schema)
    design = design_of(formula.text, POSTS)
    np.testing.assert_allclose(design.matrices(POSTS).X[:, 0], wanted, rtol=1e-12, atol=1e-12)
    # Learned values do not depend on how many rows are requested.
    np.testing.assert_allclose(design.matrices(POSTS.slice(3, 5)).X[:, 0], wanted[3:8], rtol=1e-12, atol=1e-12)


def test_rows_are_dropped_by_named_column_only() -> None:
    posts = pa.table({"likes": [1.0, 2, 3, 4], "a b": [1.0, 2, 3, 4], "a_b": [1.0, 0, 2, 3], "kind": list("pqpq")})
    matrices = design_of("likes ~ kind + log10(a_b + 0 * `a b`)", posts).matrices(posts)
    assert matrices.kept.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("text", "message", "culprit"),
    [
        ("likes ~ center(`a b`) + center(a_b)", "center(…) cannot take the column 'a b' here", "`a b`"),
        ("likes ~ a_b + scale(`a b`)", "scale(…) cannot take the column 'a b' here", "`a b`"),
        ("a_b ~ bs(`a b`, df=4)", "bs(…) cannot take the column 'a b' here", "`a b`"),
        ("likes ~ center(`a b` * `a b`)", "the expression names it twice", "`a b`"),
        ("likes ~ poly(`a b` + `a-b`, 2)", "cannot take the column 'a-b' here", "`a-b`"),
        ("likes ~ center(`true divide`)", "cannot take the column 'true divide' here", "`true divide`"),
        # formulaic substitutes these by text search.
        ("likes ~ I(`a` + ab)", "a name in backticks is also part of another name", "I("),
        ("likes ~ I(`a b` + _formulaic_a_b)", "a name in backticks is also part of another name", "I("),
        ("likes ~ I(`a b` - `a_b`)", "remove the backticks if the name does not need them", "I("),
        ("likes ~ C(`a`, levels=['a', 'b'])", "or string in this expression", "C("),
        # formulaic distinguishes these only by their text.
        ("likes ~ a + `1`", "the column '1' and another term are both written 1; write I(`1`)", "`1`"),
        ("likes ~ `2` + 2:a", "both written 2", "2:a"),
        ("likes ~ `log10(a)` + log10(a)", "both written log10(a); write I(`log10(a)`)", "log10(a)"),
        ("`log10(a)` ~ log10(a)", "both written log10(a)", "log10(a)"),
        # Python reads these names as something else.
        ("likes ~ I(a + `True`)", "the name 'True' is a Python keyword", "`True`"),
        ("likes ~ I(a + `for`)", "the name 'for' is a Python keyword", "`for`"),
        ("likes ~ a + I(`ﬁ` + 1)", "a character that Python changes", "`ﬁ`"),
        ("likes ~ a + I(ﬁ + 1)", "Python reads this name as 'fi'", "ﬁ"),
        ("likes ~ log10(`a²`)", "a character that Python changes or cannot read", "`a²`"),
        ("likes ~ log10(`% change`)", "begins with two underscores in Python", "`% change`"),
        ("likes ~ log10(``)", "a name in backticks is empty", "``"),
        ("likes ~ C(`q'`)", "rename the column, or use it as a term by itself", "`q'`"),
    ],
)
def test_ambiguous_column_names_are_refused(text: str, message: str, culprit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    shown, caret = caught.value.extra_lines.split("\n")
    assert shown[caret.index("^") :].startswith(culprit)


@pytest.mark.parametrize("text", ["likes ~ a:b + `a:b`", "likes ~ k + `k[T.q]`"])
def test_terms_with_equal_names_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="has two terms named"):
        design_of(text, POSTS)


@pytest.mark.parametrize("text", ["likes ~ {a} + a", "likes ~ 0 + `0`", "likes ~ I(`a`) + I(a)", "likes ~ `a b` + a_b"])
def test_similar_but_unambiguous_names_are_accepted(text: str) -> None:
    assert len(parse(text).variables) >= 2


def test_backtick_identifiers_are_reproducible() -> None:
    read = replace_backticks("f(`a b`, `a-b`, a_b_, `a b`, a_b=1, x='a_b')", {"f"})
    assert read == ("f( a_b ,  a_b__ , a_b_,  a_b , a_b=1, x='a_b')", {"a_b": "a b", "a_b__": "a-b"})
    assert replace_backticks("log10(`a b`) + `", {"log10"}) == ("log10( a_b ) + `", {"a_b": "a b"})
    assert replace_backticks("`a b`", {"a_b"}) == ("a_b_", {"a_b_": "a b"})
