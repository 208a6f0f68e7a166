"""Reads rows of CSV and JSONL text. A damaged line is returned with a reason, and the other lines are still read."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

MAX_FIELD_CHARS = 10_000_000
"""Maximum number of characters in a CSV field."""
MAX_JSON_DEPTH = 100
"""Maximum depth of nested lists and objects in a line of JSON."""

# The escape of one half of a surrogate pair: JSON may contain one half alone.
_HALF = re.compile(r"\\u[dD]")


class _Lines:
    """The lines of a text. The lines of the current row can be put back."""

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
        """Put back all lines of the current row except the first, and return the first."""
        first, *others = self.taken
        self._again.extendleft(reversed(others))
        self.taken.clear()
        self.ended = False
        return first


def csv_rows(text: Iterable[str], longest: int = MAX_FIELD_CHARS) -> Iterator[list[str] | tuple[str, str]]:
    """The rows of a CSV text as lists of fields. A line that begins a damaged row comes as (line, reason).

    Reasons: ``unclosed_quote``, and ``field_too_long`` for a field of more than `longest` characters. The lines after
    it are read as new rows, so that the rest of the file survives a stray quote.
    """
    # This limit applies to the whole process, so it is restored.
    before = csv.field_size_limit(longest)
    lines = _Lines(text)
    reader = csv.reader(lines)
    try:
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
    finally:
        csv.field_size_limit(before)


def is_utf8(text: str) -> bool:
    """Whether a text that was decoded with ``surrogateescape`` was valid UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def replace_bad_bytes(line: str) -> str:
    """A line with U+FFFD in place of bytes that are not UTF-8."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def json_object(line: str) -> dict[str, Any] | str:
    """The object of a JSON line, or the reason why the line is not a row.

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
        # Alone in a block, it would be a table without columns, and so without rows.
        return "empty_object"
    if line.count("[") + line.count("{") > MAX_JSON_DEPTH and _is_deep(row):
        return "nested_too_deeply"
    return {replace_surrogates(name): value for name, value in row.items()} if _HALF.search(line) else row


def _is_deep(row: dict[str, Any]) -> bool:
    """Whether values are nested deeper than `MAX_JSON_DEPTH` levels. Python's `json.dumps` may refuse such values."""
    level: list[Any] = [row]
    for _ in range(MAX_JSON_DEPTH):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
        if not level:
            return False
    return True


def replace_surrogates(text: str) -> str:
    """A text with ``?`` in place of each lone surrogate, which JSON may hold but UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()
