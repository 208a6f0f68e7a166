"""Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", MLSys).

It stops trials instead of pausing them, as Ray Tune's ASHAScheduler does. A trial that reaches a rung is compared
with the rivals that have reached it. No trial waits. A promoted trial may later fall below the cutoff.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence


class SuccessiveHalving:
    """The rungs of a sweep. After `grace` · `reduction`ᵏ epochs, one in `reduction` of the trials there goes on.

    `rivals` has each trial's group, `epochs` its largest number of epochs.
    """

    def __init__(self, rivals: Mapping[str, str], epochs: Mapping[str, int], grace: int, reduction: int) -> None:
        self._rivals, self._epochs = dict(rivals), dict(epochs)
        self._grace, self._reduction = grace, reduction
        self._seen: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)

    def rungs(self, trial: str) -> list[int]:
        """Epochs after which a trial is compared with rivals, without its last epoch."""
        found, rung = list[int](), self._grace
        while rung < self._epochs[trial]:
            found.append(rung)
            rung *= self._reduction
        return found

    def record(self, trial: str, merits: Sequence[float]) -> None:
        """Record a trial's figures of merit by epoch (`raypipe.train.metrics.figure_of_merit`)."""
        for rung in self.rungs(trial):
            if rung <= len(merits):
                self._seen[self._rivals[trial], rung][trial] = max(merits[:rung])

    def should_continue(self, trial: str, merits: Sequence[float]) -> bool:
        """Whether a trial goes on after these epochs. Only the best of them counts.

        At a rung that n trials have reached, itself included, it must be among the best max(1, ⌊n / reduction⌋). Trials
        with equal merit go on together. Recording a resumed trial again changes nothing.
        """
        self.record(trial, merits)
        if len(merits) not in self.rungs(trial):
            return True
        there = self._seen[self._rivals[trial], len(merits)]
        better = sum(merit > there[trial] for merit in there.values())
        return better < max(1, len(there) // self._reduction)
