"""Table 1 for heads other than the paper's: columns by what was learned, for the page and for the terminal."""

from __future__ import annotations

from raypipe.report.model_quality import ACCURACY
from raypipe.report.training_results import Table1Row, TrainingResults

_LEFT_OUT_WHERE_NARROW = ("final val", "RMSE")


def headings(training: TrainingResults, *, narrow: bool = False) -> list[str]:
    """Names of the columns after the configuration. Empty for two classes, which have the paper's table.

    `narrow` leaves some columns out, so that the table fits into 80 characters.
    """
    return [name for name in _headings(training) if not (narrow and name in _LEFT_OUT_WHERE_NARROW)]


def cells(training: TrainingResults, row: Table1Row, *, narrow: bool = False) -> list[str]:
    """A row's values in the order of `headings`. A dash if nothing was measured."""
    pairs = zip(_headings(training), _cells(training, row), strict=True)
    return [text for name, text in pairs if not (narrow and name in _LEFT_OUT_WHERE_NARROW)]


def _headings(training: TrainingResults) -> list[str]:
    measured = next((row.measured for row in training.rows if row.measured is not None), None)
    split = measured.split if measured is not None else "test"
    return {
        "binary": [],
        "classes": ["max val", "epochs", "final val", split, "95 % interval", "guessing"],
        "tags": ["max val", "epochs", "final val", "ROC AUC", "95 % interval", "precision"],
        "score": ["val R²", "epochs", f"{split} R²", "RMSE", "ρ", "95 % interval"],
    }[training.target.kind]


def _cells(training: TrainingResults, row: Table1Row) -> list[str]:
    result, kind = row.measured, training.target.kind
    value, interval = (result.metric.text(result.value), result.interval) if result else ("–", "–")
    further = result.further if result else {}
    if kind == "score":
        best, r2, rmse = row.further.get("val_r2"), further.get("r2"), further.get("rmse")
        return [_three(best), str(row.epochs), _three(r2), _three(rmse), value, interval]
    curve = [ACCURACY.text(row.max_val_accuracy), str(row.epochs), ACCURACY.text(row.final_val_accuracy)]
    last = {
        "classes": ACCURACY.text(result.chance if result else None),
        "tags": _three(further.get("average_precision")),
    }
    return [*curve, value, interval, last[kind]] if kind in last else []


def legend(training: TrainingResults) -> str:
    """Sentences that explain the columns and the last layer. Empty for two classes."""
    names = ", ".join(training.classes[:8]) + (" …" if len(training.classes) > 8 else "")
    n = len(training.classes)
    return {
        "binary": "",
        "classes": (
            f"Here the last layer has {n} softmax outputs, one per class ({names}). Guessing: the accuracy of always "
            "naming the most frequent class."
        ),
        "tags": (
            f"Here the last layer has {n} sigmoid outputs, one per hashtag ({names}). Max and final val are accuracies "
            "over all pictures and hashtags. Rare hashtags make them high without any learning. ROC AUC, with its "
            "interval, and average precision are means over hashtags."
        ),
        "score": (
            "Here the last layer has one linear output, the score itself. The loss is the squared error divided by "
            "the variance of the training scores: predicting their mean gives 1. RMSE is in units of the score; "
            "ρ, with its interval, is Spearman’s rank correlation."
        ),
    }[training.target.kind]


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
