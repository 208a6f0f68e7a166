"""How a person follows trials, and how trials end early: an actor that trials tell how far they are.

Light enough for the processes that only pass a trial on: nothing here needs torch before a worker speaks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from raypipe.progress import Progress, say
from raypipe.train.plan import ENDED
from raypipe.train.trials.halving import Halving

if TYPE_CHECKING:
    from raypipe.tables import TableWriter
    from raypipe.train.loop.choices import Choice

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_WORDS = 1.0
_ROWS_SHOWN = 12
_STARTING = "the first trials start"
# After which a trial that had begun to compute something is thought to be gone.
_SECONDS_OF_SILENCE = 600.0


@dataclass(frozen=True)
class Running:
    """One trial as it stands: `done` of `total` pictures of the epoch at hand, and the row of its last whole epoch."""

    trial: str
    epochs: int
    whole: int = 0
    done: int = 0
    total: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)
    waits_for: str = ""
    """The trial that computes what this one needs too."""

    @property
    def progress(self) -> float:
        """Epochs done, whole and part."""
        return self.whole + (self.done / self.total if self.total else 0.0)

    @property
    def epoch(self) -> int:
        """The epoch at hand."""
        return min(self.whole + 1, self.epochs)

    def cells(self) -> list[str]:
        """A line of the live table."""
        part = f"{self.done:,}/{self.total:,}" if self.total else ""
        if self.waits_for:
            part = f"waits for {self.waits_for}"
        rate = f"{self.row['images_per_s']:,.0f}" if self.row else ""
        mfu = f"{100 * self.row['mfu']:.0f} %" if self.row and self.row["mfu"] is not None else "–"
        wait = f"{100 * self.row['data_wait']:.1f} %" if self.row else ""
        return [self.trial, f"{self.epoch}/{self.epochs}", part, rate, mfu, wait, *self._measures()]

    def note(self) -> str:
        """The same in words."""
        where = f" {self.done:,}/{self.total:,}" if self.total else ""
        text = f"{self.trial} epoch {self.epoch if self.total else self.whole}/{self.epochs}{where}"
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
class Seen:
    """What the driver sees at a look: epochs over all trials, the share of all work that is done, trials that run, the
    latest word, lines not yet shown."""

    epochs: float
    share: float
    running: list[Running]
    note: str
    lines: list[str]


class Watch:
    """The actor that trials tell how far they are; the driver looks at it for the person at the terminal.

    `long` has the epochs of a trial that take long; the rest take next to no time. All do, if it is absent.
    With `halving` it also says which trials end early, and leaves a file for each under ``_ended/``.
    """

    def __init__(
        self,
        epochs: Mapping[str, int],
        halving: Halving | None = None,
        writer: TableWriter | None = None,
        long: Mapping[str, int] | None = None,
    ):
        self._all, self._halving, self._writer = dict(epochs), halving, writer
        self._long = dict(epochs if long is None else long)
        self._epochs: dict[str, float] = {}
        self._running: dict[str, Running] = {}
        self._ended: set[str] = set()
        self._note = _STARTING
        self._lines: list[str] = []
        self._failures: dict[str, str] = {}
        self._choices: set[str] = set()
        self._begun: dict[str, int] = {}
        self._turns: dict[str, str] = {}
        self._heard: dict[str, float] = {}

    def begin(self, trial: str, epoch: int) -> None:
        """A trial's workers are up, and `epoch` is the first that they train."""
        self._begun[trial] = epoch
        self._leave_all(trial)

    def begun(self, trial: str) -> int:
        """From which epoch on a trial's workers last trained; 0 before there were any."""
        return self._begun.get(trial, 0)

    def take(self, trial: str, name: str) -> bool:
        """Whether a trial computes what is called `name`: only one at a time does, as long as it is heard of."""
        now = time.monotonic()
        holder = self._turns.setdefault(name, trial)
        if holder != trial and now - self._heard.get(holder, 0.0) > _SECONDS_OF_SILENCE:
            holder = self._turns[name] = trial
        if holder == trial:
            self._heard[trial] = now
        else:
            self._keep(replace(self._running.get(trial) or Running(trial, self._all[trial]), waits_for=holder))
        return holder == trial

    def leave(self, trial: str, name: str) -> None:
        """A trial that had the turn is done with what is called `name`."""
        if self._turns.get(name) == trial:
            del self._turns[name]

    def _leave_all(self, trial: str) -> None:
        self._turns = {name: holder for name, holder in self._turns.items() if holder != trial}

    def tell(self, line: str) -> None:
        """A line for the person."""
        self._lines.append(line)

    def batch(self, trial: str, whole: int, done: int, total: int) -> None:
        """A trial has done `whole` epochs and `done` of the `total` pictures of a pass."""
        self._heard[trial] = time.monotonic()
        before = self._running.get(trial) or Running(trial, self._all[trial])
        self._keep(replace(before, whole=whole, done=done, total=total, waits_for=""))

    def epoch(self, trial: str, row: dict[str, Any], merits: list[float]) -> bool:
        """A trial has done the epoch of `row`; whether it ends here, though epochs are left.

        `merits` are those of all its epochs (`raypipe.train.metrics.figure_of_merit`).
        """
        self._keep(Running(trial, self._all[trial], whole=row["epoch"], row=row))
        if self._halving is None or self._halving.goes_on(trial, merits):
            return False
        if trial not in self._ended and self._writer is not None:
            self._writer.write_file(f"{ENDED}/{trial}", f"asha, after epoch {len(merits)}\n".encode())
        self._ended.add(trial)
        return True

    def finish(self, trial: str, summary: str) -> None:
        """A trial is done."""
        self._running.pop(trial, None)
        # Epochs that it left out count as done: the bar is of what there is to do.
        self._epochs[trial] = self._all[trial]
        self._lines.append(f"  {trial}: {summary}" + (" (ended early by asha)" if trial in self._ended else ""))

    def choose(self, trial: str, choice: str) -> None:
        """A trial has chosen something for speed or for want of memory; each choice is shown once, not once a trial."""
        if choice not in self._choices:
            self._lines.append(f"  {trial}: {choice}")
        self._choices.add(choice)

    def fail(self, trial: str, reason: str) -> None:
        """A trial cannot go on."""
        self._running.pop(trial, None)
        self._leave_all(trial)
        self._failures[trial] = reason

    def failures(self) -> dict[str, str]:
        """Reasons by trial."""
        return self._failures

    def look(self) -> Seen:
        """How far all is."""
        lines, self._lines = self._lines, []
        worked = sum(min(done, self._long[trial]) for trial, done in self._epochs.items())
        share = worked / max(1, sum(self._long.values()))
        return Seen(sum(self._epochs.values()), share, list(self._running.values()), self._note, lines)

    def _keep(self, now: Running) -> None:
        self._running[now.trial] = now
        # Never backwards: a pass over features comes before the first epoch, and what was lost is trained again.
        self._epochs[now.trial] = max(now.progress, self._epochs.get(now.trial, 0.0))
        self._note = now.note()


class Word:
    """Tells the watch how far a trial is, whose workers begin with the epoch `first`: about once a second, and after
    each epoch, when the watch answers."""

    def __init__(self, watch: Any, trial: str, first: int, speaks: bool) -> None:
        self._watch, self._trial, self._speaks = watch, trial, speaks
        self._whole, self._last = first - 1, 0.0

    def batch(self, done: int, total: int) -> None:
        """Pictures of the pass at hand."""
        if self._speaks and time.monotonic() - self._last >= _SECONDS_BETWEEN_WORDS:
            self._last = time.monotonic()
            self._watch.batch.remote(self._trial, self._whole, done, total)

    def take(self, name: str) -> bool:
        """Whether this trial may compute what is called `name`, which others need too."""
        import ray

        return bool(ray.get(self._watch.take.remote(self._trial, name)))

    def leave(self, name: str) -> None:
        """This trial is done with it."""
        self._watch.leave.remote(self._trial, name)

    def choice(self, choice: Choice) -> None:
        """What was chosen, and why."""
        if self._speaks:
            self._watch.choose.remote(self._trial, str(choice))

    def epoch(self, rows: list[dict[str, Any]]) -> bool:
        """All epochs so far; whether the trial ends here, as the one that speaks is told (others: False)."""
        if not self._speaks:
            return False
        import ray

        from raypipe.train.metrics import figure_of_merit

        self._whole = rows[-1]["epoch"]
        merits = [figure_of_merit(row["val_accuracy"], row["val_loss"]) for row in rows]
        return bool(ray.get(self._watch.epoch.remote(self._trial, rows[-1], merits)))


def running_table(running: list[Running]) -> Table:
    """A line a trial that runs, those that are furthest first."""
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
def training_progress(watch: Any, epochs: int) -> Iterator[None]:
    """Show what the watch knows while Tune's `fit` holds the main thread: on a terminal a bar and a line a trial."""
    import ray

    ended = threading.Event()

    def show(progress: Progress) -> None:
        seen: Seen = ray.get(watch.look.remote())
        for line in seen.lines:
            say(line)
        if progress.live:
            progress.below(running_table(seen.running) if seen.running else None)
        shown = "" if progress.live and seen.note != _STARTING else seen.note
        progress.set(round(seen.epochs, 2), shown, seen.share)

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
