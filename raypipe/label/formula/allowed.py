"""What a formula may contain: columns, numbers, strings, arithmetic, comparisons and a fixed list of functions.

formulaic evaluates the expressions of a formula as Python code, and a formula may come with a model from another
person. So this module checks the syntax tree of each expression before any part of it is evaluated: when
`raypipe.label.formula.formula` reads the formula, and again when an expression is evaluated.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from formulaic.transforms import TRANSFORMS

from raypipe.label.formula.backticks import misread_name, replace_backticks, why_unusable

MOST_COLUMNS = 10_000
"""Maximum number of columns of X that a formula may make."""

_DEPTH = 100
_LARGEST = 2**63

# numpy functions that compute each row by itself, by the maximum number of their arguments.
_OF_ONE = """
    abs absolute fabs sign negative positive reciprocal square sqrt cbrt rint floor ceil trunc exp exp2 expm1 log log2
    log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh deg2rad rad2deg degrees radians
    isfinite isinf isnan signbit logical_not
"""
_OF_TWO = """
    add subtract multiply divide true_divide floor_divide mod remainder fmod power float_power maximum minimum fmax fmin
    hypot arctan2 copysign heaviside logaddexp logaddexp2 logical_and logical_or logical_xor equal not_equal less
    less_equal greater greater_equal round around
"""
_ELEMENTWISE = dict.fromkeys(_OF_ONE.split(), 1) | dict.fromkeys(_OF_TWO.split(), 2) | {"clip": 3, "where": 3}
_NUMBERS = ("pi", "e", "inf", "nan", "euler_gamma")
_CONTRASTS = ("treatment", "sum", "helmert", "poly", "diff", "SAS", "custom")
_CLASSES = {"Treatment", "Poly", "Sum", "Helmert", "Diff"}
_OF_NUMPY = {name: getattr(np, name) for name in _ELEMENTWISE}
# `Q` names a column by a string, so the search for columns does not see it. Backticks do the same, but are seen.
_TRANSFORMS = {name: made for name, made in TRANSFORMS.items() if name not in ("np", "contr", "Q", *_OF_NUMPY)}

FUNCTIONS: Mapping[str, Any] = {**TRANSFORMS, **_OF_NUMPY}
"""Names that are defined when an expression is evaluated, besides the columns."""

CONTEXT: Mapping[str, Any] = {**dict.fromkeys(dir(builtins)), **_OF_NUMPY}
"""Names that formulaic uses besides its transforms and the columns. Python's built-in names are set to None."""

_TAKEN = frozenset({*FUNCTIONS, *CONTEXT})

# Settings that decide how many columns a transform makes, and the largest allowed values of settings.
_WIDTHS = ("df", "knots", "levels", "degree")
_LIMITS = {"df": 1_000, "levels": 1_000, "degree": 20, "decimals": 20}

_ARITHMETIC: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
# formulaic rewrites expressions and puts them between its own quotes. These characters would break the result.
_UNQUOTABLE = re.compile(r"[\\`]|[^\S ]")
_QUOTES = re.compile(r"['\"]")

_REFUSED: dict[type[ast.AST], str] = {
    ast.Lambda: "a lambda function",
    ast.Subscript: "an index",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
    ast.Set: "a set",
    ast.Compare: "an in or is comparison",
    ast.BinOp: "<<, >> or @",
}
_INSTEAD: dict[type[ast.AST], str] = {
    ast.IfExp: "if and else are not allowed in a formula; use np.where",
    ast.BoolOp: "the operators and and or are not allowed in a formula; use & and |",
    ast.UnaryOp: "the operator not is not allowed in a formula; use ~",
}
Number = int | float


class NotAllowedError(ValueError):
    """An expression contains a part that is not allowed in a formula; `node` is that part of its syntax tree."""

    def __init__(self, node: ast.AST, reason: str) -> None:
        super().__init__(reason)
        self.node = node


@lru_cache(maxsize=1024)
def parse_checked(expression: str) -> tuple[ast.expr, dict[str, str]]:
    """The syntax tree of an expression, and the column names in backticks, by the identifiers that replace them.

    Raises SyntaxError if the text is not an expression, and NotAllowedError if a part of it is not allowed.
    """
    text, aliases = replace_backticks(expression, _TAKEN)
    for identifier, name in aliases.items():
        if reason := why_unusable(name, identifier):
            # `ast.unparse` gives this name as the formula spells it, so that its position can be found.
            raise NotAllowedError(ast.Name(f"`{name}`"), reason)
    try:
        tree = ast.parse(text, mode="eval").body
    except (RecursionError, MemoryError, ValueError) as error:
        # The nesting is too deep for Python's parser, or the text has bytes that Python source may not contain.
        raise SyntaxError(str(error) or "too deeply nested") from error
    _check_value(tree, _DEPTH)
    if node := misread_name(tree, text):
        raise NotAllowedError(node, f"Python reads this name as {node.id!r}, which may be another column")
    return tree, aliases


def learns_from_data(node: ast.AST) -> bool:
    """Whether a node of a checked tree calls a transform that learns from the posts."""
    return isinstance(node, ast.Call) and getattr(_resolve_function(node), "__is_stateful_transform__", False)


def count_columns(expression: str) -> int:
    """Number of columns that an expression makes according to its settings (``df=5``), else 1."""
    calls = [_bind_arguments(node) for node in ast.walk(parse_checked(expression)[0]) if isinstance(node, ast.Call)]
    return math.prod(max([1, *(_count(given[name]) for name in _WIDTHS if name in given)]) for given in calls)


def _count(setting: ast.expr) -> int:
    if isinstance(setting, (ast.List, ast.Tuple)):
        return len(setting.elts)
    return int(_check_value(setting, _DEPTH) or 1)


def _check_value(node: ast.AST, depth: int) -> Number | None:
    """Checks an expression of numbers, classes or settings. Returns its value if it is one constant number, else None.

    Constant numbers are computed here, with limits, so that no expression can take very long to compute.
    """
    if depth == 0:
        raise NotAllowedError(node, "it is nested too deeply")
    deeper = depth - 1
    match node:
        case ast.Constant(value=value):
            return _constant(node, value)
        case ast.Name():
            _name(node)
        case ast.Attribute():
            _attribute(node)
        case ast.UnaryOp() | ast.BinOp() if type(node.op) in _ARITHMETIC:
            return _arithmetic(node, deeper)
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(
            isinstance(op, _COMPARISONS) for op in ops
        ):
            for part in (left, *comparators):
                _check_value(part, deeper)
        case ast.Call():
            return _call(node, deeper)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                _check_value(part, deeper)
        case ast.Dict(keys=keys, values=values):
            if None in keys:
                raise NotAllowedError(node, f"{_REFUSED[ast.Starred]} is not allowed in a formula")
            for item in (*filter(None, keys), *values):
                _check_value(item, deeper)
        case _:
            refused = _REFUSED.get(type(node), type(node).__name__)
            raise NotAllowedError(node, _INSTEAD.get(type(node), f"{refused} is not allowed in a formula"))
    return None


def _constant(node: ast.AST, value: Any) -> Number | None:
    if isinstance(value, str):
        if _UNQUOTABLE.search(value):
            raise NotAllowedError(node, "the string contains a backslash, a backtick or a line break")
    elif isinstance(value, (int, float)):
        return _check_magnitude(node, value)
    elif value is not None:
        raise NotAllowedError(node, f"{value!r} is not allowed in a formula")
    return None


def _check_magnitude(node: ast.AST, value: Number) -> Number:
    if isinstance(value, int) and abs(value) >= _LARGEST:
        # Python computes integers of any size exactly, which can take very long.
        raise NotAllowedError(node, "the number is too large; write it with an exponent: 1e20")
    return value


def _name(node: ast.Name) -> None:
    if node.id.startswith("__"):
        raise NotAllowedError(node, f"name {node.id!r} is not defined")
    if node.id in TRANSFORMS and node.id not in _CLASSES:
        if node.id in ("np", "contr"):
            raise NotAllowedError(node, f"{node.id} is not a column; write {node.id}.NAME")
        raise NotAllowedError(node, f"{node.id} is a function; write it with its argument: {node.id}(…)")


def _attribute(node: ast.Attribute) -> Any:
    """The object that ``np.NAME`` or ``contr.NAME`` names. Raises NotAllowedError for any other attribute."""
    owner = node.value.id if isinstance(node.value, ast.Name) else None
    if owner == "np" and (node.attr in _OF_NUMPY or node.attr in _NUMBERS):
        return getattr(np, node.attr)
    if owner == "contr" and node.attr in _CONTRASTS:
        return getattr(TRANSFORMS["contr"], node.attr)
    if owner == "np":
        raise NotAllowedError(node, f"np.{node.attr} is not a numpy function that a formula may call")
    raise NotAllowedError(node, f".{node.attr} is not allowed in a formula; use a function, not a method")


def _arithmetic(node: ast.UnaryOp | ast.BinOp, depth: int) -> Number | None:
    operands = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    for operand in operands:
        if isinstance(operand, (ast.List, ast.Tuple, ast.Dict)) or (
            isinstance(operand, ast.Constant) and not isinstance(operand.value, (int, float))
        ):
            raise NotAllowedError(operand, "arithmetic takes only numbers and columns")
    values = [_check_value(operand, depth) for operand in operands]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(operands):
        return None
    if isinstance(node.op, ast.Pow) and abs(numbers[1]) > 1_024:
        raise NotAllowedError(node, "the power is too large")
    try:
        found = _ARITHMETIC[type(node.op)](*numbers)
    except (ArithmeticError, TypeError) as error:
        raise NotAllowedError(node, f"it cannot be computed: {error}") from error
    if isinstance(found, complex):
        raise NotAllowedError(node, "it is not a real number")
    return _check_magnitude(node, found)


def _call(node: ast.Call, depth: int) -> Number | None:
    given, of_numpy = _bind_arguments(node), _numpy_name(node) is not None
    values = {name: _check_value(argument, depth) for name, argument in given.items()}
    for i, (name, argument) in enumerate(given.items()):
        if i > 0 and not of_numpy:
            _setting(name, argument)
        if name in _LIMITS:
            _limited(name, argument, values[name])
    _check_quotes(node)
    # `I(…)` returns its argument.
    own = isinstance(node.func, ast.Name) and node.func.id == "I"
    return next(iter(values.values())) if own else None


def _check_quotes(node: ast.Call) -> None:
    """Refuses quotes in calls that learn: formulaic writes the call into a string, and a quote would end it."""
    if not learns_from_data(node):
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and _QUOTES.search(part.value):
            raise NotAllowedError(part, f"the string contains a quote, which {ast.unparse(node.func)}(…) cannot take")


def _setting(name: str, argument: ast.expr) -> None:
    """Checks a setting of a transform (any argument but the first). It must not depend on the posts."""
    called = {id(part.func) for part in ast.walk(argument) if isinstance(part, ast.Call)}
    for part in ast.walk(argument):
        if isinstance(part, ast.Name) and id(part) not in called and part.id not in (*_CLASSES, "np", "contr"):
            raise NotAllowedError(part, f"{name} is a setting, not a column")


def _limited(name: str, argument: ast.expr, value: Number | None) -> None:
    plain = isinstance(argument, (ast.List, ast.Tuple)) or (
        isinstance(argument, ast.Constant) and argument.value is None
    )
    if not plain and (value is None or abs(value) > _LIMITS[name]):
        raise NotAllowedError(argument, f"{name} must be a number of at most {_LIMITS[name]:,}")


def _numpy_name(node: ast.Call) -> str | None:
    """The name of the numpy function that is called, as ``np.NAME`` or as ``NAME``; None if it is another function."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr if isinstance(node.func.value, ast.Name) and node.func.value.id == "np" else None
    return node.func.id if isinstance(node.func, ast.Name) and node.func.id in _OF_NUMPY else None


def _bind_arguments(node: ast.Call) -> dict[str, ast.expr]:
    """The arguments of a call by parameter name, in the order of the function's parameters."""
    function, name = _resolve_function(node), _numpy_name(node)
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            raise NotAllowedError(argument, f"{_REFUSED[ast.Starred]} is not allowed in a formula")
    for keyword in node.keywords:
        hidden = keyword.arg is None or keyword.arg.startswith("_") or keyword.arg == "hash_func"
        if hidden or (name is not None and keyword.arg != "decimals"):
            # One example is numpy's `out`, which would write into a column.
            raise NotAllowedError(
                keyword.value, f"{ast.unparse(node.func)} takes no {keyword.arg or '**'} in a formula"
            )
    if name is not None:
        # numpy functions do not name their parameters, or have more of them than a formula may use.
        if len(node.args) + len(node.keywords) > _ELEMENTWISE.get(name, 0) or not node.args:
            most = _ELEMENTWISE.get(name, 0)
            raise NotAllowedError(
                node, f"{name} takes {'1' if most == 1 else f'1 to {most}'} argument{'s' * (most > 1)} in a formula"
            )
        found = dict(zip(("x", "decimals" if name in ("round", "around") else "y", "z"), node.args, strict=False))
        return found | {str(keyword.arg): keyword.value for keyword in node.keywords}
    try:
        keywords = {str(keyword.arg): keyword.value for keyword in node.keywords}
        bound: dict[str, ast.expr] = dict(inspect.signature(function).bind(*node.args, **keywords).arguments)
    except TypeError as error:
        raise NotAllowedError(node, f"{ast.unparse(node.func)}: {error}") from error
    for parameter in bound:
        if parameter.startswith("_") or parameter == "hash_func":
            raise NotAllowedError(node, f"{ast.unparse(node.func)} takes fewer arguments in a formula")
    return bound


def _resolve_function(node: ast.Call) -> Callable[..., Any]:
    """The function that is called. Raises NotAllowedError if it is not one of the allowed functions."""
    if isinstance(node.func, ast.Attribute):
        found = _attribute(node.func)
    elif not isinstance(node.func, ast.Name):
        raise NotAllowedError(node.func, "call a function by its name")
    else:
        name = node.func.id
        found = _OF_NUMPY.get(name, _TRANSFORMS.get(name))
        if found is None:
            raise NotAllowedError(node.func, _unknown(name))
    if not callable(found):
        raise NotAllowedError(node.func, f"{ast.unparse(node.func)} is a number and cannot be called")
    function: Callable[..., Any] = found
    return function


def _unknown(name: str) -> str:
    if name == "Q":
        return "Q(…) is not allowed in a formula; write any column name `in backticks`"
    near = difflib.get_close_matches(name, [*_TRANSFORMS, *_OF_NUMPY], n=1)
    return f"name {name!r} is not defined{f'; did you mean {near[0]}?' if near else ''}"
