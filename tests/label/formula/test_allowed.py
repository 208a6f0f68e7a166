"""What a formula may contain: nothing else is evaluated, and a caret marks what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.errors import ConfigError
from raypipe.label.formula import allowed
from raypipe.label.formula.allowed import NotAllowedError
from raypipe.label.formula.design import (
    Design,
    design_without_learning,
    join_learning_data,
    learn_design,
    learning_data,
)
from raypipe.label.formula.formula import check_columns, parse
from raypipe.label.formula.numpy_evaluator import evaluate_expression

POSTS = pa.table(
    {
        "likes": [1.0, 2, 3, 5, 8, 9, 4, 7],
        "followers": [3, 1, 4, 1, 5, 9, 2, 6],
        "kind": list("ababcabc"),
        "where": [0, 1, 1, 0, 1, 0, 0, 1],
        "my kind": list("xyxyyxxy"),
    }
)


def design_of(text: str) -> Design:
    formula = parse(text)
    check_columns(formula, POSTS.schema)
    fixed = design_without_learning(formula, POSTS.schema)
    return fixed or learn_design(formula, *join_learning_data(formula, [learning_data(formula, POSTS)]))


def column(text: str) -> Any:
    """The values of the formula's only term."""
    return design_of(f"likes ~ {text} - 1").matrices(POSTS).X


@pytest.mark.parametrize(
    "hostile",
    [
        "likes ~ followers + I(followers * 0 + len(str(MAKE)))",
        "likes ~ {followers * 0 + len(str(MAKE))}",
        "likes ~ `my kind` + I(followers + hash(MAKE))",
        "likes ~ followers.apply(lambda v: hash(MAKE))",
        "likes ~ followers[MAKE]",
        "likes ~ bs(followers, df=4, knots=[hash(MAKE)])",
        "likes ~ hashed(kind, 3, hash_func=lambda v: hash(MAKE))",
        "likes ~ C(kind, contr.treatment(MAKE))",
        "likes ~ C(kind, {'x': [hash(MAKE), 1, 1]})",
        # formulaic evaluates these while it reads the formula.
        "I((lambda: MAKE)()()) ~ followers",
        "Q(MAKE) ~ followers",
        "MAKE.write('x')(1) ~ followers",
    ],
)
def test_hostile_formula_executes_no_code(tmp_path: Path, hostile: str) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(ConfigError) as caught:
        design_of(hostile.replace("MAKE", f"open({str(marker)!r}, 'w')"))
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert caught.value.extra_lines.count("\n") == 1
    # raypipe's own evaluation refuses it too.
    with pytest.raises((NotAllowedError, SyntaxError)):
        evaluate_expression(
            hostile.partition(" ~ ")[0 if hostile.endswith("~ followers") else 2], {"followers": np.ones(2)}
        )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "message", "culprit"),
    [
        (
            "likes ~ a + I(__import__('os').system('x'))",
            ".system is not allowed in a formula",
            "__import__('os').system",
        ),
        ("likes ~ a + I(__import__('os'))", "name '__import__' is not defined", "__import__('os')"),
        (
            "likes ~ lgo10(followers)",
            "name 'lgo10' is not defined; did you mean log10?",
            "lgo10",
        ),
        ("likes ~ followers.mean()", ".mean is not allowed in a formula", "followers.mean"),
        ("likes ~ I(a.__class__)", ".__class__ is not allowed in a formula", "a.__class__"),
        ("likes ~ np.load('x')", "np.load is not a numpy function", "np.load"),
        ("likes ~ I(np.lib.npyio.os)", "is not allowed in a formula", "np.lib.npyio.os"),
        ("likes ~ np.pi(a)", "np.pi is a number", "np.pi"),
        ("likes ~ C(kind, contr.mro)", ".mro is not allowed in a formula", "contr.mro"),
        ("likes ~ a + I([b for b in a])", "a comprehension is not allowed in a formula", "[b"),
        ("likes ~ I(f'{a}')", "an f-string is not allowed in a formula", "f'"),
        ("likes ~ I((a := 3))", "an assignment is not allowed in a formula", "a :="),
        ("likes ~ I(a if b else c)", "if and else are not allowed in a formula; use np.where", "a if"),
        ("likes ~ I(a and b)", "the operators and and or are not allowed in a formula; use & and |", "a and"),
        ("likes ~ I(not a)", "the operator not is not allowed in a formula; use ~", "not a"),
        ("likes ~ I(a in [1])", "an in or is comparison is not allowed in a formula", "a in"),
        ("likes ~ I(a is None)", "an in or is comparison is not allowed in a formula", "a is"),
        ("likes ~ I({b for b in a})", "a comprehension is not allowed in a formula", "{b"),
        ("likes ~ I({a})", "a set is not allowed in a formula", "{a}"),
        ("likes ~ I(a @ b)", "<<, >> or @ is not allowed in a formula", "a @"),
        ("likes ~ I(np)", "np is not a column; write np.NAME", "np)"),
        ("likes ~ C(a, contr)", "contr is not a column; write contr.NAME", "contr)"),
        ("likes ~ log10(*a)", "a star is not allowed", "*a"),
        ("likes ~ center(a, **b)", "center takes no **", "b)"),
        ("likes ~ I(`my kind`.x)", ".x is not allowed in a formula", "I("),
        ("likes ~ I(log10)", "log10 is a function; write it with its argument: log10(…)", "log10)"),
        ("likes ~ Q('a b')", "Q(…) is not allowed in a formula; write any column name `in backticks`", "Q("),
        ("likes ~ C(kind, foo(a))", "name 'foo' is not defined", "foo"),
        # numpy would write into a column.
        ("likes ~ log10(a, out=b)", "log10 takes no out in a formula", "b)"),
        ("likes ~ np.log10(a, b)", "log10 takes 1 argument in", "np.log10"),
        ("likes ~ add(a, b, c)", "add takes 1 to 2 arguments in", "add"),
        ("likes ~ center(a, _state={})", "center takes no _state", "{}"),
        ("likes ~ center(a, {})", "center takes fewer arguments", "center"),
        ("likes ~ poly(a, 2, True, 3, 4)", "poly: too many positional arguments", "poly"),
        ("likes ~ bs(a, knots=b)", "knots is a setting, not a column", "b)"),
        ("likes ~ C(a, levels=[b])", "levels is a setting, not a column", "b]"),
        ('likes ~ cr(a, df=4, constraints="it\'s")', "the string contains a quote", '"it'),
        ("likes ~ C(a, levels=['x\\\\y'])", "the string contains a backslash", "'x"),
        ("likes ~ I(`a'b` + 1)", "contains a quote, a backslash or a line break", "`a'b`"),
        ("likes ~ I(__x__ + 1)", "name '__x__' is not defined", "__x__"),
        ("likes ~ I(a << 3)", "<<, >> or @ is not allowed in a formula", "a <<"),
        ("likes ~ I(a + 1j)", "arithmetic takes only numbers and columns", "1j"),
        ("likes ~ a +\n b.c(1)", ".c is not allowed in a formula", "b.c"),
        ("grüße ~ I(ä + ö.b)", ".b is not allowed in a formula", "ö.b"),
    ],
)
def test_caret_marks_refused_part_of_formula(text: str, message: str, culprit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"label.formula: {text!r}: ")
    assert message in str(caught.value)
    shown, caret = caught.value.extra_lines.split("\n")
    assert shown[caret.index("^") :].startswith(culprit)
    assert caret.strip() == "^"


@pytest.mark.parametrize(
    "text",
    [
        "I(a + 9**9**9)",
        "I(I(9)**I(9)**I(9))",
        "I(-9**(9**9))",
        "I(a * 2**70)",
        "I(a + 99999999999999999999)",
        "I(a + " + "9" * 5_000 + ")",
        "I(a + 1 / 0)",
        "I(a + (-8) ** 0.5)",
        "I(a + 10.0 ** 999)",
        "C(a, levels='a' * 10**10)",
        "C(a, levels=[1] * 10**10)",
        "C(a, levels='%9999999999d' % 1)",
        "hashed(a, 10**9)",
        "hashed(a, levels=len(b))",
        "bs(a, df=10**9)",
        "poly(a, 1000)",
        "round(a, 10**9)",
        "bs(a, df=1000):bs(b, df=1000)",
        ":".join(f"C(a{i}, levels=[1, 2, 3, 4, 5, 6, 7, 8])" for i in range(9)),
        "I(" + "-" * 9_000 + "a)",
        "I(" + "a**" * 3_000 + "a)",
        "I(a" + ".b" * 4_000 + ")",
        "I(" * 2_400 + "a" + ")" * 2_400,
        "I(" * 150 + "a" + ")" * 150,
        "I(" + "a+" * 200 + "a)",
        "C(a, levels=" + "[" * 190 + "1" + "]" * 190 + ")",
        "I(a\0)",
        "I('\ud800')",
        "a + " * 5_000 + "a",
    ],
)
def test_too_expensive_formula_raises_one_line_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"likes ~ {text}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_numpy_functions_work_with_np_prefix() -> None:
    followers, likes = POSTS["followers"].to_numpy().astype(float), POSTS["likes"].to_numpy()
    np.testing.assert_array_equal(column("sqrt(followers)")[:, 0], np.sqrt(followers))
    np.testing.assert_array_equal(column("np.sqrt(followers)")[:, 0], np.sqrt(followers))
    np.testing.assert_array_equal(
        column("np.where(followers > 3, likes, np.pi)")[:, 0], np.where(followers > 3, likes, np.pi)
    )
    np.testing.assert_array_equal(column("clip(followers, 2, 5)")[:, 0], np.clip(followers, 2, 5))
    np.testing.assert_array_equal(column("round(followers / 7, decimals=1)")[:, 0], np.round(followers / 7, 1))
    np.testing.assert_array_equal(column("I((followers > 2) & (likes <= 8.0))")[:, 0], (followers > 2) & (likes <= 8))
    np.testing.assert_array_equal(column("I(kind == 'a')")[:, -1], POSTS["kind"].to_numpy(zero_copy_only=False) == "a")
    # A column may have the name of a function.
    np.testing.assert_array_equal(column("I(where * 2)")[:, 0], 2 * POSTS["where"].to_numpy())
    assert (
        design_of('likes ~ C(kind, levels=["a", \'b\', "it\'s"])').terms[-1]
        == "C(kind, levels=['a', 'b', \"it's\"])[T.it's]"
    )


@pytest.mark.parametrize("name", [name for name, n in allowed._ELEMENTWISE.items() if n < 3])
def test_allowed_numpy_functions_work_row_by_row(name: str) -> None:
    n = allowed._ELEMENTWISE[name]
    values = np.random.default_rng(0).uniform(0.1, 0.9, (n, 8))
    if name in ("round", "around"):
        values = values[:1]
    names = dict(zip("ab", values, strict=False))
    whole = evaluate_expression(f"{name}({', '.join(names)})", {**allowed.FUNCTIONS, **names})
    assert whole.shape == (8,)
    part = {key: value[3:5] for key, value in names.items()}
    half = evaluate_expression(f"np.{name}({', '.join(names)})", {**allowed.FUNCTIONS, **part})
    np.testing.assert_array_equal(whole[3:5], half)


def test_python_builtins_are_unavailable_in_formulas() -> None:
    """Even an expression that is wrongly accepted cannot call a builtin."""
    tree = allowed.FUNCTIONS
    assert not {"open", "eval", "getattr", "__import__"} & set(tree)
    assert allowed.CONTEXT["open"] is None
    assert allowed.CONTEXT["__import__"] is None
    assert allowed.CONTEXT["abs"] is np.abs


@given(st.text(alphabet="ab0123+-*/().,[]{}'\"`\\:~%_ \n=<>!lIC#$é", max_size=40))
@example("[)")
def test_any_text_is_parsed_or_raises_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(f"y ~ {text}")
