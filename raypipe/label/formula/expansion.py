"""Estimates how many terms a formula expands to, before it is expanded: ``(a + b + c) ** 20`` would take years."""

from __future__ import annotations

import math
from typing import Any

from formulaic.parser import DefaultFormulaParser
from formulaic.parser.types import ASTNode, Token

MOST_FACTORS = 10
"""Maximum number of factors of one term. If they are classes, 2 to the power of this number have to be compared."""

_MOST_STEPS = 200_000
_SUMS = ("+", "-", "~", "|")

Size = tuple[float, float]
"""Number of terms, and number of factors of the longest term."""


class TooManyTermsError(ValueError):
    """The formula would expand to too many terms; `place` is the position in the text where that happens."""

    def __init__(self, place: int | None) -> None:
        super().__init__("it expands to too many terms; use fewer columns or a lower power")
        self.place = place


def check_expansion(text: str) -> None:
    """Raises TooManyTermsError if expanding the formula would take long; formulaic's errors if it cannot be read.

    formulaic evaluates parts of y here, so the formula's expressions must be checked before.
    """
    tree = DefaultFormulaParser().get_ast(text)
    sizes: dict[int, Size] = {}
    steps = 0.0
    for node in _from_leaves(tree):
        size = sizes[id(node)] = _size(node, [sizes.get(id(part), (1, 1)) for part in node.args])
        if node.operator.symbol not in _SUMS:
            steps += math.prod(size)
        if steps > _MOST_STEPS:
            raise TooManyTermsError(_start(node))


def _from_leaves(tree: Any) -> list[Any]:
    """The operators of a formula, each one after its operands."""
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
    # formulaic reports what is wrong with any other exponent.
    return int(text) if text.isdecimal() and len(text) < 10 else 10**9 if text.isdecimal() else 1


def _start(node: Any) -> int | None:
    left = [node]
    while left:
        part = left.pop()
        if isinstance(part, ASTNode):
            left.extend(reversed(list(part.args)))
        elif part.source_start is not None:
            # The constant that formulaic adds has no position in the text.
            return int(part.source_start)
    return None
