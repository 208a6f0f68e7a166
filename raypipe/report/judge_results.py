"""The results of `raypipe judge` as sentences for the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raypipe.tables.root_tables import RootTables

_LARGE_AUC = 0.6


@dataclass(frozen=True)
class JudgeResults:
    """The contents of `judge/judge.json`, and sentences about them."""

    n: int
    sentences: list[str]
    overlap: list[dict[str, Any]] = field(default_factory=list)
    formulas: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def build(root_tables: RootTables) -> JudgeResults | None:
    """The results for the current labels. None if these were not judged. Raises InputError if the file is damaged."""
    found = root_tables.json("judge", "judge.json")
    judge_record, labels = root_tables.records.get("judge"), root_tables.records.get("labels")
    if (
        not isinstance(found, dict)
        or judge_record is None
        or labels is None
        or judge_record.inputs.get("labels") != labels.run_id
    ):
        return None
    with root_tables.input_errors("judge", "judge.json"):
        return _judge_results(found)


def _judge_results(found: dict[str, Any]) -> JudgeResults:
    sentences = [_baseline(item) for item in found["baseline"]]
    if found.get("explained") is not None:
        share = f"{100 * found['explained']:.1f} %"
        sentences.append(f"Metadata alone explain {share} of the labels’ variance in users outside the fit.")
    if found["bootstrap"]:
        mean, low, high = (f"{100 * share:.1f} %" for share in found["bootstrap"]["same"])
        sentences.append(
            f"When {found['bootstrap']['unit']} are drawn again, {mean} of the labels stay "
            f"(5th to 95th percentile of {found['bootstrap']['replicates']} draws: {low} to {high})."
        )
    return JudgeResults(found["n"], sentences, found["overlap"], found["formulas"], found.get("left_out", {}))


def _baseline(item: dict[str, Any]) -> str:
    words = ", ".join(name.replace("n_hashtags", "hashtags") for name in item["covariates"])
    if item["auc"] is None:
        return f"There are too few posts to predict {item['label']} from {words} alone."
    text = f"From {words} alone, {item['label']} is predicted with an area under the ROC curve of {item['auc']:.3f}"
    if item["low"] is not None:
        text += f" (95 % interval {item['low']:.3f} to {item['high']:.3f})"
    if item["low"] is not None and item["low"] > 0.5:
        much = "far" if item["auc"] > _LARGE_AUC else "a little"
        return f"{text}: {much} above chance (0.5), so the label depends on more than the picture."
    return f"{text}: not clearly different from chance (0.5)."
