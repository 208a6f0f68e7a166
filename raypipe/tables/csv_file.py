"""The one way in which CSV files are written and read again: no text is ever a spreadsheet's formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

# https://owasp.org/www-community/attacks/CSV_Injection, and the wide forms that some programs take for the same.
_SIGNS = "[=+@＝＋－＠-]"
_MARK = "'"
_FIRST = re.compile(rf"{_MARK}|\s*{_SIGNS}|[ \u00a0]*[\t\r\n]")
# If a program splits at semicolons or tabs, the quotes around a text count only in the first column. Then each of these
# characters begins a cell, or a row, in the middle of a text.
_SEPARATOR = r"(?<=[;\t\r\n])"
_INNER = re.compile(rf"""{_SEPARATOR}(?={_MARK}|(?:["']|[^\S\t\r\n])*{_SIGNS})""")
# Needs no quotes whatever a program splits at.
_TAME = re.compile(r"\w[\w .%/-]*")
_INNER_MARK = re.compile(f"{_SEPARATOR}{_MARK}")


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A header and rows as UTF-8; None is an empty cell, numbers are as they are, text but plain words is in quotes.

    Text that a spreadsheet would calculate (it begins with ``= + - @``, a tab or a new line, also after spaces) gets an
    apostrophe before it, and so does text that begins with one. What follows a semicolon, a tab or a line break within
    a text is marked in the same way, as some spreadsheets split there. `from_csv` takes exactly these marks away.
    """
    # A line without any character would be no row.
    lines = [",".join(map(_cell, row)) or '""' for row in (header, *rows)]
    # A lone half of a character, as JSON can hold it, has no UTF-8.
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def from_csv(data: bytes) -> list[dict[str, str]]:
    """The rows of what `to_csv` wrote, by column; every cell is text."""
    lines = [[_text(cell) for cell in line] for line in csv.reader(io.StringIO(data.decode(), newline="")) if line]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Number):
        return str(value)
    text = str(value)
    if _TAME.fullmatch(text):
        return text
    text = f"{_MARK if _FIRST.match(text) else ''}{_INNER.sub(_MARK, text)}"
    return '"{}"'.format(text.replace('"', '""'))


def _text(cell: str) -> str:
    return _INNER_MARK.sub("", cell.removeprefix(_MARK))
