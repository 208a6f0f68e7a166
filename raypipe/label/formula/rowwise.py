"""The parts of a formula that need only one row: the rows that terms can learn from, and the class of each row.

`center(log10(likes))` learns a mean. One post without likes would make this mean and all values of the term infinite.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from formulaic.parser.types import Factor
from formulaic.transforms import TRANSFORMS

from raypipe.label.formula.allowed import FUNCTIONS, parse_checked
from raypipe.label.formula.formula import Formula, calls_of, is_call
from raypipe.label.formula.numpy_evaluator import evaluate_expression

_LEARNING = {name for name, made in TRANSFORMS.items() if getattr(made, "__is_stateful_transform__", False)}
Columns = Mapping[str, npt.NDArray[Any]]


def finite_rows(formula: Formula, columns: Columns, n: int) -> npt.NDArray[np.bool_]:
    """Mask (n,) of the rows in which all parts that learn nothing are finite; `columns` are the numeric variables."""
    finite = np.ones(n, dtype=bool)
    for factor in formula.factors:
        for expression, names in _parts(factor):
            values = _evaluate(expression, names, columns)
            if values is not None and values.shape in ((), (n,)) and values.dtype.kind in "fiub":
                finite &= np.isfinite(values.astype(np.float64))
    return finite


def learns_numbers(formula: Formula) -> bool:
    """Whether terms learn more than which classes occur: a mean, knots, or which ones occur together."""
    if formula.joint:
        return True
    texts = [str(factor.expr) for factor in formula.factors if factor.eval_method is Factor.EvalMethod.PYTHON]
    return any(calls_of(parse_checked(text)[0], _LEARNING) for text in texts)


def classes_of(factor: str, variables: Mapping[str, pa.ChunkedArray], columns: Columns) -> pa.ChunkedArray | None:
    """The class of each row for a categorical factor (``kind``, ``C(hour)``, ``C(n // 2)``), before it is encoded.

    None if it cannot be computed. `columns` are the numeric variables.
    """
    if factor in variables:
        return variables[factor]
    tree, aliases = parse_checked(factor)
    if is_call(tree, {"C"}) and tree.args:
        tree = tree.args[0]
    if isinstance(tree, ast.Name):
        return variables.get(aliases.get(tree.id, tree.id))
    names = {node.id: aliases.get(node.id, node.id) for node in ast.walk(tree) if isinstance(node, ast.Name)}
    values = _evaluate(ast.unparse(tree), {name: own for name, own in names.items() if own in variables}, columns)
    return None if values is None or values.ndim != 1 else pa.chunked_array([pa.array(values)])


def _evaluate(expression: str, names: dict[str, str], columns: Columns) -> npt.NDArray[Any] | None:
    if not set(names.values()) <= set(columns):
        return None
    given = {name: columns[column] for name, column in names.items()}
    try:
        with np.errstate(all="ignore"):
            return evaluate_expression(expression, {**FUNCTIONS, **given})
    except Exception:
        # A user's expression may raise anything. `learn_design` reports it with the whole formula.
        return None


def _parts(factor: Factor) -> Iterator[tuple[str, dict[str, str]]]:
    """The largest parts of a factor that contain no transform that learns, each with its columns by name."""
    if factor.eval_method is Factor.EvalMethod.LITERAL:
        return
    text = str(factor.expr)
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        yield "column", {"column": text}
        return
    tree, aliases = parse_checked(text)
    for part in _plain(tree):
        calls = {id(node.func) for node in ast.walk(part) if isinstance(node, ast.Call)}
        found = {node.id for node in ast.walk(part) if isinstance(node, ast.Name) and id(node) not in calls}
        yield ast.unparse(part), {name: aliases.get(name, name) for name in found if name not in TRANSFORMS}


def _plain(node: ast.AST) -> Iterator[ast.AST]:
    apart = _LEARNING | {"C"}
    if not calls_of(node, apart):
        if isinstance(node, ast.expr):
            yield node
    elif is_call(node, apart):
        # Classes need not be finite. Other transforms learn from their first argument, and the rest are settings.
        if not is_call(node, {"C"}):
            yield from (part for argument in node.args[:1] for part in _plain(argument))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _plain(child)
