"""How a person follows trials: an actor that trials tell how far they are, and the bar that the driver draws of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from raypipe.progress import Progress, say

_SECONDS_BETWEEN_LOOKS = 0.5


class Watch:
    """The actor that trials tell how far they are; the driver looks at it for the person at the terminal."""

    def __init__(self) -> None:
        self._epochs: dict[str, float] = {}
        self._note = ""
        self._lines: list[str] = []
        self._failures: dict[str, str] = {}
        self._choices: dict[str, list[str]] = {}
        self._begun: dict[str, int] = {}

    def begin(self, trial: str, epoch: int) -> None:
        """A trial's workers are up, and `epoch` is the first that they train."""
        self._begun[trial] = epoch

    def begun(self, trial: str) -> int:
        """From which epoch on a trial's workers last trained; 0 before there were any."""
        return self._begun.get(trial, 0)

    def tell(self, line: str) -> None:
        """A line for the person."""
        self._lines.append(line)

    def update(self, trial: str, epochs: float, note: str) -> None:
        """`epochs` done by a trial so far, whole and part."""
        self._epochs[trial] = epochs
        self._note = f"{trial} {note}"

    def finish(self, trial: str, summary: str) -> None:
        """A trial is done."""
        self._lines.append(f"  {trial}: {summary}")

    def choose(self, trial: str, choice: str) -> None:
        """A trial has chosen something for speed or for want of memory; each choice is shown once, not once a trial."""
        if all(choice not in known for known in self._choices.values()):
            self._lines.append(f"  {trial}: {choice}")
        self._choices.setdefault(trial, []).append(choice)

    def choices(self) -> dict[str, list[str]]:
        """What trials have chosen."""
        return self._choices

    def fail(self, trial: str, reason: str) -> None:
        """A trial cannot go on."""
        self._failures[trial] = reason

    def failures(self) -> dict[str, str]:
        """Reasons by trial."""
        return self._failures

    def look(self) -> tuple[float, str, list[str]]:
        """Epochs done over all trials, the latest note, and lines not yet shown."""
        lines, self._lines = self._lines, []
        return sum(self._epochs.values()), self._note, lines


@contextlib.contextmanager
def training_progress(watch: Any, epochs: int) -> Iterator[None]:
    """Show what the watch knows while Tune's `fit` holds the main thread."""
    import ray

    ended = threading.Event()

    def show(progress: Progress) -> None:
        done, note, lines = ray.get(watch.look.remote())
        for line in lines:
            say(line)
        progress.set(round(done, 2), note)

    def follow(progress: Progress) -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            show(progress)

    with Progress("Training", epochs, "epochs") as progress:
        thread = threading.Thread(target=follow, args=(progress,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        show(progress)
