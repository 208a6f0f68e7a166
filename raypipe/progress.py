"""What a person sees while a stage works: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 5.0


def console() -> Console:
    """Where stages write for people; results that programs read are files."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the person at the terminal."""
    console().print(text, markup=False)
    sys.stdout.flush()


class Progress:
    """Progress of one long step: ``with Progress("Fetching", 4000, "pictures") as progress: progress.advance(256)``."""

    def __init__(self, title: str, total: int | None, unit: str = "") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done: float = 0
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._bar = _bar() if sys.stdout.isatty() else None
        self._task = self._bar.add_task(title, total=total, note="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None:
            self._line()

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """Count `n` more done; `note` stands at the end of the line until the next."""
        self.set(self.done + n, note)

    def set(self, done: float, note: str | None = None) -> None:
        """Say how much is done in all."""
        self.done = done
        self._note = self._note if note is None else note
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=self._note)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._started
        of = f"/{self.total:,}" if self.total is not None else ""
        rate = f"{self.done / seconds:,.1f}/s" if seconds > 0 else ""
        parts = [f"  {self.title} {self.done:,}{of} {self.unit}".rstrip(), rate, f"{seconds:.0f} s", self._note]
        say(" · ".join(part for part in parts if part))


def _bar() -> Bar:
    return Bar(
        TextColumn("  {task.description:<22}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console(),
    )
