"""Asynchronous successive halving: which trials go on at a rung (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning", MLSys), in the form that stops instead of pausing, as Ray Tune's ASHAScheduler does.

A trial is judged when it comes to a rung, among those of its rivals that have been there; nobody waits. A trial that
goes on may later be overtaken: that is the price of not waiting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence


class Halving:
    """The rungs of a sweep: after `grace` · `reduction`ᵏ epochs, one in `reduction` of those that came there goes on.

    `rivals` names each trial's group, `epochs` how long it trains at most.
    """

    def __init__(self, rivals: Mapping[str, str], epochs: Mapping[str, int], grace: int, reduction: int) -> None:
        self._rivals, self._epochs = dict(rivals), dict(epochs)
        self._grace, self._reduction = grace, reduction
        self._seen: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)

    def rungs(self, trial: str) -> list[int]:
        """Epochs after which a trial is judged; its last is none of them."""
        found, rung = list[int](), self._grace
        while rung < self._epochs[trial]:
            found.append(rung)
            rung *= self._reduction
        return found

    def record(self, trial: str, merits: Sequence[float]) -> None:
        """What a trial has reached, by epoch (`raypipe.train.metrics.figure_of_merit`), counts against its rivals."""
        for rung in self.rungs(trial):
            if rung <= len(merits):
                self._seen[self._rivals[trial], rung][trial] = max(merits[:rung])

    def goes_on(self, trial: str, merits: Sequence[float]) -> bool:
        """Whether a trial trains on after these epochs, by the best of them.

        At a rung that n trials have reached, itself included, it must be among the best max(1, ⌊n / reduction⌋); equals
        go on together. A trial resumed says again what it said before, which changes nothing.
        """
        self.record(trial, merits)
        if len(merits) not in self.rungs(trial):
            return True
        there = self._seen[self._rivals[trial], len(merits)]
        better = sum(merit > there[trial] for merit in there.values())
        return better < max(1, len(there) // self._reduction)
