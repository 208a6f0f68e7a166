"""Results of training: curves by epoch, table 1 with intervals and ceiling, a plain sentence per configuration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import pandas as pd

from raypipe.report.ceiling import PerfectClassifier
from raypipe.report.model_quality import MetricResult, compute_guess_level, measure_predictions
from raypipe.statistics import paper
from raypipe.tables.csv_file import from_csv
from raypipe.tables.root_tables import RootTables
from raypipe.tables.schemas import TABLE1_COLUMNS
from raypipe.train.data.target import BINARY, Target
from raypipe.train.metrics import figure_of_merit, mean_and_sd
from raypipe.train.results import comparisons

# Columns of table1.csv with numbers.
_NUMBERS = ("epochs", "max_val_accuracy", "final_val_accuracy", "test_accuracy")


@dataclass(frozen=True)
class TrialCurve:
    """Accuracies of one trial by epoch, or losses if a score was learned. None for a value that was not measured."""

    key: str
    seed: int
    epochs: list[int]
    train: list[float | None]
    val: list[float | None]


@dataclass(frozen=True)
class Table1Row:
    """One row of table 1. `key` is the configuration's name, with the table's name if it is ambiguous without."""

    key: str
    table: str
    configuration: str
    seeds: int
    epochs: int
    max_val_accuracy: float | None
    final_val_accuracy: float | None
    measured: MetricResult | None
    paper: paper.PaperResult | None
    images_per_s: float | None
    further: dict[str, float | None] = field(default_factory=dict)
    """Columns of table 1 beyond those that every head has."""
    val_sd: float | None = None
    """Standard deviation of `max_val_accuracy` over the seeds. None if fewer than two seeds have a value."""

    @property
    def sentence(self) -> str:
        """The claim that the results of this configuration allow, as a sentence."""
        if self.measured is None:
            return f"{self.key}: no predictions are stored, so its quality is not known."
        return f"{self.key} {self.measured.sentence}"

    @property
    def short_claim(self) -> str:
        """The same claim in a few words. Empty if there are no predictions."""
        result = self.measured
        if result is None:
            return ""
        chance = "chance" if result.metric.guess == "chance" else "guessing"
        if result.excludes_chance:
            return f"beats {chance}" if result.low > result.chance else f"below {chance}"
        return f"no better than {chance}"

    @property
    def merit(self) -> float | None:
        """The value that the best configuration is chosen by, from validation pictures only. None if not measured."""
        loss = self.further.get("val_loss")
        return None if self.max_val_accuracy is None and loss is None else figure_of_merit(self.max_val_accuracy, loss)


@dataclass(frozen=True)
class PairDifference:
    """Compares two configurations: how much better the second is (mean over `seeds`), and whether that is noise."""

    first: str
    second: str
    seeds: int
    n: int
    mean: float
    least_p: float
    verdict: str


@dataclass(frozen=True)
class PairDifferences:
    """Pairs of configurations on the pictures of `split`. `left_out` counts the other pairs in the sweep's file."""

    pairs: tuple[PairDifference, ...]
    split: str
    left_out: int


@dataclass(frozen=True)
class TrainingResults:
    """All trainings under a root on the same kind of labels as the newest one.

    `target`: what was learned. `guess_level`: what guessing gives in the curves. `left_out`: tables with other labels.
    """

    rows: list[Table1Row]
    trials: dict[str, list[TrialCurve]]
    predictions: pd.DataFrame | None
    classes: tuple[str, ...]
    target: Target = BINARY
    guess_level: float | None = 0.5
    left_out: tuple[str, ...] = ()
    differences: PairDifferences | None = None

    @property
    def best(self) -> Table1Row | None:
        """The row with the best validation accuracy, or loss. Test pictures are not used for this choice."""
        return _best(self.rows)

    @property
    def curve(self) -> Literal["accuracy", "loss"]:
        """Which values the trials have."""
        return "loss" if self.target.kind == "score" else "accuracy"

    @property
    def best_predictions(self) -> pd.DataFrame | None:
        """The best configuration's predictions for the pictures it was measured on. None if there are none."""
        best = self.best
        if best is None or best.measured is None or self.predictions is None:
            return None
        own = self.predictions["key"] == best.key
        return self.predictions[own & (self.predictions["split"] == best.measured.split)]


def build(root_tables: RootTables) -> TrainingResults | None:
    """Trainings in `sweep/` and `train/*/`. None if none is complete. Raises InputError if a file is damaged."""
    if not root_tables.training_tables:
        return None
    tables = sorted(root_tables.training_tables, key=lambda name: root_tables.records[name].finished_at)
    target = _target(root_tables, tables[-1])
    kept = [name for name in root_tables.training_tables if _same_target(_target(root_tables, name), target)]
    perfect_classifier, curve = (
        PerfectClassifier.from_root(root_tables),
        "loss" if target.kind == "score" else "accuracy",
    )
    rows: list[Table1Row] = []
    trials: dict[str, list[TrialCurve]] = {}
    frames: list[pd.DataFrame] = []
    for table in kept:
        results = root_tables.json(table, "results.json") or []
        predictions = root_tables.frame(table, "predictions")
        for line in _table_1(root_tables, table):
            key = _key(line["configuration"], table)
            with root_tables.input_errors(table, "results.json"):
                trials[key] = _trials(key, line["configuration"], results, curve)
                speed = _speed(line["configuration"], results)
            measured = _measure(_target(root_tables, table), line, predictions, perfect_classifier, root_tables.users)
            rows.append(_row(target, key, table, line, measured, speed, trials[key]))
        if predictions is not None:
            keys = predictions["configuration"].map(lambda name, table=table: _key(name, table))
            frames.append(predictions.assign(key=keys))
    predictions = pd.concat(frames, ignore_index=True) if frames else None
    classes = target.names
    if target.kind == "binary":
        classes = tuple(sorted(predictions["label"].unique())) if predictions is not None else ()
    left_out = tuple(name for name in root_tables.training_tables if name not in kept)
    differences = _differences(root_tables, rows) if "sweep" in kept else None
    return TrainingResults(
        rows, trials, predictions, classes, target, compute_guess_level(target, predictions), left_out, differences
    )


def _differences(root_tables: RootTables, rows: list[Table1Row]) -> PairDifferences | None:
    data = root_tables.file("sweep", "comparisons.csv")
    with root_tables.input_errors("sweep", "comparisons.csv"):
        found = comparisons.comparisons_from_csv(data) if data else []
    if not found:
        return None
    verdict_texts, pairs = comparisons.pair_summaries(found), comparisons.by_pair(found)
    best = _best([row for row in rows if row.table == "sweep"])
    shown = comparisons.pairs_to_show(pairs, best.configuration if best else None)
    pair_differences = tuple(
        PairDifference(
            first=first,
            second=second,
            seeds=len(items),
            n=items[0].n,
            mean=sum(item.difference for item in items) / len(items),
            least_p=min(item.p_holm for item in items),
            verdict=verdict_texts[first, second],
        )
        for (first, second), items in ((pair, pairs[pair]) for pair in shown)
    )
    return PairDifferences(pair_differences, found[0].split, len(pairs) - len(pair_differences))


def _best(rows: list[Table1Row]) -> Table1Row | None:
    rated = [(row.merit, row) for row in rows if row.merit is not None]
    return max(rated, key=lambda pair: pair[0], default=(None, None))[1]


def _target(root_tables: RootTables, table: str) -> Target:
    facts = root_tables.records[table].facts
    # Older tables do not record their head. It is the one of two classes.
    return Target(facts["head"], tuple(facts["classes"])) if "head" in facts else BINARY


def _same_target(one: Target, other: Target) -> bool:
    return one.kind == other.kind and (one.kind == "binary" or one.names == other.names)


def _key(configuration: str, table: str) -> str:
    return configuration if table in ("sweep", f"train/{configuration}") else f"{configuration} ({table})"


def _table_1(root_tables: RootTables, table: str) -> list[dict[str, str]]:
    data = root_tables.file(table, "table1.csv")
    if data is None:
        return []
    with root_tables.input_errors(table, "table1.csv"):
        lines = from_csv(data)
        for line in lines:
            # Check the numbers here, so that an error names this file. They are used later, while others are read.
            int(line["seeds"])
            for name in (*_NUMBERS, *(set(line) - set(TABLE1_COLUMNS))):
                _number(line[name])
            _key(line["configuration"], table)
    return lines


def _row(
    target: Target,
    key: str,
    table: str,
    line: dict[str, str],
    measured: MetricResult | None,
    speed: float | None,
    trials: list[TrialCurve],
) -> Table1Row:
    letter = line["configuration"]
    # If a score is learned, trials have losses, and there is no accuracy to take the standard deviation of.
    known = [[value for value in trial.val if value is not None] for trial in trials if target.kind != "score"]
    best = [max(values) for values in known if values]
    return Table1Row(
        key=key,
        table=table,
        configuration=letter,
        seeds=int(line["seeds"]),
        epochs=int(float(line["epochs"])),
        max_val_accuracy=_number(line["max_val_accuracy"]),
        final_val_accuracy=_number(line["final_val_accuracy"]),
        measured=measured,
        # The paper has numbers for two classes only.
        paper=paper.TABLE_1.get(letter) if target.kind == "binary" else None,
        images_per_s=speed,
        further={name: _number(value) for name, value in line.items() if name not in TABLE1_COLUMNS},
        val_sd=mean_and_sd(best)[1],
    )


def _measure(
    target: Target,
    line: dict[str, str],
    predictions: pd.DataFrame | None,
    perfect_classifier: PerfectClassifier | None,
    users: Mapping[str, str | None],
) -> MetricResult | None:
    if predictions is None:
        return None
    own = predictions[predictions["configuration"] == line["configuration"]]
    accuracies = {"test": _number(line["test_accuracy"]), "val": _number(line["max_val_accuracy"])}
    return measure_predictions(target, accuracies, own, perfect_classifier, users)


def _entries(configuration: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in results if entry["configuration"] == configuration]


def _speed(configuration: str, results: list[dict[str, Any]]) -> float | None:
    """Pictures per second: the median over epochs."""
    speeds = [float(entry["images_per_s"]) for entry in _entries(configuration, results) if entry.get("images_per_s")]
    return median(speeds) if speeds else None


def _trials(key: str, configuration: str, results: list[dict[str, Any]], curve: str) -> list[TrialCurve]:
    by_trial: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in _entries(configuration, results):
        by_trial[entry["trial"]].append(entry)
    found = []
    for entries in by_trial.values():
        ordered = sorted(entries, key=lambda entry: int(entry["epoch"]))
        found.append(
            TrialCurve(
                key,
                int(ordered[0]["seed"]),
                [int(entry["epoch"]) for entry in ordered],
                [_number(entry.get(f"train_{curve}")) for entry in ordered],
                [_number(entry.get(f"val_{curve}")) for entry in ordered],
            )
        )
    return found


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)
