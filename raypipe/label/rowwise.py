"""Which rows a formula can learn from: those where all that a row computes by itself is finite.

`center(log10(likes))` learns a mean. One post without a like would make it −∞, and with it every term.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from formulaic.parser.types import Factor
from formulaic.transforms import TRANSFORMS
from formulaic.utils.code import sanitize_variable_names

from raypipe.label.formula import Formula

_LEARNING = {name for name, made in TRANSFORMS.items() if getattr(made, "__is_stateful_transform__", False)} | {"C"}


def finite_rows(formula: Formula, columns: Mapping[str, npt.NDArray[Any]], n: int) -> npt.NDArray[np.bool_]:
    """Where the parts of a formula that learn nothing are finite, of shape (n,); `columns` are those of numbers."""
    finite = np.ones(n, dtype=bool)
    for expression, names in _parts(formula):
        if not set(names.values()) <= set(columns):
            continue
        given = {name: columns[column] for name, column in names.items()}
        try:
            with np.errstate(all="ignore"):
                # As formulaic evaluates it: the user's own formula, on the user's own machine.
                values = np.asarray(eval(expression, {}, {**TRANSFORMS, **given}), dtype=np.float64)
        except Exception:
            continue
        if values.shape in ((), (n,)):
            finite &= np.isfinite(values)
    return finite


def _parts(formula: Formula) -> Iterator[tuple[str, dict[str, str]]]:
    """The largest parts of a formula's factors that hold no transform which learns, each with its columns by name."""
    for factor in formula.factors:
        if factor.eval_method is Factor.EvalMethod.LITERAL:
            continue
        aliases: dict[str, str] = {}
        text = str(factor.expr)
        if factor.eval_method is Factor.EvalMethod.LOOKUP:
            yield "column", {"column": text}
            continue
        tree = ast.parse(sanitize_variable_names(text, {}, aliases).strip(), mode="eval").body
        for part in _plain(tree):
            found = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
            names = {name: aliases.get(name, name) for name in found}
            yield ast.unparse(part), {name: column for name, column in names.items() if column in formula.variables}


def _plain(node: ast.AST) -> Iterator[ast.AST]:
    learning = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _name(call) in _LEARNING]
    if not learning:
        if isinstance(node, ast.expr):
            yield node
    elif isinstance(node, ast.Call) and _name(node) in _LEARNING:
        # Classes need not be finite; of the others what they learn from comes first, and the rest are settings.
        if _name(node) != "C":
            yield from (part for argument in node.args[:1] for part in _plain(argument))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _plain(child)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""
