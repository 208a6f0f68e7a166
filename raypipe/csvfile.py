"""The one way in which CSV files are written and read again: a cell of text is never a spreadsheet's formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

# https://owasp.org/www-community/attacks/CSV_Injection, and the wide forms that some programs take for the same.
_STARTS = tuple("=+-@\t\r\n＝＋－＠")
_MARK = "'"


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A header and rows as UTF-8; None is an empty cell, numbers are written as they are.

    Text that a spreadsheet would calculate (it begins with ``= + - @``, a tab or a new line, also after spaces) gets an
    apostrophe before it, and so does text that begins with one: `from_csv` takes exactly one away.
    """
    lines: list[str] = []
    # Python quotes a carriage return within a cell only where lines end in one; they end in a line feed all the same.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    text = "".join(line.removesuffix("\r\n") + "\n" for line in lines)
    # A lone half of a character, as JSON can hold it, has no UTF-8.
    return text.encode(errors="backslashreplace")


def from_csv(data: bytes) -> list[dict[str, str]]:
    """The rows of what `to_csv` wrote, by column; every cell is text."""
    lines = [[_text(cell) for cell in line] for line in csv.reader(io.StringIO(data.decode(), newline="")) if line]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    # The second: a space before it keeps it from few programs.
    odd = value.startswith((*_STARTS, _MARK)) or value.lstrip(" \u00a0").startswith(_STARTS)
    return f"{_MARK}{value}" if odd else value


def _text(cell: str) -> str:
    return cell.removeprefix(_MARK)
