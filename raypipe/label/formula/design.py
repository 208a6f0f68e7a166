"""Makes y and X from any block of posts, with the same columns each time.

Some terms learn from the data: levels of a categorical, knots of a spline, a mean to centre on. They learn once, and
the `Design` keeps the result. The `Design` then treats each row by itself, so it does not matter how the posts are cut
into blocks.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from formulaic.parser.types import Factor

from raypipe.errors import ConfigError, InputError, one_line
from raypipe.label.formula.allowed import CONTEXT, MOST_COLUMNS
from raypipe.label.formula.derived import as_floats, is_number, variable_type, variable_values
from raypipe.label.formula.formula import Floats, Formula, caret_below
from raypipe.label.formula.numpy_evaluator import NumpyEvaluator, compile_numpy_evaluator
from raypipe.label.formula.rowwise import classes_of, finite_rows, learns_numbers

MAX_LEVELS = 1_000
"""Maximum number of classes of a column. Each class is a term, so a column with more is a mistake (captions, names)."""

_PROBE_ROWS = 64
# Numbers in one matrix: 64 MB.
_MATRIX_NUMBERS = 2**23
_FEWEST_ROWS = 1_024


@dataclass(frozen=True)
class Matrices:
    """y of shape (n,), X of shape (n, p) and weights of shape (n,) (None: all 1) of a block's usable rows.

    `kept` marks the usable rows among the block's rows. `dropped` counts the others by reason.
    """

    y: Floats
    X: Floats
    weights: Floats | None
    kept: npt.NDArray[np.bool_]
    dropped: Counter[str]


@dataclass(frozen=True)
class Design:
    """A formula with what its terms have learned, and the column of weights if there is one. Picklable.

    `levels` has the known classes of each categorical factor.
    """

    formula: Formula
    terms: tuple[str, ...]
    spec: Any = field(repr=False)
    weights: str | None = None
    numpy_evaluator: NumpyEvaluator | None = field(default=None, repr=False, compare=False)
    levels: dict[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    def slices(self, posts: pa.Table) -> Iterator[pa.Table]:
        """The posts of a block in slices, shorter ones if there are many terms, so that a matrix fits into memory."""
        rows = max(_FEWEST_ROWS, _MATRIX_NUMBERS // (len(self.terms) + 1))
        return (posts.slice(start, rows) for start in range(0, max(len(posts), 1), rows))

    def matrices(self, posts: pa.Table) -> Matrices:
        """y and X of the usable rows: those in which each value is present and finite.

        The other rows are dropped. They are counted as ``missing_value`` (a null or NaN in one of the formula's
        columns), ``unknown_level`` (a class that the design has not seen), ``no_weight`` (missing, infinite, 0 or less)
        or ``not_finite`` (infinite in the data, or after a transform such as the logarithm of 0).
        """
        variables = _values(self.formula, posts)
        kept = _complete(variables.values(), len(posts))
        dropped = Counter({"missing_value": int(np.sum(~kept))})
        if self.numpy_evaluator is None:
            # Terms did not learn from rows that are not finite, and may raise an error on them: a spline has bounds.
            numbers = _numbers(variables)
            finite = finite_rows(self.formula, numbers, len(posts))
            dropped["not_finite"] = int(np.sum(kept & ~finite))
            kept &= finite
            for factor, known in self.levels.items():
                values = classes_of(factor, variables, numbers)
                if values is not None:
                    found = pc.is_in(values, value_set=pa.array(known, values.type)).to_numpy()
                    dropped["unknown_level"] += int(np.sum(kept & ~found))
                    kept &= found
        weights = None
        if self.weights is not None:
            weights, usable = _weights(posts, self.weights)
            dropped["no_weight"] = int(np.sum(kept & ~usable))
            kept &= usable
        if not kept.all():
            mask = pa.array(kept)
            variables = {name: values.filter(mask) for name, values in variables.items()}
        y, X = self._evaluate(variables, int(kept.sum()))
        finite = np.isfinite(y) & np.isfinite(X).all(axis=1)
        if not finite.all():
            dropped["not_finite"] += int(np.sum(~finite))
            y, X = y[finite], X[finite]
            kept[kept] = finite
        return Matrices(y, X, None if weights is None else weights[kept], kept, +dropped)

    def _evaluate(self, variables: dict[str, pa.ChunkedArray], n: int) -> tuple[Floats, Floats]:
        if n == 0:
            return np.empty(0), np.empty((0, len(self.terms)))
        if self.numpy_evaluator is not None:
            return self.numpy_evaluator.evaluate({name: values.to_numpy() for name, values in variables.items()}, n)
        return _model_matrices(self.spec, _frame(variables, n), self.terms)


def design_without_learning(formula: Formula, schema: pa.Schema, weights: str | None = None) -> Design | None:
    """The design of a formula if its terms learn nothing from the data, else None.

    Raises ConfigError if a term uses values of other rows.
    """
    if not all(is_number(variable_type(name, schema)) for name in formula.variables):
        return None
    # Random numbers. Only the names of the columns, and whether anything was learned, are read from them.
    probe = {name: pa.chunked_array([_probe(i)]) for i, name in enumerate(formula.variables)}
    try:
        design = learn_design(formula, probe, _PROBE_ROWS, weights)
    except InputError:
        # A term that fails on these numbers depends on the data, so only the posts can decide about it.
        return None
    learns = any(
        spec.transform_state or any(kind is not Factor.Kind.NUMERICAL for kind, _ in spec.encoder_state.values())
        for spec in (design.spec.lhs, design.spec.rhs)
    )
    if learns:
        return None
    found = compile_numpy_evaluator(formula, design.spec)
    if found is not None:
        arrays = {name: values.to_numpy() for name, values in probe.items()}
        theirs = _model_matrices(design.spec, _frame(probe, _PROBE_ROWS))
        ours = found.evaluate(arrays, _PROBE_ROWS)
        found = found if all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)) else None
    return Design(formula, design.terms, design.spec, weights, found)


def _probe(seed: int) -> Floats:
    return np.random.default_rng(seed).uniform(1, 100, _PROBE_ROWS).round(2)


LearningData = tuple[dict[str, pa.ChunkedArray], int]
"""The part of a block that `learn_design` needs: values of the formula's variables, and the number of rows."""


def learning_data(formula: Formula, posts: pa.Table, weights: str | None = None) -> LearningData:
    """The part of a block that terms can learn from: each class of a column once, and the numbers of its usable rows.

    If no term learns from numbers, only a few of them are taken. A row is usable if it is complete, has a weight (if
    there are weights), and nothing computed from it is infinite.
    """
    variables = _values(formula, posts)
    kept = _complete(variables.values(), len(posts))
    if weights is not None:
        # Terms do not learn from rows without a weight.
        kept &= _weights(posts, weights)[1]
    kept &= finite_rows(formula, _numbers(variables), len(posts))
    n, classes_only = int(kept.sum()), not learns_numbers(formula)
    taken = {}
    for name, values in variables.items():
        values = values.filter(pa.array(kept))
        if _is_class(formula, name, values.type, classes_only):
            taken[name] = pa.chunked_array([pc.unique(values)])
        else:
            taken[name] = values.slice(0, MAX_LEVELS) if classes_only else values
    return taken, min(n, MAX_LEVELS) if classes_only else n


def join_learning_data(formula: Formula, parts: Sequence[LearningData]) -> LearningData:
    """Joins the learning data of all blocks. Classes fill the rows in any order: no term learns which row has which."""
    n, classes_only = sum(rows for _, rows in parts), not learns_numbers(formula)
    joined = {}
    for name in formula.variables:
        values = pa.chunked_array([chunk for part, _ in parts for chunk in part[name].chunks], parts[0][0][name].type)
        if _is_class(formula, name, values.type, classes_only):
            levels = pc.unique(values)
            _check_levels(name, len(levels))
            values = pa.chunked_array([levels.take(pa.array(np.arange(n) % max(len(levels), 1)))])
        joined[name] = values
    return joined, n


def learn_design(formula: Formula, variables: dict[str, pa.ChunkedArray], n: int, weights: str | None = None) -> Design:
    """Learns the design from the values of a formula's variables in `n` rows.

    Raises InputError if n is 0, y is not one number, two terms have one name, a column has too many classes or a term
    cannot be evaluated. Raises ConfigError if a function uses other rows (a lag), as its value would then depend on how
    posts are cut into blocks.
    """
    if n == 0:
        also = f", and a weight in {weights}" if weights else ""
        raise InputError(f"label.formula: no post has a usable value in each of {', '.join(formula.variables)}{also}")
    for name in formula.classes:
        _check_levels(name, pc.count_distinct(variables[name]).as_py())
    _check_products(formula, variables)
    frame = _frame(variables, n)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # formulaic warns of classes that a formula leaves out on purpose. `matrices` drops and counts their rows.
            warnings.simplefilter("ignore")
            made = formula.parsed.get_model_matrix(frame, context=CONTEXT, na_action="ignore", output="numpy")
    except Exception as error:  # whatever numpy or a transform raises on these values
        _check_text(formula, variables)
        raise InputError(f"label.formula: {formula.text!r} cannot be used on these posts: {one_line(error)}") from error
    spec = made.model_spec
    if len(spec.lhs.column_names) != 1:
        raise InputError(f"label.formula: y must be a number, but {formula.response!r} is not one")
    twice = [name for name, times in Counter(spec.rhs.column_names).items() if times > 1]
    if twice:
        raise InputError(f"label.formula: {formula.text!r} has two terms named {twice[0]!r}; rename a column")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_rowwise(formula, spec, frame.head(1_000))
    return Design(formula, tuple(spec.rhs.column_names), spec, weights, levels=levels_of(spec))


def levels_of(spec: Any) -> dict[str, tuple[Any, ...]]:
    """The classes that each categorical factor of a materialised formula knows."""
    return {
        factor: tuple(level.item() if isinstance(level, np.generic) else level for level in state["categories"])
        for side in (spec.lhs, spec.rhs)
        for factor, (_, state) in side.encoder_state.items()
        if "categories" in state
    }


def _values(formula: Formula, posts: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: variable_values(name, posts, name in formula.classes) for name in formula.variables}


def _numbers(variables: dict[str, pa.ChunkedArray]) -> dict[str, npt.NDArray[Any]]:
    return {name: values.to_numpy() for name, values in variables.items() if is_number(values.type)}


def _weights(posts: pa.Table, name: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The weights of a block, and a mask of those that are finite and above 0."""
    values = as_floats(posts[name]).to_numpy()
    return values, np.isfinite(values) & (values > 0)


def _is_class(formula: Formula, name: str, kind: pa.DataType, classes_only: bool) -> bool:
    """Whether terms learn only which classes a variable has, and not how often or with what each class occurs."""
    if name in formula.joint:
        return False
    # A number in C(…) may also occur outside of C(…). Its mean or knots may be learned there (not if `classes_only`).
    return not is_number(kind) or (name in formula.classes and (classes_only or formula.text.count(name) == 1))


def _check_text(formula: Formula, variables: dict[str, pa.ChunkedArray]) -> None:
    """Raises InputError if a term computes with a column of text."""
    for factor in formula.factors:
        if factor.eval_method is not Factor.EvalMethod.PYTHON:
            continue
        for name, values in variables.items():
            if caret_below(str(factor.expr), name) and name not in formula.classes and not is_number(values.type):
                raise InputError(
                    f"label.formula: column {name!r} contains {values.type}, but {factor.expr} needs a number; use "
                    "the column by itself, so that its classes are terms",
                    extra_lines=caret_below(formula.text, name),
                )


def _check_levels(name: str, n: int) -> None:
    if n > MAX_LEVELS:
        raise InputError(
            f"label.formula: column {name!r} has {n:,} classes, and each would be a term "
            f"(at most {MAX_LEVELS:,}); use a column of numbers or with fewer classes"
        )


def _check_products(formula: Formula, variables: dict[str, pa.ChunkedArray]) -> None:
    """Raises InputError if the classes of several columns together make too many terms."""

    def count(name: str) -> int:
        known = variables.get(name)
        return 1 if known is None or is_number(known.type) else int(pc.count_distinct(known).as_py())

    for term in formula.parsed.rhs:
        n = math.prod(count(str(factor.expr)) for factor in term.factors)
        if n > MOST_COLUMNS:
            raise InputError(
                f"label.formula: {term} makes {n:,} terms from the classes of its columns (at most {MOST_COLUMNS:,}); "
                "use columns with fewer classes"
            )


def _check_rowwise(formula: Formula, spec: Any, frame: Any) -> None:
    half = len(frame) // 2
    if half == 0:
        return
    whole = np.column_stack(_model_matrices(spec, frame))
    halves = np.vstack([np.column_stack(_model_matrices(spec, part)) for part in (frame[:half], frame[half:])])
    if not np.allclose(whole, halves, rtol=1e-12, atol=0, equal_nan=True):
        raise ConfigError(
            f"label.formula: {formula.text!r} has a term that uses other rows (a lag); "
            "use center, scale or poly, which learn from all posts, or add a column to the posts"
        )


def _model_matrices(spec: Any, frame: Any, terms: tuple[str, ...] | None = None) -> tuple[Floats, Floats]:
    """y and X. Raises ValueError if the columns of X are not `terms`, for example in an edited model file."""
    # The caller drops rows with the logarithm of 0. Filters of warnings apply to all threads, so none is set here.
    with np.errstate(all="ignore"):
        made = spec.get_model_matrix(frame, context=CONTEXT)
    found = made.rhs.model_spec.column_names
    if terms is not None and tuple(found) != terms:
        raise ValueError(f"its formula makes {', '.join(found)}, but has coefficients of {', '.join(terms)}")
    return np.asarray(made.lhs, dtype=np.float64)[:, 0], np.asarray(made.rhs, dtype=np.float64)


def _complete(columns: Any, n: int) -> npt.NDArray[np.bool_]:
    complete = np.ones(n, dtype=bool)
    for values in columns:
        if values.null_count or pa.types.is_floating(values.type):
            complete &= ~pc.is_null(values, nan_is_null=True).to_numpy()
    return complete


def _frame(variables: dict[str, pa.ChunkedArray], n: int) -> Any:
    # A formula that reads no column (`1 ~ 1` in a probe) gets its number of rows from the index.
    return pd.DataFrame({name: values.to_pandas() for name, values in variables.items()}, index=pd.RangeIndex(n))
