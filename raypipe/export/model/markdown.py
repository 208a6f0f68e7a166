"""Markdown for model cards. `code` and `text` escape users' words, so that they are not read as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from raypipe.errors import printable

_INLINE = re.compile(r"[\\`*_\[\]<>&~$!]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_FIRST = re.compile(r"^([#+=-]|\d+(?=[.)]))")
_MARKS = re.compile(r"[\\`*_\[\]~$!|:]")


def text(words: str) -> str:
    """Any words for a line, a heading or a table cell, escaped so that they are shown unchanged."""
    line = _FIRST.sub(_escaped_first, _INLINE.sub(r"\\\g<0>", " ".join(printable(words).split())))
    # Some readers begin a new cell at "|" even after a backslash.
    return line.replace("|", "&#124;")


def _escaped_first(found: re.Match[str]) -> str:
    # A number with a dot or bracket after it would begin a list. The backslash goes before the dot or bracket.
    return f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}"


def code(text: str) -> str:
    """Any text as code, for a line or a table cell."""
    shown = " ".join(printable(text).split())
    if "|" in shown:
        # Between backticks "|" cannot be escaped and would begin a new cell.
        return f"<code>{_MARKS.sub(lambda mark: f'&#{ord(mark[0])};', html.escape(shown))}</code>"
    fence = "`" * (1 + max((len(run) for run in _runs(shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else "(empty)"


def _runs(text: str) -> list[str]:
    return "".join(letter if letter == "`" else " " for letter in text).split()


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names as code. Only the first `most` are listed; the rest are counted."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(code(name) for name in names[:most]) + more


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = True) -> str:
    """A Markdown table. Columns after the first are aligned to the right if they are `numbers`."""
    align = "--:" if numbers else "---"
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "\n".join(f"|{'|'.join(_cell(value) for value in line)}|" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return f" {text} " if text else " "
