"""The warnings of a card depend on how labels were made and how the model was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypipe.export.model.limits import limit_sentences
from raypipe.export.model.model_results import ModelResults
from raypipe.export.model.training_data import TrainingData
from raypipe.report.model_quality import MetricResult

CONFIG = {"head": "binary", "image_size": 224}
DATA = TrainingData(
    generated=False, scheme="residual", label_method="", eligible="one_face", eligible_text="", split="",
    date_range="", steps=[],
    splits=[], classes=[], dropped=[], users_on_two_sides=0, warnings=[],
)  # fmt: skip
GOOD = MetricResult("test", 0.72, 1000, 0.69, 0.75, None, 0.5)


def said(data: TrainingData | None = DATA, measured: MetricResult | None = GOOD, **config: object) -> str:
    results = None if measured is None else ModelResults({measured.split: measured}, "accuracy", [], "", None)
    return "\n".join(limit_sentences({**CONFIG, **config}, data, results))


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("does not clearly beat chance", said(measured=replace(GOOD, low=0.45)), said()),
        ("28 % of its answers", said(), said(measured=replace(GOOD, low=0.45))),
        ("no test pictures", said(measured=replace(GOOD, split="val")), said()),
        ("calibrated", said(), said(head="score")),
        ("the two extremes only", said(), said(replace(DATA, scheme="quantiles"))),
        ("relative to the author's reach", said(), said(replace(DATA, scheme="quantiles"))),
        ("exactly one face", said(), said(replace(DATA, eligible="image"))),
        ("what the author wrote", said(replace(DATA, scheme="hashtags")), said()),
        ("2026-01-01 to 2026-02-01", said(replace(DATA, date_range="2026-01-01 to 2026-02-01")), said()),
        ("1,234 users", said(replace(DATA, users_on_two_sides=1234)), said()),
        ("real people's personal data", said(None, None), said(replace(DATA, generated=True))),
    ],
)
def test_each_warning_appears_only_if_it_applies(text: str, on: str, off: str) -> None:
    assert text in on
    assert text not in off


def test_general_warnings_always_appear() -> None:
    for text in (said(), said(None, None), said(replace(DATA, generated=True, scheme="column"))):
        assert "prejudices" in text
        assert "224 × 224 pixels" in text
