"""What stands behind the bar of `ingest`: shares by status, and the hosts that hold requests up."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from raypipe.progress import Progress


class Note:
    """Keeps the counts, and shows them on `progress`."""

    def __init__(self, progress: Progress) -> None:
        self._statuses: Counter[str] = Counter()
        self._progress = progress
        self._waiting = 0

    def add(self, rows: int, statuses: Mapping[str, int]) -> None:
        """Count rows, by status."""
        self._statuses.update(statuses)
        self._progress.advance(rows, self.text())

    def add_table(self, images: pa.Table) -> None:
        """Count rows of `images/`."""
        self.add(len(images), Counter(images["status"].to_pylist()))

    def hosts(self, waiting: int, _running: int = 0) -> None:
        """Take the desk's totals, and show them; for any thread."""
        self._waiting = waiting
        self._progress.note(self.text())

    def text(self) -> str:
        """``97% ok · 2% gone · 3 hosts waiting``."""
        total = self._statuses.total()
        parts = [f"{n / total:.0%} {status}" for status, n in self._statuses.most_common(3)]
        if self._waiting:
            parts.append(f"{self._waiting} host{'s' * (self._waiting > 1)} waiting")
        return " · ".join(parts)


@contextlib.contextmanager
def every_second(show: Callable[[], object]) -> Iterator[None]:
    """Call `show` each second of the body, in a thread; what it raises is passed over."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1.0):
            with contextlib.suppress(Exception):  # a display is no reason to end a run
                show()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
