"""The report's tables as CSV files, for use in other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raypipe.report.page import PageContent
from raypipe.report.training_results import Table1Row, TrainingResults
from raypipe.tables.csv_file import to_csv


def csv_files(content: PageContent) -> dict[str, bytes]:
    """CSV files by name. A table without rows is left out."""
    rows: dict[str, tuple[Sequence[str], list[Sequence[Any]]]] = {
        "funnel": (
            ("step", "posts", "share_of_first", "share_of_step_before", "paper"),
            [(s.name, s.count, s.share, s.kept, s.paper) for s in content.funnel.steps],
        ),
        "dropped": (("table", "reason", "rows"), [(d.stage, d.reason, d.rows) for d in content.funnel.dropped]),
        "fetch": (("status", "pictures", "share"), [(s.name, s.count, s.share) for s in content.funnel.statuses]),
        "table2": (
            ("participant", "pictures", "accuracy", "low", "high", "median_seconds"),
            [(p.name, p.pictures, p.accuracy, p.low, p.high, p.median_seconds) for p in content.people],
        ),
    }
    if content.regression is not None:
        rows["coefficients"] = (
            ("term", "estimate", "std_err", "t", "p", "low", "high", "truth"),
            [
                (c.term, c.estimate, c.std_err, c.t, c.p, c.low, c.high, c.truth)
                for c in content.regression.coefficients
            ],
        )
    if content.training is not None:
        header, further = _header(content.training), _further(content.training)
        rows["table1"] = (header, [_table_1_row(row, further) for row in content.training.rows])
        rows["tags"] = (
            (
                "configuration",
                "table",
                "split",
                "tag",
                "prevalence",
                "roc_auc",
                "low",
                "high",
                "average_precision",
                "beats_chance",
            ),
            [
                (row.configuration, row.table, row.measured.split, *vars(tag).values())
                for row in content.training.rows
                if row.measured is not None
                for tag in row.measured.tags
            ],
        )
    return {f"{name}.csv": to_csv(header, lines) for name, (header, lines) in rows.items() if lines}


_TABLE_1 = (
    "configuration", "table", "seeds", "max_val_accuracy", "epochs", "final_val_accuracy",
    "split", "accuracy", "pictures", "low", "high", "ceiling", "paper_max_val_accuracy",
)  # fmt: skip


def _header(training: TrainingResults) -> Sequence[str]:
    """Columns of table 1. `accuracy` gets the name of the head's measure. The head's further columns come last."""
    column = next((row.measured.metric.column for row in training.rows if row.measured), "accuracy")
    return (*(column if name == "accuracy" else name for name in _TABLE_1), *_further(training))


def _further(training: TrainingResults) -> list[str]:
    """Further columns that at least one row has. Tables that an older raypipe wrote have fewer."""
    return list(dict.fromkeys(name for row in training.rows for name in row.further))


def _table_1_row(row: Table1Row, further: Sequence[str]) -> Sequence[Any]:
    result = row.measured
    measured = (
        (result.split, result.value, result.n, result.low, result.high, result.ceiling) if result else (None,) * 6
    )
    return (
        row.configuration, row.table, row.seeds, row.max_val_accuracy, row.epochs, row.final_val_accuracy,
        *measured, row.paper.max_val_accuracy if row.paper else None, *(row.further.get(name) for name in further),
    )  # fmt: skip
