"""Progress of trials: an actor collects reports of trials, shows them to the user, and ends trials early.

Processes that only pass a trial on import this module too. Therefore it imports torch only when a worker reports.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from raypipe.progress import Progress, print_line
from raypipe.train.trial_plan import ENDED_EARLY_FOLDER
from raypipe.train.trials.halving import SuccessiveHalving

if TYPE_CHECKING:
    from raypipe.tables import TableWriter
    from raypipe.train.loop.choices import Choice

_POLL_SECONDS = 0.5
_SECONDS_BETWEEN_WORDS = 1.0
_ROWS_SHOWN = 12
_STARTING = "first trials are starting"
# A trial without a report for this time loses its lock to compute something.
_SECONDS_OF_SILENCE = 600.0


@dataclass(frozen=True)
class RunningTrial:
    """Progress of one trial: `done` of `total` pictures of the current epoch, and the `row` of its last whole epoch."""

    trial: str
    epochs: int
    epochs_done: int = 0
    done: int = 0
    total: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)
    waits_for: str = ""
    """The trial that computes what this one also needs; empty if it does not wait."""

    @property
    def progress(self) -> float:
        """Epochs done, including the part of the current one."""
        return self.epochs_done + (self.done / self.total if self.total else 0.0)

    @property
    def epoch(self) -> int:
        """Number of the current epoch."""
        return min(self.epochs_done + 1, self.epochs)

    def cells(self) -> list[str]:
        """Cells of the trial's row in the live table."""
        part = f"{self.done:,}/{self.total:,}" if self.total else ""
        if self.waits_for:
            part = f"waits for {self.waits_for}"
        rate = f"{self.row['images_per_s']:,.0f}" if self.row else ""
        mfu = f"{100 * self.row['mfu']:.0f} %" if self.row and self.row["mfu"] is not None else "–"
        wait = f"{100 * self.row['data_wait']:.1f} %" if self.row else ""
        return [self.trial, f"{self.epoch}/{self.epochs}", part, rate, mfu, wait, *self._measures()]

    def note(self) -> str:
        """The same as one line of text."""
        where = f" {self.done:,}/{self.total:,}" if self.total else ""
        text = f"{self.trial} epoch {self.epoch if self.total else self.epochs_done}/{self.epochs}{where}"
        if not self.row:
            return text
        train, val = self._measures()
        word = "loss " if self.row["val_accuracy"] is None else ""
        mfu = "" if self.row["mfu"] is None else f", MFU {100 * self.row['mfu']:.0f} %"
        spent = f"{self.row['images_per_s']:,.0f} pictures/s{mfu}, {100 * self.row['data_wait']:.1f} % waiting for data"
        return f"{text} · {word}train {train} val {val} · {spent}"

    def _measures(self) -> list[str]:
        name = "loss" if self.row and self.row["val_accuracy"] is None else "accuracy"
        values = [self.row.get(f"{split}_{name}") for split in ("train", "val")]
        return ["–" if value is None else f"{value:.3f}" for value in values]


@dataclass(frozen=True)
class ProgressSnapshot:
    """Progress of all trials for the driver: epochs done, share of all work done, running trials, the latest note, and
    lines that are not shown yet."""

    epochs: float
    share: float
    running: list[RunningTrial]
    note: str
    lines: list[str]


class ProgressActor:
    """The actor to which trials report their progress. The driver reads it and shows it on the terminal.

    `slow_epochs` has the number of slow epochs by trial; other epochs take almost no time. Without it, all are slow.
    With `halving`, the actor also decides which trials end early, and writes a file for each under ``_ended/``.
    """

    def __init__(
        self,
        epochs: Mapping[str, int],
        halving: SuccessiveHalving | None = None,
        writer: TableWriter | None = None,
        slow_epochs: Mapping[str, int] | None = None,
    ):
        self._all, self._halving, self._writer = dict(epochs), halving, writer
        self._long = dict(epochs if slow_epochs is None else slow_epochs)
        self._epochs: dict[str, float] = {}
        self._running: dict[str, RunningTrial] = {}
        self._ended: set[str] = set()
        self._note = _STARTING
        self._lines: list[str] = []
        self._failures: dict[str, str] = {}
        self._choices: set[str] = set()
        self._begun: dict[str, int] = {}
        self._turns: dict[str, str] = {}
        self._heard: dict[str, float] = {}

    def report_start(self, trial: str, epoch: int) -> None:
        """A trial's workers have started, and `epoch` is the first that they train."""
        self._begun[trial] = epoch
        self._leave_all(trial)

    def first_epoch(self, trial: str) -> int:
        """The first epoch of the trial's last started workers; 0 before any have started."""
        return self._begun.get(trial, 0)

    def acquire(self, trial: str, name: str) -> bool:
        """Whether a trial gets the lock to compute `name`. One trial at a time has it, and loses it without reports."""
        now = time.monotonic()
        holder = self._turns.setdefault(name, trial)
        if holder != trial and now - self._heard.get(holder, 0.0) > _SECONDS_OF_SILENCE:
            holder = self._turns[name] = trial
        if holder == trial:
            self._heard[trial] = now
        else:
            self._update(replace(self._running.get(trial) or RunningTrial(trial, self._all[trial]), waits_for=holder))
        return holder == trial

    def release(self, trial: str, name: str) -> None:
        """Release the trial's lock to compute `name`."""
        if self._turns.get(name) == trial:
            del self._turns[name]

    def _leave_all(self, trial: str) -> None:
        self._turns = {name: holder for name, holder in self._turns.items() if holder != trial}

    def add_line(self, line: str) -> None:
        """Add a line for the user."""
        self._lines.append(line)

    def report_batch(self, trial: str, epochs_done: int, done: int, total: int) -> None:
        """A trial has done `epochs_done` epochs and `done` of the `total` pictures of a pass."""
        self._heard[trial] = time.monotonic()
        before = self._running.get(trial) or RunningTrial(trial, self._all[trial])
        self._update(replace(before, epochs_done=epochs_done, done=done, total=total, waits_for=""))

    def report_epoch(self, trial: str, row: dict[str, Any], merits: list[float]) -> bool:
        """A trial has done the epoch of `row`. Returns whether it ends here, though epochs are left.

        `merits` are the figures of merit of all its epochs (`raypipe.train.metrics.figure_of_merit`).
        """
        self._update(RunningTrial(trial, self._all[trial], epochs_done=row["epoch"], row=row))
        if self._halving is None or self._halving.should_continue(trial, merits):
            return False
        if trial not in self._ended and self._writer is not None:
            self._writer.write_file(f"{ENDED_EARLY_FOLDER}/{trial}", f"asha, after epoch {len(merits)}\n".encode())
        self._ended.add(trial)
        return True

    def report_done(self, trial: str, summary: str) -> None:
        """A trial is done."""
        self._running.pop(trial, None)
        # Skipped epochs count as done, because the bar shows the work that is left.
        self._epochs[trial] = self._all[trial]
        self._lines.append(f"  {trial}: {summary}" + (" (ended early by asha)" if trial in self._ended else ""))

    def add_choice(self, trial: str, choice: str) -> None:
        """A trial has made a choice for speed or memory. Each choice is shown only once, not once per trial."""
        if choice not in self._choices:
            self._lines.append(f"  {trial}: {choice}")
        self._choices.add(choice)

    def report_failure(self, trial: str, reason: str) -> None:
        """A trial has failed."""
        self._running.pop(trial, None)
        self._leave_all(trial)
        self._failures[trial] = reason

    def failures(self) -> dict[str, str]:
        """Reasons of failed trials by trial."""
        return self._failures

    def read_progress(self) -> ProgressSnapshot:
        """Progress of all trials. Lines are returned only once."""
        lines, self._lines = self._lines, []
        worked = sum(min(done, self._long[trial]) for trial, done in self._epochs.items())
        share = worked / max(1, sum(self._long.values()))
        return ProgressSnapshot(sum(self._epochs.values()), share, list(self._running.values()), self._note, lines)

    def _update(self, now: RunningTrial) -> None:
        self._running[now.trial] = now
        # Progress never decreases: features are computed before the first epoch, and lost epochs are trained again.
        self._epochs[now.trial] = max(now.progress, self._epochs.get(now.trial, 0.0))
        self._note = now.note()


class TrialProgress:
    """Reports the progress of a trial to the actor: about once per second, and after each epoch.

    `first` is the first epoch of the trial's workers. Only the worker with `is_reporter` reports."""

    def __init__(self, progress_actor: Any, trial: str, first: int, is_reporter: bool) -> None:
        self._actor, self._trial, self._is_reporter = progress_actor, trial, is_reporter
        self._epochs_done, self._last = first - 1, 0.0

    def report_batch(self, done: int, total: int) -> None:
        """Report `done` of `total` pictures of the current pass, at most once per second."""
        if self._is_reporter and time.monotonic() - self._last >= _SECONDS_BETWEEN_WORDS:
            self._last = time.monotonic()
            self._actor.report_batch.remote(self._trial, self._epochs_done, done, total)

    def acquire(self, name: str) -> bool:
        """Whether this trial may compute `name`, which other trials also need."""
        import ray

        return bool(ray.get(self._actor.acquire.remote(self._trial, name)))

    def release(self, name: str) -> None:
        """Release this trial's lock to compute `name`."""
        self._actor.release.remote(self._trial, name)

    def report_choice(self, choice: Choice) -> None:
        """Report a choice and its reason."""
        if self._is_reporter:
            self._actor.add_choice.remote(self._trial, str(choice))

    def report_epoch(self, rows: list[dict[str, Any]]) -> bool:
        """Report all epochs so far. Returns whether the trial ends here; always False on workers that do not report."""
        if not self._is_reporter:
            return False
        import ray

        from raypipe.train.metrics import figure_of_merit

        self._epochs_done = rows[-1]["epoch"]
        merits = [figure_of_merit(row["val_accuracy"], row["val_loss"]) for row in rows]
        return bool(ray.get(self._actor.report_epoch.remote(self._trial, rows[-1], merits)))


def running_table(running: list[RunningTrial]) -> Table:
    """A table with one row per running trial. Those with the most progress come first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("  trial", no_wrap=True)
    for name in ("epoch", "pictures", "pictures/s", "MFU", "waits", "train", "val"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in sorted(running, key=lambda trial: -trial.progress)[:_ROWS_SHOWN]:
        name, *rest = trial.cells()
        table.add_row(f"  {name}", *rest)
    if len(running) > _ROWS_SHOWN:
        table.add_row(f"  and {len(running) - _ROWS_SHOWN} more")
    return table


@contextlib.contextmanager
def training_progress(progress_actor: Any, epochs: int) -> Iterator[None]:
    """Show the trials' progress while Tune's `fit` blocks the main thread: on a terminal a bar and a row per trial."""
    import ray

    ended = threading.Event()

    def show(progress: Progress) -> None:
        seen: ProgressSnapshot = ray.get(progress_actor.read_progress.remote())
        for line in seen.lines:
            print_line(line)
        if progress.is_live:
            progress.show_below(running_table(seen.running) if seen.running else None)
        shown = "" if progress.is_live and seen.note != _STARTING else seen.note
        progress.set(round(seen.epochs, 2), shown, seen.share)

    def follow(progress: Progress) -> None:
        while not ended.wait(_POLL_SECONDS):
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
