"""What a training leaves for readers: ``results.json``, ``table1.csv``, ``predictions/`` (see docs/tables.md)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.schemas import PREDICTIONS
from raypipe.train.images import ImageSet
from raypipe.train.plan import Trial

TRIALS = "_trials"
TABLE1_COLUMNS = ("configuration", "seeds", "max_val_accuracy", "epochs", "final_val_accuracy", "test_accuracy")


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to: its rows of ``results.json`` and the accuracy of its best epoch on the test split."""

    trial: str
    configuration: str
    seed: int
    rows: list[dict[str, Any]]
    test_accuracy: float | None

    def to_json(self) -> bytes:
        """As it is staged under ``_trials/``."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrialResult:
        """Back from `to_json`."""
        return cls(**json.loads(data))

    @property
    def best(self) -> dict[str, Any]:
        """The row of the first epoch with the highest validation accuracy."""
        return max(self.rows, key=lambda row: (row["val_accuracy"], -row["epoch"]))


def prediction_rows(
    trial: Trial, epoch: int, split: str, pictures: ImageSet, classes: tuple[str, str], probability: np.ndarray
) -> pa.Table:
    """Rows of ``predictions/`` for one split; `probability` [n] is of the positive class, ``classes[1]``."""
    n = len(pictures)
    truth = [classes[int(label)] for label in pictures.labels.tolist()]
    columns = {
        "trial": [trial.name] * n,
        "configuration": [trial.configuration] * n,
        "seed": [trial.seed] * n,
        "epoch": [epoch] * n,
        "post_id": list(pictures.post_ids),
        "split": [split] * n,
        "label": truth,
        "probability": np.asarray(probability, np.float64),
    }
    return pa.table(columns, schema=PREDICTIONS)


def results_json(results: Sequence[TrialResult]) -> bytes:
    """All epochs of all trials as one list."""
    return json.dumps([row for result in results for row in result.rows], indent=1).encode()


def table1_csv(results: Sequence[TrialResult]) -> bytes:
    """The paper's table 1: a row a configuration, accuracies as means over its seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TABLE1_COLUMNS)
    for name in sorted({result.configuration for result in results}):
        mine = [result for result in results if result.configuration == name]
        tests = [result.test_accuracy for result in mine if result.test_accuracy is not None]
        writer.writerow(
            [
                name,
                len(mine),
                _mean([result.best["val_accuracy"] for result in mine]),
                max(len(result.rows) for result in mine),
                _mean([result.rows[-1]["val_accuracy"] for result in mine]),
                _mean(tests) if tests else "",
            ]
        )
    return text.getvalue().encode()


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 6)
