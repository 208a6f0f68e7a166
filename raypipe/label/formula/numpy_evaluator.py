"""Evaluates formulas of plain arithmetic on numpy arrays, without a data frame.

formulaic decides what the terms are and what their factors mean. If each factor is one column of numbers and learns
nothing, its expression is evaluated directly. This gives the same bits (the caller compares), takes a third of the
time, and releases Python's lock.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt
from formulaic.parser.types import Factor

from raypipe.label.formula.allowed import FUNCTIONS, parse_checked
from raypipe.label.formula.formula import Floats, Formula

# Operators for which pandas and numpy differ on a division by zero.
_DIFFERENT = (ast.FloorDiv, ast.Mod)


@dataclass(frozen=True)
class NumpyEvaluator:
    """The factors of y and of each term as Python expressions; an empty term is the constant."""

    response: str
    terms: tuple[tuple[str, ...], ...]

    def evaluate(self, columns: Mapping[str, npt.NDArray[Any]], n: int) -> tuple[Floats, Floats]:
        """y of shape (n,) and X of shape (n, p), in Fortran order."""
        names = {**FUNCTIONS, **columns}
        known: dict[str, npt.NDArray[Any]] = {}

        def value(expression: str) -> npt.NDArray[Any]:
            if expression in columns:
                return columns[expression]
            if expression not in known:
                known[expression] = evaluate_expression(expression, names)
            return known[expression]

        with np.errstate(all="ignore"):
            X = np.empty((n, len(self.terms)), order="F")
            for j, factors in enumerate(self.terms):
                X[:, j] = value(factors[0]) if factors else 1.0
                for factor in factors[1:]:
                    X[:, j] *= value(factor)
            return np.array(np.broadcast_to(value(self.response), n), dtype=np.float64), X


def evaluate_expression(expression: str, names: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The value of an expression. Raises ValueError if it is not allowed, and any error of the expression."""
    return np.asarray(eval(_code(expression), {"__builtins__": {}}, names))


@lru_cache(maxsize=256)
def _code(expression: str) -> CodeType:
    return compile(ast.Expression(parse_checked(expression)[0]), "label.formula", "eval")


def compile_numpy_evaluator(formula: Formula, spec: Any) -> NumpyEvaluator | None:
    """The direct form of a materialised formula; None if it is more than arithmetic on columns."""
    if not all(name.isidentifier() for name in formula.variables):
        return None
    response = _factors(spec.lhs)
    terms = _factors(spec.rhs)
    if response is None or terms is None or len(response) != 1 or len(response[0]) != 1:
        return None
    return NumpyEvaluator(response[0][0], tuple(terms))


def _factors(spec: Any) -> list[tuple[str, ...]] | None:
    found: list[tuple[str, ...]] = []
    for part in spec.structure:
        if len(part.columns) != 1 or len(part.scoped_terms) != 1 or part.scoped_terms[0].scale != 1:
            return None
        factors = part.term.factors
        if all(factor.eval_method is Factor.EvalMethod.LITERAL and factor.expr == "1" for factor in factors):
            found.append(())
            continue
        if not all(_is_plain(factor) for factor in factors):
            return None
        found.append(tuple(str(factor.expr) for factor in factors))
    return found


def _is_plain(factor: Factor) -> bool:
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return True
    if factor.eval_method is not Factor.EvalMethod.PYTHON:
        return False
    return not any(isinstance(node, _DIFFERENT) for node in ast.walk(parse_checked(str(factor.expr))[0]))
