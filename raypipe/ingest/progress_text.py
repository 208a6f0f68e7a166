"""Progress text of `ingest`: shares by status, and the number of waiting hosts."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from raypipe.progress import Progress


class FetchProgressText:
    """Keeps the counts and shows them on `progress`."""

    def __init__(self, progress: Progress) -> None:
        self._statuses: Counter[str] = Counter()
        self._progress = progress
        self._waiting = 0

    def add(self, rows: int, statuses: Mapping[str, int]) -> None:
        """Add `rows` rows and their counts by status."""
        self._statuses.update(statuses)
        self._progress.advance(rows, self.text())

    def add_table(self, images: pa.Table) -> None:
        """Add rows of `images/`."""
        self.add(len(images), Counter(images["status"].to_pylist()))

    def show_waiting_hosts(self, waiting: int, _running: int = 0) -> None:
        """Take the totals of `HostBudgets` and show them. Any thread may call this."""
        self._waiting = waiting
        self._progress.note(self.text())

    def text(self) -> str:
        """Return a text like ``97% ok · 2% gone · 3 hosts waiting``."""
        total = self._statuses.total()
        parts = [f"{n / total:.0%} {status}" for status, n in self._statuses.most_common(3)]
        if self._waiting:
            parts.append(f"{self._waiting} host{'s' * (self._waiting > 1)} waiting")
        return " · ".join(parts)


@contextlib.contextmanager
def call_every_second(show: Callable[[], object]) -> Iterator[None]:
    """Call `show` every second in a thread while the body runs. Its exceptions are ignored."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1.0):
            with contextlib.suppress(Exception):  # an error of the display must not end the run
                show()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
