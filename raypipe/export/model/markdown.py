"""The bits of Markdown that a model card is made of; `code` and `text` keep users' words from being Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from raypipe.errors import plain

_INLINE = re.compile(r"[\\`*_\[\]<>&~$!]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_FIRST = re.compile(r"^([#+=-]|\d+(?=[.)]))")
_MARKS = re.compile(r"[\\`*_\[\]~$!|:]")


def text(words: str) -> str:
    """Words of any kind in a line, a heading or a cell of a table: shown as they are, and nothing but words."""
    line = _FIRST.sub(_escaped_first, _INLINE.sub(r"\\\g<0>", " ".join(plain(words).split())))
    # A backslash before it would not keep all readers from beginning another cell.
    return line.replace("|", "&#124;")


def _escaped_first(found: re.Match[str]) -> str:
    # Of a number, which would begin a list, the dot after it.
    return f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}"


def code(text: str) -> str:
    """Text of any kind as code in a line or a cell of a table."""
    shown = " ".join(plain(text).split())
    if "|" in shown:
        # Between backticks nothing keeps it from beginning another cell.
        return f"<code>{_MARKS.sub(lambda mark: f'&#{ord(mark[0])};', html.escape(shown))}</code>"
    fence = "`" * (1 + max((len(run) for run in _runs(shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else "(empty)"


def _runs(text: str) -> list[str]:
    return "".join(letter if letter == "`" else " " for letter in text).split()


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names as code, the first of them where they are many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(code(name) for name in names[:most]) + more


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = True) -> str:
    """A table whose columns after the first are numbers, to the right, or text."""
    align = "--:" if numbers else "---"
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "\n".join(f"|{'|'.join(_cell(value) for value in line)}|" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return f" {text} " if text else " "
