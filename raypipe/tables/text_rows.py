"""Rows of CSV and JSONL text: a damaged line is kept apart with a reason, and the other lines are read."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

LONGEST_FIELD = 10_000_000
"""Characters of one field of CSV."""
DEEPEST = 100
"""Levels of lists and objects in a line of JSON."""

# Of a pair of surrogates, which JSON may escape one by one.
_HALF = re.compile(r"\\u[dD]")


class _Lines:
    """Lines of a text. Those of the current row can be put back."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._text, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        return line

    def put_back(self) -> str:
        """Put all lines of the current row back but the first, and return that one."""
        first, *others = self.taken
        self._again.extendleft(reversed(others))
        self.taken.clear()
        self.ended = False
        return first


def csv_rows(text: Iterable[str], longest: int = LONGEST_FIELD) -> Iterator[list[str] | tuple[str, str]]:
    """The rows of a CSV text as lists of fields. A line that opens a row without an end comes as (line, reason).

    Reasons: ``unclosed_quote``, and ``field_too_long`` for a field of more than `longest` characters. The lines behind
    are read as rows of their own, so that a stray quote does not take the rest of the file with it.
    """
    # The limit is one for the whole process.
    csv.field_size_limit(longest)
    lines = _Lines(text)
    reader = csv.reader(lines)
    while True:
        lines.taken.clear()
        try:
            row = next(reader, None)
        except csv.Error:
            yield lines.put_back().rstrip("\r\n"), "field_too_long"
            reader = csv.reader(lines)
            continue
        if row is None:
            return
        if lines.ended:
            # The reader ends a row at the end of the text only if a quote is open.
            yield lines.put_back().rstrip("\r\n"), "unclosed_quote"
            reader = csv.reader(lines)
        else:
            yield row


def is_utf8(text: str) -> bool:
    """Whether a text that was decoded with ``surrogateescape`` was UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(line: str) -> str:
    """A line as text, with U+FFFD for each byte that is no UTF-8."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def json_object(line: str) -> dict[str, Any] | str:
    """The object of a JSON line, or why it is no row.

    Reasons: ``not_utf8``, ``not_a_json_object``, ``empty_object``, ``nested_too_deeply``.
    """
    if not is_utf8(line):
        return "not_utf8"
    try:
        row = json.loads(line)
    except RecursionError:
        return "nested_too_deeply"
    except ValueError:
        return "not_a_json_object"
    if not isinstance(row, dict):
        return "not_a_json_object"
    if not row:
        # In a block of its own it would be a table without columns, and so without rows.
        return "empty_object"
    if line.count("[") + line.count("{") > DEEPEST and _is_deep(row):
        return "nested_too_deeply"
    return {without_halves(name): value for name, value in row.items()} if _HALF.search(line) else row


def _is_deep(row: dict[str, Any]) -> bool:
    """Whether values are nested more than `DEEPEST` levels deep, which JSON's own writer may refuse to write."""
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
        if not level:
            return False
    return True


def without_halves(text: str) -> str:
    """A text with ``?`` for each half of a surrogate pair, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()
