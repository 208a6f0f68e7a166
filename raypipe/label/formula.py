"""A regression in Wilkinson notation, and the same columns of y and X from any block of posts.

The notation, its transforms and the names of terms are formulaic's. What a term learns from the data (levels of a
categorical, knots of a spline, a mean to centre on) is learned once and kept in the `Design`, which then treats each
row by itself, so that it does not matter how the posts are cut into blocks.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import formulaic
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from formulaic.errors import FormulaicError
from formulaic.parser.types import Factor
from formulaic.transforms import TRANSFORMS
from formulaic.utils.code import sanitize_variable_names

from raypipe.errors import ConfigError, InputError, one_line

Floats = npt.NDArray[np.float64]

MAX_LEVELS = 1_000
"""Classes of a column that may stand in a formula: each is a term, so more is a mistake (captions, names)."""

_PROBE_ROWS = 64


@dataclass(frozen=True)
class Formula:
    """A parsed formula: its text, the expression of y as written, and the columns of posts that it reads."""

    text: str
    response: str
    variables: tuple[str, ...]
    parsed: Any = field(repr=False, compare=False)

    def response_only(self) -> Formula:
        """The formula ``response ~ 1``, for schemes that need y and no regression."""
        return parse(f"{self.response} ~ 1")


def parse(text: str) -> Formula:
    """Read a formula ``y ~ terms``; ConfigError where it cannot be read."""
    try:
        parsed = formulaic.Formula(text)
    except (FormulaicError, SyntaxError) as error:
        # What follows the first sentence marks the place with terminal colours, or speaks to programmers.
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ConfigError(f"label.formula: {text!r} cannot be read: {reason}") from error
    sides = getattr(parsed, "lhs", None), getattr(parsed, "rhs", None)
    if not all(isinstance(side, formulaic.SimpleFormula) for side in sides) or len(parsed.lhs) != 1:
        raise ConfigError(f"label.formula: {text!r} must have one y, one ~ and terms: y ~ a + b")
    if not len(parsed.rhs):
        raise ConfigError(f"label.formula: {text!r} has no term on the right; write y ~ 1 for the mean alone")
    try:
        names = {name for side in sides for factor in _factors(side) for name in _variables(factor)}
    except SyntaxError as error:
        raise ConfigError(f"label.formula: {text!r} cannot be read: {error.msg}") from error
    return Formula(text, text.partition("~")[0].strip(), tuple(sorted(names)), parsed)


def _factors(side: Any) -> Iterator[Factor]:
    return (factor for term in side for factor in term.factors)


def _variables(factor: Factor) -> set[str]:
    if factor.eval_method is Factor.EvalMethod.LITERAL:
        return set()
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return {str(factor.expr)}
    # formulaic's own search for variables fails where a transform stands in a transform: bs(log10(x)).
    aliases: dict[str, str] = {}
    tree = ast.parse(sanitize_variable_names(factor.expr, {}, aliases).strip(), mode="eval")
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    return {aliases.get(name, name) for name in names} - set(TRANSFORMS)


@dataclass(frozen=True)
class Matrices:
    """y of shape (n,) and X of shape (n, p) of a block's usable rows; `kept` marks these among the block's rows."""

    y: Floats
    X: Floats
    kept: npt.NDArray[np.bool_]
    dropped: Counter[str]


@dataclass(frozen=True)
class Design:
    """A formula with what its terms have learned; picklable."""

    formula: Formula
    terms: tuple[str, ...]
    spec: Any = field(repr=False)

    def matrices(self, posts: pa.Table) -> Matrices:
        """y and X of the rows where each value is there and finite.

        Rows are counted out as ``missing_value`` (a null or NaN among the formula's columns) or ``not_finite``
        (infinite, or made so by a transform: the logarithm of 0, say).
        """
        complete = _complete(posts, self.formula.variables)
        y, X = _materialise(self.spec, _frame(posts.filter(pa.array(complete)), self.formula))
        finite = np.isfinite(y) & np.isfinite(X).all(axis=1)
        kept = complete.copy()
        kept[complete] = finite
        missing, infinite = int(np.sum(~complete)), int(np.sum(~finite))
        dropped = Counter({name: n for name, n in (("missing_value", missing), ("not_finite", infinite)) if n})
        return Matrices(y[finite], X[finite], kept, dropped)


def check_columns(formula: Formula, schema: pa.Schema) -> None:
    """InputError where the formula names a column that posts/ does not have."""
    for name in formula.variables:
        if name not in schema.names:
            raise InputError(
                f"label.formula: posts/ has no column {name!r} (in {formula.text!r}); it has {', '.join(schema.names)}"
            )


def fixed_design(formula: Formula, schema: pa.Schema) -> Design | None:
    """The design of a formula whose terms learn nothing from the data, None where one does.

    ConfigError where a function of the formula is not known.
    """
    if not all(_is_number(schema.field(name).type) for name in formula.variables):
        return None
    # Numbers of no meaning: only the names of the columns and whether anything was learned are read from them.
    probe = pa.table({"": pa.nulls(_PROBE_ROWS)} | {name: _probe(i) for i, name in enumerate(formula.variables)})
    try:
        design = learn(formula, probe)
    except InputError:
        # A term that these numbers do not suit is one that depends on the data; the data then tell.
        return None
    learns = any(
        spec.transform_state or any(kind is not Factor.Kind.NUMERICAL for kind, _ in spec.encoder_state.values())
        for spec in (design.spec.lhs, design.spec.rhs)
    )
    return None if learns else design


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _probe(seed: int) -> Floats:
    return np.random.default_rng(seed).uniform(1, 100, _PROBE_ROWS).round(2)


def learn(formula: Formula, posts: pa.Table) -> Design:
    """The design that the formula's columns of all posts give.

    Raises InputError where y is not one number, a text column has too many levels or a term cannot be evaluated, and
    ConfigError where a function is not known or looks beyond its own row (a mean, a lag), so that its value would
    depend on how posts are cut into blocks.
    """
    posts = posts.filter(pa.array(_complete(posts, formula.variables)))
    if not len(posts):
        raise InputError(f"label.formula: no post has a value in each of {', '.join(formula.variables)}")
    for name in formula.variables:
        as_classes = f"C({name}" in formula.text.replace(" ", "")
        if _is_number(posts.schema.field(name).type) and not as_classes:
            continue
        if (levels := pc.count_distinct(posts[name]).as_py()) > MAX_LEVELS:
            raise InputError(
                f"label.formula: column {name!r} has {levels:,} classes, each of which would be a term "
                f"(at most {MAX_LEVELS:,}); use a column of numbers or of few classes"
            )
    frame = _frame(posts, formula)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            made = formula.parsed.get_model_matrix(frame, context={}, na_action="ignore", output="numpy")
    except Exception as error:  # whatever numpy or a transform raises on these values
        cause = error.__cause__ or error
        if isinstance(cause, NameError):
            raise ConfigError(f"label.formula: {formula.text!r}: {one_line(cause).rstrip('.')}") from error
        raise InputError(f"label.formula: {formula.text!r} does not suit the posts: {one_line(error)}") from error
    spec = made.model_spec
    if len(spec.lhs.column_names) != 1:
        raise InputError(f"label.formula: y must be a number, but {formula.response!r} is not one")
    _check_rowwise(formula, spec, frame.head(1_000))
    return Design(formula, tuple(spec.rhs.column_names), spec)


def _check_rowwise(formula: Formula, spec: Any, frame: Any) -> None:
    half = len(frame) // 2
    if half == 0:
        return
    whole = np.column_stack(_materialise(spec, frame))
    halves = np.vstack([np.column_stack(_materialise(spec, part)) for part in (frame[:half], frame[half:])])
    if not np.allclose(whole, halves, rtol=1e-12, atol=0, equal_nan=True):
        raise ConfigError(
            f"label.formula: {formula.text!r} has a term that is not computed from its own row alone (a mean, a lag); "
            "use center, scale or poly, which learn from all posts, or add a column to the posts"
        )


def _materialise(spec: Any, frame: Any) -> tuple[Floats, Floats]:
    if len(frame) == 0:
        return np.empty(0), np.empty((0, len(spec.rhs.column_names)))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The logarithm of 0 is counted out by the caller.
        warnings.simplefilter("ignore")
        made = spec.get_model_matrix(frame, context={})
    return np.asarray(made.lhs, dtype=np.float64)[:, 0], np.asarray(made.rhs, dtype=np.float64)


def _complete(posts: pa.Table, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    complete = np.ones(len(posts), dtype=bool)
    for name in names:
        complete &= ~pc.is_null(posts[name], nan_is_null=True).to_numpy(zero_copy_only=False)
    return complete


def _frame(posts: pa.Table, formula: Formula) -> Any:
    # The index gives a formula that reads no column (`1 ~ 1` in a probe) its number of rows.
    return pd.DataFrame({name: posts[name].to_pandas() for name in formula.variables}, index=pd.RangeIndex(len(posts)))
