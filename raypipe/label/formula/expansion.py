"""How many terms a formula becomes when it is written out, told before: ``(a + b + c) ** 20`` would take years."""

from __future__ import annotations

import math
from typing import Any

from formulaic.parser import DefaultFormulaParser
from formulaic.parser.types import ASTNode, Token

MOST_FACTORS = 10
"""Factors of one term; two to the power of that many have to be compared where they are classes."""

_MOST_STEPS = 200_000
_SUMS = ("+", "-", "~", "|")

Size = tuple[float, float]
"""Terms, and factors of the longest of them."""


class TooManyError(ValueError):
    """The formula would become too many terms; `place` is where in the text that happens."""

    def __init__(self, place: int | None) -> None:
        super().__init__("it becomes too many terms when it is written out; name fewer columns, or a lower power")
        self.place = place


def check(text: str) -> None:
    """TooManyError where writing the formula out would take long; what formulaic raises where it cannot be read.

    formulaic evaluates parts of y here: check the formula's expressions before.
    """
    tree = DefaultFormulaParser().get_ast(text)
    sizes: dict[int, Size] = {}
    steps = 0.0
    for node in _from_leaves(tree):
        size = sizes[id(node)] = _size(node, [sizes.get(id(part), (1, 1)) for part in node.args])
        if node.operator.symbol not in _SUMS:
            steps += math.prod(size)
        if steps > _MOST_STEPS:
            raise TooManyError(_start(node))


def _from_leaves(tree: Any) -> list[Any]:
    """The operators of a formula, each behind what it is applied to."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        if isinstance(node, ASTNode):
            found.append(node)
            left.extend(node.args)
    return found[::-1]


def _size(node: Any, parts: list[Size]) -> Size:
    if not parts:
        return 1, 1
    (terms, factors), (more, further) = parts[0], parts[-1]
    if len(parts) == 1:
        return terms, factors
    match node.operator.symbol:
        case ":":
            return terms * more, factors + further
        case "*":
            return terms + more + terms * more, factors + further
        case "/" | "in":
            return terms + more, terms * factors + more * further
        case "**" | "^":
            power = _power(node.args[1])
            return (terms**power if power * math.log(max(terms, 1)) < 100 else math.inf), power * factors
        case _:
            return terms + more, max(factors, further)


def _power(token: Any) -> int:
    text = token.token if isinstance(token, Token) else ""
    # Of another exponent formulaic says what is wrong.
    return int(text) if text.isdecimal() and len(text) < 10 else 10**9 if text.isdecimal() else 1


def _start(node: Any) -> int | None:
    left = [node]
    while left:
        part = left.pop()
        if isinstance(part, ASTNode):
            left.extend(reversed(list(part.args)))
        elif part.source_start is not None:
            # The constant, which formulaic adds, stands nowhere.
            return int(part.source_start)
    return None
