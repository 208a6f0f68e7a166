"""Parses a regression in Wilkinson notation: its text, its y and the columns of posts that it reads.

formulaic defines the notation, transforms and names of terms. `raypipe.label.formula.design` makes the matrices.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import formulaic
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from formulaic.errors import FormulaicError
from formulaic.parser.algos.sanitize_tokens import sanitize_tokens
from formulaic.parser.algos.tokenize import tokenize
from formulaic.parser.types import Factor, Token
from formulaic.transforms import TRANSFORMS
from formulaic.utils.code import sanitize_variable_names

from raypipe.errors import ConfigError, InputError, one_line
from raypipe.label.formula import allowed, expansion
from raypipe.label.formula.derived import DERIVED_COLUMNS, is_number, source_columns, variable_type

Floats = npt.NDArray[np.float64]
Expression = tuple[ast.expr, dict[str, str]]
"""The syntax tree, and the column names in backticks, by the identifiers that replace them."""

MAX_LENGTH = 10_000
"""Maximum number of characters of a formula."""
MAX_TERMS = 1_000
"""Maximum number of terms of an expanded formula: ``a * b`` has three."""

_SHOWN = 200
_SPACE = re.compile(r"\s")
# formulaic's messages show the formula. This mark, and the code of a colour, come before the wrong part.
_MARK = re.compile(r"⧛(?:\x1b\[[0-9;]*m)?")


@dataclass(frozen=True)
class Formula:
    """A parsed formula: its text, the expression of y as written, and the columns of posts that it reads.

    `variables` may include derived columns (`raypipe.label.formula.derived`). `classes` are the variables in a
    ``C(…)``, which treats a number as a class. `joint` are those of them that share a ``C(…)`` with another column, so
    that it matters which of their values occur together.
    """

    text: str
    response: str
    variables: tuple[str, ...]
    classes: frozenset[str]
    joint: frozenset[str]
    parsed: Any = field(repr=False, compare=False)

    @property
    def factors(self) -> Iterator[Factor]:
        """The factors of y and of all terms."""
        return (factor for side in (self.parsed.lhs, self.parsed.rhs) for factor in _factors(side))

    def response_only(self) -> Formula:
        """The formula ``response ~ 1``, for schemes that need y and no regression."""
        return parse(f"{self.response} ~ 1")


def parse(text: str) -> Formula:
    """Parses a formula ``y ~ terms``.

    Raises ConfigError, with a caret below the wrong part, if the formula cannot be read, is too large, or has a part
    that is not allowed (see `raypipe.label.formula.allowed`). An expression that is not allowed is never evaluated.
    """
    if not isinstance(text, str):
        raise ConfigError(f"label.formula: must be a text, y ~ a + b, not a {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"label.formula: {shown(text)} is {len(text):,} characters long; at most {MAX_LENGTH:,}")
    try:
        # formulaic evaluates parts of y while it reads the formula, so the text is checked before.
        _check_tokens(text)
        expansion.check_expansion(text)
        parsed = formulaic.Formula(text)
    except expansion.TooManyTermsError as error:
        raise ConfigError(f"label.formula: {shown(text)}: {error}", extra_lines=_caret(text, error.place)) from error
    except (FormulaicError, SyntaxError) as error:
        # The rest of the message, after the first sentence, is for programmers.
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ConfigError(
            f"label.formula: {shown(text)} cannot be read: {reason}", extra_lines=_caret(text, _place(text, error))
        ) from error
    except (ValueError, TypeError, LookupError, NotImplementedError, RecursionError, MemoryError) as error:
        raise ConfigError(f"label.formula: {shown(text)} cannot be read: {one_line(error)}") from error
    except AttributeError as error:
        # formulaic's parser fails so on unbalanced brackets such as `[)`.
        raise ConfigError(f"label.formula: {shown(text)} cannot be read: its brackets do not match") from error
    sides = getattr(parsed, "lhs", None), getattr(parsed, "rhs", None)
    if not all(isinstance(side, formulaic.SimpleFormula) for side in sides) or len(parsed.lhs) != 1:
        raise ConfigError(f"label.formula: {shown(text)} must have one y, one ~ and terms: y ~ a + b")
    # formulaic reads an empty right side as the constant.
    if not len(parsed.rhs) or text.rstrip().endswith("~"):
        raise ConfigError(f"label.formula: {shown(text)} has no term on the right; write y ~ 1 for the mean alone")
    # formulaic evaluates the expressions as it has rewritten them, so they are checked in that form.
    found = [_variables(factor, text) for side in sides for factor in _factors(side)]
    _check_size(text, parsed.rhs)
    names, classes = frozenset[str]().union(*(names for names, _ in found)), [c for _, calls in found for c in calls]
    _check_learners(text, [factor for side in sides for factor in _factors(side)], names)
    joint = frozenset[str]().union(*(columns for columns in classes if len(columns) > 1))
    response = text.partition("~")[0].strip()
    return Formula(text, response, tuple(sorted(names)), frozenset[str]().union(*classes), joint, parsed)


def _check_tokens(text: str) -> None:
    """Raises ConfigError if an expression is not allowed, or if formulaic would confuse two names."""
    # First the expressions as written, for the caret. Then the expressions as formulaic rewrites them.
    written = [token for token in tokenize(text) if token.kind is Token.Kind.PYTHON]
    trees = [_read(token.token, text, token.source_start or 0) for token in written]
    rewritten = list(sanitize_tokens(tokenize(text)))
    expressions = [token for token in rewritten if token.kind is Token.Kind.PYTHON]
    for before, tree, token in zip(written, trees, expressions, strict=True):
        _check_rewritten(before.token, tree, token, text)
    _check_name_collisions(text, rewritten)


def _check_rewritten(expression: str, tree: Expression, token: Token, text: str) -> None:
    """Raises ConfigError if formulaic, which rewrites an expression by search and replace, has changed its meaning."""
    start = token.source_start or 0
    if "`" not in expression:
        _read(token.token, text, start)
        return
    try:
        found = allowed.parse_checked(token.token)
    except (allowed.NotAllowedError, SyntaxError):
        found = None
    if found is None or ast.dump(found[0]) != ast.dump(tree[0]) or found[1] != tree[1]:
        raise ConfigError(
            f"label.formula: {shown(text)}: a name in backticks is also part of another name or string in this "
            "expression; remove the backticks if the name does not need them, or rename the column",
            extra_lines=_caret(text, start),
        )


def _check_name_collisions(text: str, tokens: list[Token]) -> None:
    """Raises ConfigError if a column is named like an expression or a number: formulaic keeps only one of the two."""
    # The text of each term, and its column if it is a column by itself. The constant 1 is in each formula.
    known: dict[str, str | None] = {"1": None}
    for token in tokens:
        column = None
        if token.kind is Token.Kind.NAME:
            column = token.token
        elif token.kind is Token.Kind.PYTHON:
            tree, aliases = allowed.parse_checked(token.token)
            column = aliases.get(tree.id, tree.id) if isinstance(tree, ast.Name) else None
        elif token.kind is not Token.Kind.VALUE or token.token == "0":
            continue
        if known.setdefault(token.token, column) != column:
            raise ConfigError(
                f"label.formula: {shown(text)}: the column {token.token!r} and another term are both written "
                f"{token.token}; write I(`{token.token}`) for the column, or rename it",
                extra_lines=_caret(text, token.source_start),
            )


def _check_learners(text: str, factors: list[Factor], names: Set[str]) -> None:
    """Raises ConfigError if a transform could not find its learned values again.

    formulaic keeps learned values by the text of the call. If a column's name is not an identifier and the usual
    replacement is taken, formulaic makes up a random name, and the text changes.
    """
    for factor in factors:
        expression = str(factor.expr)
        if factor.eval_method is not Factor.EvalMethod.PYTHON or "`" not in expression:
            continue
        tree, aliases = allowed.parse_checked(expression)
        env = dict.fromkeys({*names, *allowed.FUNCTIONS, *allowed.CONTEXT})
        theirs = ast.parse(sanitize_variable_names(expression, env, {}), mode="eval").body
        for node, other in zip(ast.walk(tree), ast.walk(theirs), strict=True):
            if (
                not isinstance(node, ast.Call)
                or not allowed.learns_from_data(node)
                or ast.dump(node) == ast.dump(other)
            ):
                continue
            used = [part.id for part in ast.walk(other) if isinstance(part, ast.Name)]
            ours = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
            name = next(aliases[a] for a, b in zip(ours, used, strict=True) if a != b)
            raise ConfigError(
                f"label.formula: {shown(text)}: {ast.unparse(node.func)}(…) cannot take the column {name!r} here: the "
                "expression names it twice, or another name of the formula differs from it only in characters such as "
                "spaces; rename one",
                extra_lines=_caret(text, max(text.find(f"`{name}`"), 0)),
            )


def _read(expression: str, text: str, start: int = 0) -> Expression:
    """Reads and checks an expression, which begins at `start` or later in the formula `text`."""
    try:
        return allowed.parse_checked(expression)
    except allowed.NotAllowedError as error:
        raise ConfigError(
            f"label.formula: {shown(text)}: {error}",
            extra_lines=_caret(text, _place_of(error.node, expression, text, start)),
        ) from error


def _place_of(node: ast.AST, expression: str, text: str, start: int) -> int:
    """Position of a part of an expression in the formula, or of the whole expression if the part cannot be found."""
    begin = max(text.find(expression.strip(), start), start)
    lines = expression.strip().split("\n")
    line, column = getattr(node, "lineno", 1) - 1, getattr(node, "col_offset", 0)
    if "`" in expression or line >= len(lines):
        # Python reads identifiers in place of names in backticks, so its positions are not those of the formula.
        return max(text.find(ast.unparse(node), begin), begin)
    return begin + sum(len(line) + 1 for line in lines[:line]) + len(lines[line].encode()[:column].decode())


def _check_size(text: str, terms: Any) -> None:
    most = max(len(term.factors) for term in terms)
    if most > expansion.MOST_FACTORS:
        raise ConfigError(f"label.formula: {shown(text)}: a term has {most} factors; at most {expansion.MOST_FACTORS}")
    python = Factor.EvalMethod.PYTHON
    columns = sum(
        math.prod(allowed.count_columns(str(factor.expr)) for factor in term.factors if factor.eval_method is python)
        for term in terms
    )
    if len(terms) > MAX_TERMS or columns > allowed.MOST_COLUMNS:
        raise ConfigError(
            f"label.formula: {shown(text)} makes {len(terms):,} terms of {columns:,} "
            f"columns; at most {MAX_TERMS:,} terms of {allowed.MOST_COLUMNS:,} columns"
        )


def _place(text: str, error: Exception) -> int | None:
    if isinstance(error, SyntaxError):
        # Python's own error, about one factor.
        start = text.find((error.text or "").strip())
        return start + (error.offset or 1) - 1 if error.text and start >= 0 else None
    shown = str(error).rpartition("\n")[2]
    found = _MARK.search(shown)
    return found.start() if found else None


def shown(text: str) -> str:
    """A formula in quotes for an error message, shortened if it is long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def _caret(text: str, place: int | None) -> str:
    """The formula, and on the next line a caret below the wrong part; empty if `place` is None."""
    shown = _SPACE.sub(" ", text)
    return "" if place is None else f"  {shown}\n  {' ' * place}^"


def _factors(side: Any) -> Iterator[Factor]:
    return (factor for term in side for factor in term.factors)


def _variables(factor: Factor, text: str) -> tuple[set[str], list[set[str]]]:
    """The variables of a factor, and those of each ``C(…)`` in it."""
    if factor.eval_method is Factor.EvalMethod.LITERAL:
        return set(), []
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return {str(factor.expr)}, []
    # formulaic's own search for variables fails if a transform is inside another transform: bs(log10(x)).
    try:
        tree, aliases = _read(str(factor.expr), text)
    except SyntaxError as error:
        raise ConfigError(
            f"label.formula: {shown(text)} cannot be read: {error.msg}", extra_lines=_caret(text, _place(text, error))
        ) from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {id(node.func) for node in calls}

    def names(part: ast.AST) -> set[str]:
        found = {node.id for node in ast.walk(part) if isinstance(node, ast.Name) and id(node) not in called}
        return {aliases.get(name, name) for name in found} - set(TRANSFORMS)

    return names(tree), [names(argument) for node in calls_of(tree, {"C"}) for argument in node.args[:1]]


def calls_of(tree: ast.AST, functions: Set[str]) -> list[ast.Call]:
    """The calls of the named functions anywhere in a tree."""
    return [node for node in ast.walk(tree) if is_call(node, functions)]


def is_call(node: ast.AST, functions: Set[str]) -> TypeGuard[ast.Call]:
    """Whether a node of a tree calls one of the named functions."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions


def check_columns(formula: Formula, schema: pa.Schema) -> None:
    """Raises InputError, with a caret below the name, if a column is not in posts/ or has neither numbers nor text."""
    for name in formula.variables:
        missing = [column for column in source_columns(name, schema) if column not in schema.names]
        if not missing:
            if not _is_usable(variable_type(name, schema)):
                made = ", ".join(DERIVED_COLUMNS)
                raise InputError(
                    f"label.formula: column {name!r} of posts/ contains {variable_type(name, schema)}, but a formula "
                    f"needs numbers or text (derived from times and captions: {made})",
                    extra_lines=caret_below(formula.text, name),
                )
            continue
        made = f" (needed for {name})" if missing != [name] else ""
        also = ", ".join(name for name in DERIVED_COLUMNS if name not in schema.names)
        raise InputError(
            f"label.formula: posts/ has no column {missing[0]!r}{made}; it has {', '.join(schema.names)}, "
            f"and derived columns {also}",
            extra_lines=caret_below(formula.text, name),
        )


def _is_usable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return is_number(kind) or any(
        check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_null)
    )


def caret_below(text: str, name: str | None) -> str:
    """The formula with a caret below the first place where it names `name`; empty if it does not."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) if name else None
    return _caret(text, found.start() if found else None)
