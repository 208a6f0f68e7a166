"""What training came to: curves by epoch, table 1 with intervals and ceiling, a plain sentence a configuration."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from raypipe.report import paper
from raypipe.report.ceiling import PerfectJudge
from raypipe.report.sources import Sources
from raypipe.train.metrics import wilson_interval


@dataclass(frozen=True)
class Trial:
    """One training run's accuracies by epoch; a value is None where it was not measured."""

    key: str
    seed: int
    epochs: list[int]
    train_accuracy: list[float | None]
    val_accuracy: list[float | None]


@dataclass(frozen=True)
class Measured:
    """Accuracy on `split`: on `n` pictures, with its 95 % interval, and what a perfect judge reaches on the same."""

    split: str
    accuracy: float
    n: int
    low: float
    high: float
    ceiling: float | None
    chance: float

    @property
    def excludes_chance(self) -> bool:
        """Whether the interval leaves out the accuracy of guessing."""
        return self.low > self.chance or self.high < self.chance


@dataclass(frozen=True)
class Row:
    """One line of table 1. `key` is the configuration's letter, with the table's name where that alone is ambiguous."""

    key: str
    table: str
    configuration: str
    seeds: int
    epochs: int
    max_val_accuracy: float | None
    final_val_accuracy: float | None
    measured: Measured | None
    paper: paper.Benchmark | None
    images_per_s: float | None

    @property
    def sentence(self) -> str:
        """What may be claimed of this configuration, in words."""
        seen = self.measured
        if seen is None:
            return f"{self.key}: no predictions are stored, so nothing can be said about its accuracy."
        where = "test" if seen.split == "test" else "validation"
        number = f"{100 * seen.accuracy:.1f} % of {seen.n:,} {where} pictures"
        interval = f"{100 * seen.low:.1f}–{100 * seen.high:.1f} %"
        if seen.low > seen.chance:
            verdict = f"beats chance: its 95 % interval, {interval}, excludes {seen.chance:.3g}"
        elif seen.high < seen.chance:
            verdict = f"is worse than chance: its 95 % interval, {interval}, lies below {seen.chance:.3g}"
        else:
            verdict = f"cannot be told from chance: its 95 % interval, {interval}, includes {seen.chance:.3g}"
        caveat = "" if seen.split == "test" else " The best epoch was chosen on these very pictures, which flatters it."
        return f"{self.key} gets {number} right and {verdict}.{caveat}"


@dataclass(frozen=True)
class Training:
    """All that was trained under a root."""

    rows: list[Row]
    trials: dict[str, list[Trial]]
    predictions: pd.DataFrame | None
    classes: tuple[str, ...]

    @property
    def best(self) -> Row | None:
        """The row of the best validation accuracy: chosen without a look at the test pictures."""
        rated = [row for row in self.rows if row.max_val_accuracy is not None]
        return max(rated, key=lambda row: row.max_val_accuracy or 0.0, default=None)


def build(sources: Sources) -> Training | None:
    """Everything under `sweep/` and `train/*/`; None where nothing is complete."""
    if not sources.training_tables:
        return None
    judge = PerfectJudge.of(sources)
    rows: list[Row] = []
    trials: dict[str, list[Trial]] = {}
    frames: list[pd.DataFrame] = []
    for table in sources.training_tables:
        results = sources.json(table, "results.json") or []
        predictions = sources.frame(table, "predictions")
        for line in _table_1(sources, table):
            key = _key(line["configuration"], table)
            measured = _measure(line, predictions, judge)
            rows.append(_row(key, table, line, measured, results))
            trials[key] = _trials(key, line["configuration"], results)
        if predictions is not None:
            keys = predictions["configuration"].map(lambda name, table=table: _key(name, table))
            frames.append(predictions.assign(key=keys))
    predictions = pd.concat(frames, ignore_index=True) if frames else None
    classes = tuple(sorted(predictions["label"].unique())) if predictions is not None else ()
    return Training(rows, trials, predictions, classes)


def _key(configuration: str, table: str) -> str:
    return configuration if table in ("sweep", f"train/{configuration}") else f"{configuration} ({table})"


def _table_1(sources: Sources, table: str) -> list[dict[str, str]]:
    data = sources.file(table, "table1.csv")
    return [] if data is None else list(csv.DictReader(io.StringIO(data.decode())))


def _row(key: str, table: str, line: dict[str, str], measured: Measured | None, results: list[dict[str, Any]]) -> Row:
    letter = line["configuration"]
    speeds = [float(entry["images_per_s"]) for entry in _entries(letter, results) if entry.get("images_per_s")]
    return Row(
        key=key,
        table=table,
        configuration=letter,
        seeds=int(line["seeds"]),
        epochs=int(float(line["epochs"])),
        max_val_accuracy=_number(line["max_val_accuracy"]),
        final_val_accuracy=_number(line["final_val_accuracy"]),
        measured=measured,
        paper=paper.TABLE_1.get(letter),
        images_per_s=median(speeds) if speeds else None,
    )


def _measure(line: dict[str, str], predictions: pd.DataFrame | None, judge: PerfectJudge | None) -> Measured | None:
    """The accuracy on test pictures, or on validation pictures where no test pictures were set apart."""
    if predictions is None:
        return None
    own = predictions[predictions["configuration"] == line["configuration"]]
    for split, accuracy in (("test", _number(line["test_accuracy"])), ("val", _number(line["max_val_accuracy"]))):
        seen = own[own["split"] == split]
        if accuracy is None or seen.empty:
            continue
        # Seeds share the pictures, so that more seeds do not narrow the interval.
        n = int(seen["post_id"].nunique())
        low, high = wilson_interval(round(accuracy * n), n)
        ceiling = judge.accuracy(seen["post_id"]) if judge else None
        return Measured(split, accuracy, n, low, high, ceiling, chance=1 / max(seen["label"].nunique(), 2))
    return None


def _entries(configuration: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in results if entry["configuration"] == configuration]


def _trials(key: str, configuration: str, results: list[dict[str, Any]]) -> list[Trial]:
    by_trial: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in _entries(configuration, results):
        by_trial[entry["trial"]].append(entry)
    found = []
    for entries in by_trial.values():
        ordered = sorted(entries, key=lambda entry: int(entry["epoch"]))
        found.append(
            Trial(
                key,
                int(ordered[0]["seed"]),
                [int(entry["epoch"]) for entry in ordered],
                [_number(entry.get("train_accuracy")) for entry in ordered],
                [_number(entry.get("val_accuracy")) for entry in ordered],
            )
        )
    return found


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)
