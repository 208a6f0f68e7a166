"""The same columns of y and X from any block of posts.

What a term learns from the data (levels of a categorical, knots of a spline, a mean to centre on) is learned once and
kept in the `Design`, which then treats each row by itself, so that it does not matter how the posts are cut into
blocks.
"""

from __future__ import annotations

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
from raypipe.label.derived import type_of, value_of
from raypipe.label.direct import Direct, compile_direct
from raypipe.label.formula import Floats, Formula, point_at
from raypipe.label.rowwise import finite_rows

MAX_LEVELS = 1_000
"""Classes of a column that may stand in a formula: each is a term, so more is a mistake (captions, names)."""

_PROBE_ROWS = 64
# Of a matrix: 64 MB.
_MATRIX_NUMBERS = 2**23
_FEWEST_ROWS = 1_024


@dataclass(frozen=True)
class Matrices:
    """y of shape (n,), X of shape (n, p) and weights of shape (n,) (None: all 1) of a block's usable rows.

    `kept` marks these among the block's rows.
    """

    y: Floats
    X: Floats
    weights: Floats | None
    kept: npt.NDArray[np.bool_]
    dropped: Counter[str]


@dataclass(frozen=True)
class Design:
    """A formula with what its terms have learned, and the column of weights where there is one; picklable.

    `levels` holds the known classes of text variables, for posts that the design has not learned from.
    """

    formula: Formula
    terms: tuple[str, ...]
    spec: Any = field(repr=False)
    weights: str | None = None
    direct: Direct | None = field(default=None, repr=False, compare=False)
    levels: dict[str, frozenset[Any]] = field(default_factory=dict, repr=False)

    def slices(self, posts: pa.Table) -> Iterator[pa.Table]:
        """The posts of a block in parts of so many rows that a matrix of many terms fits into memory too."""
        rows = max(_FEWEST_ROWS, _MATRIX_NUMBERS // (len(self.terms) + 1))
        return (posts.slice(start, rows) for start in range(0, max(len(posts), 1), rows))

    def matrices(self, posts: pa.Table) -> Matrices:
        """y and X of the rows where each value is there and finite.

        Rows are counted out as ``missing_value`` (a null or NaN among the formula's columns), ``unknown_level`` (a
        class that the design has not seen), ``no_weight`` (missing, 0 or less) or ``not_finite`` (infinite, or made
        so by a transform: the logarithm of 0, say).
        """
        variables = _values(self.formula, posts)
        kept = _complete(variables.values(), len(posts))
        dropped = Counter({"missing_value": int(np.sum(~kept))})
        for name, known in self.levels.items():
            found = pc.is_in(variables[name], value_set=pa.array(sorted(known))).to_numpy()
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
        if self.direct is None:
            # Terms that learn were not taught by these, and may refuse them: a spline has its bounds.
            finite = finite_rows(self.formula, _numbers(variables), int(kept.sum()))
            dropped["not_finite"] = int(np.sum(~finite))
            variables = {name: values.filter(pa.array(finite)) for name, values in variables.items()}
            kept[kept] = finite
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
        if self.direct is not None:
            return self.direct.evaluate({name: values.to_numpy() for name, values in variables.items()}, n)
        return _materialise(self.spec, _frame(variables, n))


def fixed_design(formula: Formula, schema: pa.Schema, weights: str | None = None) -> Design | None:
    """The design of a formula whose terms learn nothing from the data, None where one does.

    ConfigError where a function of the formula is not known.
    """
    if not all(is_number(type_of(name, schema)) for name in formula.variables):
        return None
    # Numbers of no meaning: only the names of the columns and whether anything was learned are read from them.
    probe = {name: pa.chunked_array([_probe(i)]) for i, name in enumerate(formula.variables)}
    try:
        design = learn(formula, probe, _PROBE_ROWS, weights)
    except InputError:
        # A term that these numbers do not suit is one that depends on the data; the data then tell.
        return None
    learns = any(
        spec.transform_state or any(kind is not Factor.Kind.NUMERICAL for kind, _ in spec.encoder_state.values())
        for spec in (design.spec.lhs, design.spec.rhs)
    )
    if learns:
        return None
    found = compile_direct(formula, design.spec)
    if found is not None:
        arrays = {name: values.to_numpy() for name, values in probe.items()}
        ours, theirs = found.evaluate(arrays, _PROBE_ROWS), _materialise(design.spec, _frame(probe, _PROBE_ROWS))
        if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            found = None
    return Design(formula, design.terms, design.spec, weights, found)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type stand in a formula as numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _probe(seed: int) -> Floats:
    return np.random.default_rng(seed).uniform(1, 100, _PROBE_ROWS).round(2)


Excerpt = tuple[dict[str, pa.ChunkedArray], int]
"""What a block gives to `learn`: values of the formula's variables, and how many rows they were."""


def excerpt(formula: Formula, posts: pa.Table, weights: str | None = None) -> Excerpt:
    """What terms can learn from a block: all numbers of its usable rows, and each class of a text column once.

    Rows are usable where they are complete, have a weight where there are weights, and compute nothing infinite.
    """
    variables = _values(formula, posts)
    kept = _complete(variables.values(), len(posts))
    if weights is not None:
        # What has no weight has nothing to teach.
        kept &= _weights(posts, weights)[1]
    kept &= finite_rows(formula, _numbers(variables), len(posts))
    taken = {}
    for name, values in variables.items():
        values = values.filter(pa.array(kept))
        taken[name] = pa.chunked_array([pc.unique(values)]) if _is_class(formula, name, values.type) else values
    return taken, int(kept.sum())


def join_excerpts(formula: Formula, parts: Sequence[Excerpt]) -> Excerpt:
    """The excerpt of all blocks: classes are repeated to the number of rows, as which row has which teaches nothing."""
    n = sum(rows for _, rows in parts)
    joined = {}
    for name in formula.variables:
        values = pa.chunked_array([chunk for part, _ in parts for chunk in part[name].chunks], parts[0][0][name].type)
        if _is_class(formula, name, values.type):
            levels = pc.unique(values)
            _check_levels(name, len(levels))
            values = pa.chunked_array([levels.take(pa.array(np.arange(n) % max(len(levels), 1)))])
        joined[name] = values
    return joined, n


def learn(formula: Formula, variables: dict[str, pa.ChunkedArray], n: int, weights: str | None = None) -> Design:
    """The design that the values of a formula's variables in `n` rows give.

    Raises InputError where y is not one number, a column has too many classes or a term cannot be evaluated, and
    ConfigError where a function is not known or looks beyond its own row (a mean, a lag), so that its value would
    depend on how posts are cut into blocks.
    """
    if n == 0:
        raise InputError(f"label.formula: no post has a value in each of {', '.join(formula.variables)}")
    for name in formula.classes:
        _check_levels(name, pc.count_distinct(variables[name]).as_py())
    frame = _frame(variables, n)
    try:
        with np.errstate(all="ignore"):
            made = formula.parsed.get_model_matrix(frame, context={}, na_action="ignore", output="numpy")
    except Exception as error:  # whatever numpy or a transform raises on these values
        cause = error.__cause__ or error
        if isinstance(cause, NameError):
            raise ConfigError(
                f"label.formula: {formula.text!r}: {one_line(cause).rstrip('.')}",
                below=point_at(formula.text, getattr(cause, "name", None)),
            ) from error
        raise InputError(f"label.formula: {formula.text!r} does not suit the posts: {one_line(error)}") from error
    spec = made.model_spec
    if len(spec.lhs.column_names) != 1:
        raise InputError(f"label.formula: y must be a number, but {formula.response!r} is not one")
    _check_rowwise(formula, spec, frame.head(1_000))
    return Design(formula, tuple(spec.rhs.column_names), spec, weights)


def _values(formula: Formula, posts: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: value_of(name, posts, name in formula.classes) for name in formula.variables}


def _numbers(variables: dict[str, pa.ChunkedArray]) -> dict[str, npt.NDArray[Any]]:
    return {name: values.to_numpy() for name, values in variables.items() if is_number(values.type)}


def _weights(posts: pa.Table, name: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The weights of a block, and which of them are there and above 0."""
    values = posts[name].cast(pa.float64()).to_numpy()
    return values, np.isfinite(values) & (values > 0)


def _is_class(formula: Formula, name: str, kind: pa.DataType) -> bool:
    """Whether only the classes of a variable matter to what terms learn, not how often each is there."""
    # A number in C(…) may stand outside of one too, where its mean or its knots are learned.
    return not is_number(kind) or (name in formula.classes and formula.text.count(name) == 1)


def _check_levels(name: str, n: int) -> None:
    if n > MAX_LEVELS:
        raise InputError(
            f"label.formula: column {name!r} has {n:,} classes, each of which would be a term "
            f"(at most {MAX_LEVELS:,}); use a column of numbers or of few classes"
        )


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
    # The logarithm of 0 is counted out by the caller. Filters of warnings belong to all threads: none is set here.
    with np.errstate(all="ignore"):
        made = spec.get_model_matrix(frame, context={})
    return np.asarray(made.lhs, dtype=np.float64)[:, 0], np.asarray(made.rhs, dtype=np.float64)


def _complete(columns: Any, n: int) -> npt.NDArray[np.bool_]:
    complete = np.ones(n, dtype=bool)
    for values in columns:
        if values.null_count or pa.types.is_floating(values.type):
            complete &= ~pc.is_null(values, nan_is_null=True).to_numpy()
    return complete


def _frame(variables: dict[str, pa.ChunkedArray], n: int) -> Any:
    # The index gives a formula that reads no column (`1 ~ 1` in a probe) its number of rows.
    return pd.DataFrame({name: values.to_pandas() for name, values in variables.items()}, index=pd.RangeIndex(n))
