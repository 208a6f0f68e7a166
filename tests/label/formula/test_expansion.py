"""Formulas that would expand to too many terms are refused before expansion."""

from __future__ import annotations

import pytest

from raypipe.errors import ConfigError
from raypipe.label.formula.expansion import TooManyTermsError, check_expansion
from raypipe.label.formula.formula import MAX_LENGTH, MAX_TERMS, parse

LETTERS = "abcdfghijklmnopqrstuvwxz"


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("y ~ (a + b + c) ** 20", "a + b"),
        ("y ~ (a + b) ^ 99999999999999999999", "a + b"),
        ("y ~ ((a + b) ** 9) ** 9", "a + b"),
        ("y ~ 1 + z + " + "*".join(LETTERS), "a*b"),
        ("y ~ " + ":".join(["(a + b)"] * 40), "a + b"),
        ("y ~ " + "/".join(LETTERS * 20), "a/b"),
        ("y ~ " + " %in% ".join(LETTERS * 20), "a %in%"),
    ],
)
def test_too_many_terms_raise_error_with_caret(text: str, culprit: str) -> None:
    with pytest.raises(ConfigError, match="it expands to too many terms") as caught:
        parse(text)
    shown, caret = caught.value.extra_lines.split("\n")
    assert shown[caret.index("^") :].startswith(culprit)
    with pytest.raises(TooManyTermsError):
        check_expansion(text)


def test_formulas_within_term_limit_are_accepted() -> None:
    many = " + ".join(f"c{i}" for i in range(MAX_TERMS - 1))
    assert len(parse(f"y ~ {many}").parsed.rhs) == MAX_TERMS
    with pytest.raises(ConfigError, match="makes 1,001 terms"):
        parse(f"y ~ {many} + x")
    assert len(parse("y ~ (a + b + c + d + f + g + h + i) ** 3").parsed.rhs) == 93
    assert len(parse("y ~ " + "*".join(LETTERS[:9])).parsed.rhs) == 2**9
    assert len(parse("y ~ a / b / c + d %in% f - a:b").parsed.rhs) == 5
    # Equal terms count once.
    assert len(parse("y ~ " + "a+" * 4_000 + "a").parsed.rhs) == 2
    with pytest.raises(ConfigError, match="a term has 11 factors; at most 10"):
        parse("y ~ " + ":".join(LETTERS[:11]))
    with pytest.raises(ConfigError, match=r"is 10,001 characters long; at most 10,000"):
        parse("y ~ a" + " " * (MAX_LENGTH - 4))


def test_formula_must_be_text() -> None:
    for value in (["y", "x"], {"lhs": "y", "rhs": "x"}, None, 3):
        with pytest.raises(ConfigError, match="must be a text"):
            parse(value)  # type: ignore[arg-type]
