"""Files that a training writes for readers: ``results.json``, ``table1.csv``, ``predictions/`` (see docs/tables.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypipe.errors import StageError
from raypipe.tables import TableWriter
from raypipe.tables.csv_file import to_csv
from raypipe.tables.schemas import TABLE1_COLUMNS, predictions_schema
from raypipe.train.data.images import ImageSet
from raypipe.train.data.target import Target
from raypipe.train.metrics import figure_of_merit, mean_and_sd
from raypipe.train.trial_plan import Trial

TRIALS_FOLDER = "_trials"


@dataclass(frozen=True)
class TrialResult:
    """Result of one trial: its rows of ``results.json``, and the measures of its best epoch on the test split."""

    trial: str
    configuration: str
    seed: int
    rows: list[dict[str, Any]]
    test_accuracy: float | None
    test_metrics: dict[str, Any] = field(default_factory=dict)
    """The head's measures by name; empty without a test split."""
    choices: list[str] = field(default_factory=list)
    """Choices that were made for speed or memory, with their reasons."""

    def to_json(self) -> bytes:
        """JSON as it is staged under ``_trials/``."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrialResult:
        """The result from the JSON of `to_json`."""
        return cls(**json.loads(data))

    @property
    def best(self) -> dict[str, Any]:
        """The row of the first epoch with the highest validation accuracy, or without accuracy the lowest loss."""
        return max(self.rows, key=lambda row: (figure_of_merit(row["val_accuracy"], row["val_loss"]), -row["epoch"]))

    @property
    def merit(self) -> float:
        """The number by which the best trial is chosen. Larger is better."""
        return figure_of_merit(self.best["val_accuracy"], self.best["val_loss"])

    @property
    def summary(self) -> str:
        """The best epoch's measures as a short text."""
        if self.best["val_accuracy"] is None:
            name, best, test = "R²", self.best.get("val_r2"), self.test_metrics.get("r2")
        else:
            name, best, test = "accuracy", self.best["val_accuracy"], self.test_accuracy
        text = f"best validation {name} {_three(best)}"
        return text if test is None else f"{text}, test {_three(test)}"


def staged_file(trial: str) -> str:
    """Name of a finished trial's result among a run's staged files."""
    return f"{TRIALS_FOLDER}/{trial}.json"


def staged_result(writer: TableWriter, trial: str) -> TrialResult | None:
    """The result of a trial; None if it is not done. Raises StageError if the file is of another trial."""
    storage, path = writer.storage, f"{writer.staging}/{staged_file(trial)}"
    if not storage.exists(path):
        return None
    result = TrialResult.from_json(storage.read(path))
    if result.trial != trial:
        raise StageError(f"{storage.uri(path)}: contains the trial {result.trial!r}; run again with --overwrite")
    return result


def prediction_rows(
    trial: Trial, epoch: int, split: str, pictures: ImageSet, target: Target, predictions: NDArray[np.float32]
) -> pa.Table:
    """Rows of ``predictions/`` for one split. `predictions` are the head's, [n] or [n, k]."""
    labels, found = pictures.labels.numpy(), np.asarray(predictions, np.float64)
    rows_each = found.shape[1] if found.ndim > 1 else 1
    n = len(pictures) * rows_each
    texts = target.label_texts(labels)
    columns: dict[str, Any] = {
        "trial": [trial.name] * n,
        "configuration": [trial.label] * n,
        "seed": [trial.seed] * n,
        "epoch": [epoch] * n,
        "post_id": np.repeat(pictures.post_ids, rows_each).tolist(),
        "split": [split] * n,
        "label": np.repeat(texts, rows_each).tolist() if target.kind == "classes" else texts,
        "probability": pa.nulls(n, pa.float64()) if target.kind == "score" else found.ravel(),
    }
    if target.kind in ("classes", "tags"):
        columns["class"] = list(target.names) * len(pictures)
    if target.kind == "score":
        columns |= {"score": labels, "predicted": found}
    return pa.table(columns, schema=predictions_schema(target.kind))


def results_json(results: Sequence[TrialResult]) -> bytes:
    """All epochs of all trials as one list."""
    return json.dumps([row for result in results for row in result.rows], indent=1).encode()


def table1_csv(results: Sequence[TrialResult]) -> bytes:
    """The paper's table 1: one row per configuration, with accuracies as means over its seeds.

    If the head has further measures, they follow, of the validation pictures at the best epoch and of the test.
    The last columns are the standard deviations over the seeds (n − 1), empty for one seed.
    """
    lines: list[list[Any]] = []
    header: list[str] = []
    further = _further(results)
    for name in sorted({result.configuration for result in results}):
        mine = [result for result in results if result.configuration == name]
        values = _over_seeds(mine, further)
        means = {"configuration": name, "seeds": len(mine), "epochs": max(len(result.rows) for result in mine)}
        spreads = {column: mean_and_sd(seen) for column, seen in values.items()}
        means |= {column: _six(mean) for column, (mean, _) in spreads.items()}
        columns = [*TABLE1_COLUMNS, *(column for column in values if column not in TABLE1_COLUMNS)]
        header = header or [*columns, *(f"{column}_sd" for column in values)]
        lines.append([*(means[column] for column in columns), *(_six(sd) for _, sd in spreads.values())])
    return to_csv(header, lines)


def _over_seeds(results: Sequence[TrialResult], further: Sequence[str]) -> dict[str, list[float | None]]:
    """The columns of table 1 that are means, each with the values of all seeds."""
    return {
        "max_val_accuracy": [result.best["val_accuracy"] for result in results],
        "final_val_accuracy": [result.rows[-1]["val_accuracy"] for result in results],
        "test_accuracy": [result.test_accuracy for result in results],
        **{f"val_{name}": [result.best[f"val_{name}"] for result in results] for name in further},
        **{f"test_{name}": [result.test_metrics.get(name) for result in results] for name in further[1:]},
    }


def _further(results: Sequence[TrialResult]) -> list[str]:
    """The loss and those measures of the head that are one number. Empty for heads that have only accuracy."""
    shared = ("val_loss", "val_accuracy", "val_tags")
    own = [name.removeprefix("val_") for name in results[0].best if name.startswith("val_") and name not in shared]
    return ["loss", *own] if own else []


def _six(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
