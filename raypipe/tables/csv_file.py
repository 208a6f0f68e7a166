"""Writes and reads CSV files so that a spreadsheet never takes text for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

# https://owasp.org/www-community/attacks/CSV_Injection, and the full-width forms that some programs treat alike.
_SIGNS = "[=+@＝＋－＠-]"
_MARK = "'"
_FIRST = re.compile(rf"{_MARK}|\s*{_SIGNS}|[ \u00a0]*[\t\r\n]")
# If a program splits at semicolons or tabs, the quotes around a text count only in the first column. Each of these
# characters then begins a new cell or row in the middle of a text.
_SEPARATOR = r"(?<=[;\t\r\n])"
_INNER = re.compile(rf"""{_SEPARATOR}(?={_MARK}|(?:["']|[^\S\t\r\n])*{_SIGNS})""")
# Text that needs no quotes, at any character where a program splits.
_TAME = re.compile(r"\w[\w .%/-]*")
_INNER_MARK = re.compile(f"{_SEPARATOR}{_MARK}")


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A header and rows as UTF-8 bytes. None is an empty cell. Numbers and plain words are written without quotes.

    An apostrophe goes before text that a spreadsheet would calculate: text that begins with ``= + - @``, a tab or a new
    line, also after spaces. Text that begins with an apostrophe gets one too. Text after a semicolon, tab or line break
    in a cell is marked in the same way, because some spreadsheets split there. `from_csv` removes exactly these marks.
    """
    # An empty line would not be read as a row.
    lines = [",".join(map(_cell, row)) or '""' for row in (header, *rows)]
    # A lone surrogate, which JSON can hold, has no UTF-8 form.
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def from_csv(data: bytes) -> list[dict[str, str]]:
    """The rows that `to_csv` wrote, as dicts by column name. Every cell is text."""
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
