"""Progress of a stage: a live bar on a terminal, or else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.segment import Segment

from raypipe.errors import printable

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_OF_RATE = 60.0


class _Console(Console):
    """Prints text unchanged: no markup in brackets, no emoji for ``:fire:``. Escapes control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console(file: IO[str] | None = None, **settings: Any) -> Console:
    """The console on which stages print for people. Results for programs are files.

    `settings` are those of rich's Console. Markup is used only if `print` gets `markup=True`.
    """
    return _Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True, **settings)


def print_line(text: str) -> None:
    """Print one line for the user."""
    # Escaped before rich sees it, because rich removes some control characters.
    console().print(printable(text))
    sys.stdout.flush()


class Progress:
    """Progress of one long step: ``with Progress("Fetching", 4000, "pictures") as progress: progress.advance(256)``."""

    def __init__(self, title: str, total: int | None, unit: str = "") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done: float = 0
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._done_before: float = 0
        self._share: float | None = None
        self._rate_samples: deque[tuple[float, float]] = deque([(self._started, 0)])
        self._bar = _bar() if sys.stdout.isatty() else None
        self._task = self._bar.add_task(printable(title), total=total, pace="", note="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.below = None
            self._bar.stop()
        elif error is None:
            self._line()

    @property
    def is_live(self) -> bool:
        """Whether the progress is a bar on a terminal."""
        return self._bar is not None

    def show_below(self, shown: RenderableType | None) -> None:
        """Show `shown` below the bar on a terminal until the next call. None shows nothing. Any thread may call it."""
        if self._bar:
            self._bar.below = shown

    def resume_from(self, done: float) -> None:
        """Set how much an earlier attempt has done. It counts as done, but not for the rate."""
        self._started = time.monotonic()
        self._done_before = done
        self._rate_samples = deque([(self._started, done)])
        self.set(done)

    def note(self, text: str) -> None:
        """Show `text` at the end of the line. Any thread may call it."""
        self._note = text
        self._show()

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """Count `n` more as done. `note` is shown at the end of the line until the next note."""
        self.set(self.done + n, note)

    def set(self, done: float, note: str | None = None, share: float | None = None) -> None:
        """Set how much is done in total.

        `share` is the share of the work that is done, 0 to 1. The time left is computed from it if the counted items
        take different times. Then every call must give it.
        """
        self.done, self._share = done, share
        self._note = self._note if note is None else note
        now = time.monotonic()
        if now - self._rate_samples[-1][0] >= 1.0:
            self._rate_samples.append((now, done if share is None else share))
            while now - self._rate_samples[0][0] > _SECONDS_OF_RATE:
                self._rate_samples.popleft()
        self._show()

    def _show(self) -> None:
        if self._bar and self._task is not None:
            pace = " · ".join(part for part in (self._rate(), self._time_left()) if part)
            self._bar.update(self._task, completed=self.done, pace=pace, note=printable(self._note))
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._started
        of = f"/{self.total:,}" if self.total is not None else ""
        head = f"  {self.title} {self.done:,}{of} {self.unit}".rstrip()
        parts = [head, self._rate(), f"{seconds:.0f} s", self._time_left(), self._note]
        print_line(" · ".join(part for part in parts if part))

    def _rate(self) -> str:
        """The rate of the whole step, as text."""
        seconds = time.monotonic() - self._started
        return f"{(self.done - self._done_before) / seconds:,.1f}/s" if seconds > 0 else ""

    def _time_left(self) -> str:
        """The time left, by the rate of the last minute, as text."""
        (then, before), now = self._rate_samples[0], time.monotonic()
        done, total = (self.done, self.total) if self._share is None else (self._share, 1.0)
        if total is None or done >= total or done <= before or now <= then:
            return ""
        seconds = (total - done) * (now - then) / (done - before)
        if seconds < 90:
            return f"{seconds:.0f} s left"
        return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


class _Bar(Bar):
    below: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below


def _bar() -> _Bar:
    return _Bar(
        TextColumn("  {task.description:<22}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=console(),
    )
