"""`predictions/`, `results.json` and `table1.csv` by head."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables.schemas import PREDICTIONS, TABLE1_COLUMNS
from raypipe.train.data.images import image_set
from raypipe.train.results.trial_result import TrialResult, prediction_rows, staged_file, staged_result, table1_csv
from raypipe.train.trial_plan import Trial
from tests.train.small import TARGETS

TRIAL = Trial("B", 4)
LABELS: dict[str, Any] = {
    "binary": np.array([1, 0], np.float32),
    "classes": np.array([2, 0]),
    "tags": np.array([[1, 0, 1], [0, 0, 0]], np.float32),
    "score": np.array([0.25, -3.0]),
}
FOUND: dict[str, Any] = {
    "binary": [0.75, 0.5],
    "classes": [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]],
    "tags": [[0.75, 0.25, 0.5], [0.5, 0.25, 0.125]],
    "score": [0.5, -1.0],
}


def rows_of(kind: str) -> Any:
    pictures = image_set(np.zeros((2, 3, 8, 8), np.uint8), LABELS[kind], ["x", "y"], LABELS[kind].dtype.type)
    return prediction_rows(TRIAL, 3, "val", pictures, TARGETS[kind], np.array(FOUND[kind], np.float32))


def test_two_classes_have_one_row_per_picture() -> None:
    rows = rows_of("binary")
    assert rows.schema == PREDICTIONS
    assert rows["label"].to_pylist() == ["top", "bottom"]
    assert rows["probability"].to_pylist() == [0.75, 0.5]
    assert rows.select(["trial", "configuration", "seed", "epoch", "post_id", "split"]).to_pylist()[1] == {
        "trial": "B-4", "configuration": "B", "seed": 4, "epoch": 3, "post_id": "y", "split": "val",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "labels"), [("classes", ["q3"] * 3 + ["q1"] * 3), ("tags", ["sea", "", "cat", "", "", ""])]
)
def test_classes_and_tags_have_one_row_per_class(kind: str, labels: list[str]) -> None:
    rows = rows_of(kind)
    assert rows.schema.names == [*PREDICTIONS.names, "class"]
    assert rows["post_id"].to_pylist() == ["x", "x", "x", "y", "y", "y"]
    assert rows["class"].to_pylist() == [*TARGETS[kind].names] * 2
    assert rows["label"].to_pylist() == labels
    assert rows["probability"].to_pylist() == [p for row in FOUND[kind] for p in row]


def test_score_rows_have_score_and_prediction_without_probability() -> None:
    rows = rows_of("score")
    assert rows.schema.names == [*PREDICTIONS.names, "score", "predicted"]
    assert rows["label"].to_pylist() == ["0.25", "-3.0"]
    assert rows["probability"].null_count == 2
    assert (rows["score"].to_pylist(), rows["predicted"].to_pylist()) == ([0.25, -3.0], [0.5, -1.0])


def epoch(number: int, accuracy: float | None, loss: float | None, **further: Any) -> dict[str, Any]:
    return {"epoch": number, "val_loss": loss, "val_accuracy": accuracy, **further}


def lines(*results: TrialResult) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table1_csv(results).decode())))


def test_table_1_of_accuracies_has_columns_of_paper() -> None:
    first = TrialResult("A-0", "A", 0, [epoch(1, 0.6, 0.7), epoch(2, 0.8, 0.9), epoch(3, 0.8, 0.5)], 0.7)
    second = TrialResult("A-1", "A", 1, [epoch(1, 0.5, 0.7), epoch(2, 0.4, 0.9)], None)
    assert first.best["epoch"] == 2
    assert first.summary == "best validation accuracy 0.800, test 0.700"
    assert second.summary == "best validation accuracy 0.500"
    assert table1_csv([first, second]).decode().splitlines() == [
        ",".join((*TABLE1_COLUMNS, "max_val_accuracy_sd", "final_val_accuracy_sd", "test_accuracy_sd")),
        "A,2,0.65,3,0.6,0.7,0.212132,0.282843,",
    ]


def test_table_1_of_tags_adds_loss_area_and_precision() -> None:
    tags = {"sea": {"roc_auc": 0.5}}
    one = TrialResult(
        "A-0", "A", 0,
        [epoch(1, 0.9, 0.3, val_roc_auc=0.7, val_average_precision=0.2, val_tags=tags)],
        0.88, {"roc_auc": 0.6, "average_precision": None, "tags": tags},
    )  # fmt: skip
    two = TrialResult(
        "A-1", "A", 1,
        [epoch(1, 0.8, 0.5, val_roc_auc=None, val_average_precision=0.4, val_tags=tags)],
        0.9, {"roc_auc": 0.8, "average_precision": None, "tags": tags},
    )  # fmt: skip
    (line,) = lines(one, two)
    means = ["val_loss", "val_roc_auc", "val_average_precision", "test_roc_auc", "test_average_precision"]
    spread = ["max_val_accuracy", "final_val_accuracy", "test_accuracy", *means]
    assert list(line) == [*TABLE1_COLUMNS, *means, *(f"{name}_sd" for name in spread)]
    assert float(line["val_loss_sd"]) == pytest.approx(0.2 / 2**0.5, abs=1e-6)
    assert line["val_roc_auc_sd"] == ""
    assert (line["max_val_accuracy"], line["val_loss"], line["val_roc_auc"]) == ("0.85", "0.4", "0.7")
    assert (line["val_average_precision"], line["test_roc_auc"], line["test_average_precision"]) == ("0.3", "0.7", "")


def test_table_1_of_scores_uses_lowest_loss_epoch() -> None:
    rows = [epoch(1, None, 0.9, val_r2=0.1), epoch(2, None, 0.7, val_r2=0.3), epoch(3, None, None, val_r2=None)]
    result = TrialResult("C-0", "C", 0, rows, None, {"r2": 0.25})
    assert result.best["epoch"] == 2
    assert result.merit == -0.7
    assert result.summary == "best validation R² 0.300, test 0.250"
    (line,) = lines(result)
    assert [line[name] for name in ("max_val_accuracy", "final_val_accuracy", "test_accuracy")] == ["", "", ""]
    assert (line["val_loss"], line["val_r2"], line["test_r2"], line["epochs"]) == ("0.7", "0.3", "0.25", "3")
    assert TrialResult.from_json(result.to_json()) == result


def test_staged_result_must_name_its_trial(tmp_path: Path) -> None:
    writer = TableWriter(Storage(str(tmp_path)), "sweep", "0123abcd")
    assert staged_result(writer, "A-0") is None
    result = TrialResult("A-0", "A", 0, [], None)
    writer.write_file(staged_file("A-0"), result.to_json())
    assert staged_result(writer, "A-0") == result
    writer.write_file(staged_file("A-0"), replace(result, trial="../../..").to_json())
    with pytest.raises(StageError, match=r"_trials/A-0\.json: contains the trial '\.\./\.\./\.\.'"):
        staged_result(writer, "A-0")
