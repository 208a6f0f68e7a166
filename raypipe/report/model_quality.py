"""The quality of a model from its stored predictions: the measure of its head, with a 95 % interval.

Intervals take the posts of one user together (`raypipe.statistics.clustered`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from raypipe.report.ceiling import PerfectClassifier
from raypipe.statistics.clustered import (
    clustered_auc_interval,
    clustered_share_interval,
    clustered_spearman_interval,
    number_users,
)
from raypipe.statistics.ranks import roc_auc
from raypipe.train import metrics
from raypipe.train.data.target import Target
from raypipe.train.results.comparisons import trial_answers


@dataclass(frozen=True)
class Metric:
    """A measure: its name, the name of its column, what guessing is called, and whether it is shown in percent."""

    name: str
    column: str
    guess: str = "chance"
    percent: bool = False

    def text(self, value: float | None) -> str:
        """A value of the measure as text. A dash if it is None."""
        if value is None:
            return "–"
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3f}".replace("-", "−")


ACCURACY = Metric("accuracy", "accuracy", percent=True)
ACCURACY_OF_CLASSES = Metric("accuracy", "accuracy", "always naming the most frequent class", percent=True)
ROC_AUC = Metric("mean ROC AUC", "roc_auc")
SPEARMAN = Metric("Spearman’s ρ", "spearman")


@dataclass(frozen=True)
class HashtagResult:
    """How well one hashtag is recognised: the area under the ROC curve with its 95 % interval.

    `prevalence` is the share of the pictures that have the hashtag. It is also the average precision of guessing. Areas
    are None if all or none of the pictures have it. `beats_chance` says whether a wider interval is above the area of
    guessing. Together, these wider intervals of all tags have a confidence of 95 % (Bonferroni).
    """

    name: str
    prevalence: float
    roc_auc: float | None
    low: float | None
    high: float | None
    average_precision: float | None
    beats_chance: bool


@dataclass(frozen=True)
class MetricResult:
    """The `value` of `metric` on the `n` pictures of `split`, with its 95 % interval and what guessing gives.

    `ceiling` is what a perfect judge reaches on the same pictures, if that is known. `further` has other measures by
    name, `tags` has one entry per hashtag.
    """

    split: str
    value: float
    n: int
    low: float
    high: float
    ceiling: float | None
    chance: float
    metric: Metric = ACCURACY
    further: dict[str, float | None] = field(default_factory=dict)
    tags: tuple[HashtagResult, ...] = ()

    @property
    def excludes_chance(self) -> bool:
        """Whether what guessing gives is outside the interval."""
        return self.low > self.chance or self.high < self.chance

    @property
    def pictures(self) -> str:
        """The number and kind of the pictures, as text."""
        return f"{self.n:,} {'test' if self.split == 'test' else 'validation'} pictures"

    @property
    def interval(self) -> str:
        """The interval as text."""
        if self.metric.percent:
            return f"{100 * self.low:.1f}–{100 * self.high:.1f} %"
        return f"{self.metric.text(self.low)} to {self.metric.text(self.high)}"

    @property
    def sentence(self) -> str:
        """The claim that the result allows: a sentence without its subject."""
        if self.metric.percent:
            claim = f"gets {self.metric.text(self.value)} of {self.pictures} right"
        else:
            claim = f"has a {self.metric.name} of {self.metric.text(self.value)} on {self.pictures}"
        guess = self.metric.guess
        if self.low > self.chance:
            verdict = f"beats {guess}: its 95 % interval, {self.interval}, excludes {self.chance:.3g}"
        elif self.high < self.chance:
            verdict = f"is worse than {guess}: its 95 % interval, {self.interval}, lies below {self.chance:.3g}"
        else:
            verdict = (
                f"is not clearly better than {guess}: its 95 % interval, {self.interval}, includes {self.chance:.3g}"
            )
        caveat = "" if self.split == "test" else " The best epoch was chosen on these pictures, so this is optimistic."
        return f"{claim} and {verdict}.{caveat}"


def measure_predictions(
    target: Target,
    accuracies: dict[str, float | None],
    predictions: pd.DataFrame,
    perfect_classifier: PerfectClassifier | None,
    users: Mapping[str, str | None],
) -> MetricResult | None:
    """The measure of `target`'s head over one configuration's rows of ``predictions/``. None if there are none.

    Test pictures are used, or validation pictures if there are none. `accuracies` are those of table 1 by split. Values
    are means over seeds. All seeds share the pictures, so more seeds do not narrow an interval. `users` are the users
    by post_id. A post whose user is missing or None counts as the only post of a further user.
    """
    for split in ("test", "val"):
        split_predictions = predictions[predictions["split"] == split]
        if split_predictions.empty:
            continue
        if target.kind == "tags":
            return _tags_result(target, split, split_predictions, users)
        if target.kind == "score":
            return _score_result(split, split_predictions, users)
        accuracy = accuracies[split]
        if accuracy is not None:
            return _classes_result(target, split, accuracy, split_predictions, perfect_classifier, users)
    return None


def compute_guess_level(target: Target, predictions: pd.DataFrame | None) -> float | None:
    """What guessing gives in the curves: an accuracy, or for scores a loss (1 for always predicting the mean)."""
    if target.kind == "binary":
        return 0.5
    if target.kind == "score":
        return 1.0
    if predictions is None or not predictions["split"].eq("val").any():
        return None
    split_predictions = predictions[predictions["split"] == "val"]
    if target.kind == "classes":
        return _largest_class_share(split_predictions)
    carried = (split_predictions["label"] == split_predictions["class"]).groupby(split_predictions["class"]).mean()
    return float(np.maximum(carried, 1 - carried).mean())


def _largest_class_share(split_predictions: pd.DataFrame) -> float:
    return float(split_predictions.drop_duplicates("post_id")["label"].value_counts(normalize=True).max())


def _classes_result(
    target: Target,
    split: str,
    accuracy: float,
    split_predictions: pd.DataFrame,
    perfect_classifier: PerfectClassifier | None,
    users: Mapping[str, str | None],
) -> MetricResult:
    answered = trial_answers(split_predictions, target, split)
    right = pd.concat([pd.Series(own.right, own.post_ids, float) for own in answered]).groupby(level=0).mean()
    n = len(right)
    low, high = clustered_share_interval(accuracy, right.to_numpy(), number_users(map(users.get, right.index)))
    if target.kind == "classes":
        return MetricResult(
            split, accuracy, n, low, high, None, _largest_class_share(split_predictions), ACCURACY_OF_CLASSES
        )
    ceiling = perfect_classifier.accuracy(split_predictions["post_id"]) if perfect_classifier else None
    return MetricResult(split, accuracy, n, low, high, ceiling, chance=1 / max(split_predictions["label"].nunique(), 2))


def _tags_result(
    target: Target, split: str, split_predictions: pd.DataFrame, users: Mapping[str, str | None]
) -> MetricResult | None:
    tags = tuple(
        _tag(name, split_predictions[split_predictions["class"] == name], len(target.names), users)
        for name in target.names
    )
    known = [(tag.roc_auc, tag.low, tag.high) for tag in tags if tag.roc_auc is not None]
    if not known:
        return None
    # Tags share the pictures, so their errors may be correlated: the mean's interval is no narrower than theirs.
    value, low, high = (float(np.mean(column)) for column in zip(*known, strict=True))
    precisions = [tag.average_precision for tag in tags if tag.average_precision is not None]
    further = {"average_precision": float(np.mean(precisions)) if precisions else None}
    return MetricResult(
        split, value, int(split_predictions["post_id"].nunique()), low, high, None, 0.5, ROC_AUC, further, tags
    )


def _tag(name: str, rows: pd.DataFrame, n_tags: int, users: Mapping[str, str | None]) -> HashtagResult:
    carried = (rows["label"] == rows["class"]).to_numpy()
    each = rows.assign(carried=carried)
    scores, posts = _by_seed(each, "probability", "carried")
    area = _over_seeds(each, lambda own: roc_auc(own["probability"].to_numpy(), own["carried"].to_numpy()))
    precision = _over_seeds(
        each, lambda own: metrics.average_precision(own["probability"].to_numpy(), own["carried"].to_numpy())
    )
    prevalence, own_users = float(posts.mean()), number_users(map(users.get, posts.index))
    ends = clustered_auc_interval(scores, posts.to_numpy(), own_users)
    wide_interval = clustered_auc_interval(scores, posts.to_numpy(), own_users, 1 - 0.05 / n_tags)
    if area is None or ends is None or wide_interval is None:
        return HashtagResult(name, prevalence, None, None, None, precision, False)
    return HashtagResult(name, prevalence, area, *ends, precision, wide_interval[0] > 0.5)


def _score_result(split: str, split_predictions: pd.DataFrame, users: Mapping[str, str | None]) -> MetricResult:
    def mean(function: Callable[[Any, Any], float | None]) -> float | None:
        return _over_seeds(
            split_predictions, lambda own: function(own["predicted"].to_numpy(), own["score"].to_numpy())
        )

    predicted, truth = _by_seed(split_predictions, "predicted", "score")
    n = len(truth)
    # ρ is None if a model predicts the same number for all pictures. Such a model ranks nothing.
    rho = mean(metrics.spearman) or 0.0
    low, high = clustered_spearman_interval(rho, predicted, truth.to_numpy(), number_users(map(users.get, truth.index)))
    further = {"r2": mean(metrics.r_squared), "rmse": mean(metrics.rmse)}
    return MetricResult(split, rho, n, low, high, None, 0.0, SPEARMAN, further)


def _by_seed(rows: pd.DataFrame, predicted_column: str, truth: str) -> tuple[list[Any], pd.Series]:
    """The predictions of each seed, in the same order of posts, and the truth by post_id in this order."""
    seeds = [own.sort_values("post_id") for _, own in rows.groupby("seed")]
    return [own[predicted_column].to_numpy() for own in seeds], seeds[0].set_index("post_id")[truth]


def _over_seeds(rows: pd.DataFrame, function: Callable[[pd.DataFrame], float | None]) -> float | None:
    found = [value for _, own in rows.groupby("seed") if (value := function(own)) is not None]
    return float(np.mean(found)) if found else None
