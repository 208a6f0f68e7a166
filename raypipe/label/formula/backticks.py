"""Replaces names in backticks by identifiers that Python can read.

formulaic replaces `` `a b` `` by ``a_b`` before it evaluates an expression. If the expression already has another name
``a_b``, formulaic makes up a random identifier. Here the identifier is the same each time.
"""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
from collections.abc import Container

from formulaic.utils.code import UNQUOTED_BACKTICK_MATCHER, sanitize_variable_name

# All words except names of arguments: `df` in `bs(a, df=5)` is not a column.
_WORD = re.compile(r"\b\w+\b(?!\s*=(?!=))")
_UNNAMABLE = re.compile(r"['\"\\]|[^\S ]")


def replace_backticks(expression: str, functions: Container[str]) -> tuple[str, dict[str, str]]:
    """The expression with an identifier for each name in backticks, and these names by their identifiers.

    No new identifier equals a word of the expression outside backticks, or one of `functions`.
    """
    parts = UNQUOTED_BACKTICK_MATCHER.split(expression)
    ticks = [i for i, part in enumerate(parts) if part == "`"]
    # A backtick without a partner stays, and Python reports it as an error.
    pairs = list(zip(ticks[::2], ticks[1::2], strict=False))
    inside = {i for begin, end in pairs for i in range(begin, end + 1)}
    # Every second part is a string in quotes or a backtick.
    words = {word for i in range(0, len(parts), 2) if i not in inside for word in _WORD.findall(parts[i])}
    names = ["".join(parts[begin + 1 : end]) for begin, end in pairs]
    words |= set(filter(str.isidentifier, names))
    identifiers: dict[str, str] = {}
    for (begin, end), name in zip(pairs, names, strict=True):
        if name not in identifiers:
            identifiers[name] = _identifier(name, words, functions, set(identifiers.values()))
        parts[begin : end + 1] = [f" {identifiers[name]} ", *[""] * (end - begin)]
    return "".join(parts).strip(), {identifier: name for name, identifier in identifiers.items()}


def _identifier(name: str, words: Container[str], functions: Container[str], used: Container[str]) -> str:
    if not name or name.isidentifier():
        return name
    found: str = sanitize_variable_name(name, {}, reserved_names=())
    while found in words or found in functions or found in used:
        found += "_"
    return found


def why_unusable(name: str, identifier: str) -> str | None:
    """Why a name in backticks cannot be used in an expression; None if it can."""
    if not name:
        return "a name in backticks is empty"
    if _UNNAMABLE.search(name):
        reason = "contains a quote, a backslash or a line break"
    elif keyword.iskeyword(name):
        reason = "is a Python keyword"
    elif not identifier.isidentifier() or unicodedata.normalize("NFKC", identifier) != identifier:
        reason = "contains a character that Python changes or cannot read"
    elif identifier.startswith("__"):
        reason = "begins with two underscores in Python"
    else:
        return None
    return f"the name {name!r} {reason}; rename the column, or use it as a term by itself"


def misread_name(tree: ast.AST, text: str) -> ast.Name | None:
    """A name in `text` that Python reads as another name (it reads the ligature ﬁ as the letters f and i), or None."""
    if text.isascii():
        return None
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return next((node for node in names if ast.get_source_segment(text, node) != node.id), None)
