"""The bits of Markdown that a model card is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Text of any kind as code in a line or a cell of a table."""
    shown = " ".join(text.split()).replace("|", "\\|")
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
