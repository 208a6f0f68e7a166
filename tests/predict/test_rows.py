"""One row per picture for any kind of model. Broken pictures keep their place and get a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raypipe.predict.rows import prediction_rows
from raypipe.train.data.target import Target

PATHS, ERRORS = ["a.jpg", "broken.jpg", "c.jpg"], [None, "no picture", None]
CASES: dict[str, tuple[Target, Any, list[dict[str, Any]]]] = {
    "binary": (
        Target("binary", ("no", "yes")),
        [0.75, 0.5],
        [{"probability": 0.75, "label": "yes"}, {"probability": 0.5, "label": "no"}],
    ),
    "classes": (
        Target("classes", ("q1", "q2", "q3")),
        [[0.5, 0.25, 0.25], [0.125, 0.25, 0.625]],
        [
            {"probability": 0.5, "label": "q1", "probability_q1": 0.5, "probability_q2": 0.25, "probability_q3": 0.25},
            {
                "probability": 0.625, "label": "q3",
                "probability_q1": 0.125, "probability_q2": 0.25, "probability_q3": 0.625,
            },
        ],
    ),
    "tags": (
        Target("tags", ("sea", "sun")),
        [[0.75, 0.625], [0.5, 0.25]],
        [
            {"probability": None, "label": ["sea", "sun"], "probability_sea": 0.75, "probability_sun": 0.625},
            {"probability": None, "label": [], "probability_sea": 0.5, "probability_sun": 0.25},
        ],
    ),
    "score": (
        Target("score", ()),
        [1.5, -0.25],
        [{"probability": None, "label": None, "score": 1.5}, {"probability": None, "label": None, "score": -0.25}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_each_head_has_its_columns(kind: str) -> None:
    target, found, expected = CASES[kind]
    rows = prediction_rows(target, PATHS, ERRORS, np.array(found, np.float32)).to_pylist()
    nothing = dict.fromkeys(expected[0])
    assert rows == [
        {"path": "a.jpg", "error": None, **expected[0]},
        {"path": "broken.jpg", "error": "no picture", **nothing},
        {"path": "c.jpg", "error": None, **expected[1]},
    ]
    assert list(rows[0])[:4] == ["path", "probability", "label", "error"]


@pytest.mark.parametrize("kind", CASES)
def test_rows_if_all_pictures_are_broken(kind: str) -> None:
    target, found, expected = CASES[kind]
    none = np.array(found, np.float32)[:0]
    (row,) = prediction_rows(target, ["x.jpg"], ["no picture"], none).to_pylist()
    assert row == {"path": "x.jpg", "error": "no picture", **dict.fromkeys(expected[0])}
