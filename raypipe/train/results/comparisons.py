"""Finds differences between configurations that are more than noise, by McNemar's test on the same pictures.

The test compares two classifiers on the pictures that exactly one of them gets right (McNemar 1947; Dietterich 1998,
"Approximate statistical tests for comparing supervised classification learning algorithms", section 3.1). It shows more
than overlapping intervals of two accuracies, because both make most of their errors on the same pictures. Pictures of
one user are treated as one group, as in the intervals (`raypipe.statistics.clustered.paired_p`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raypipe.statistics.clustered import number_users, paired_p
from raypipe.tables import csv_file as csvfile
from raypipe.train.data.target import Target

# The number of pairs of A, B, C and D.
_FEW_PAIRS = 6


@dataclass(frozen=True)
class TrialAnswers:
    """Answers of one trial for the pictures of a split: whether each is `right`, bool [n], in order of `post_ids`."""

    configuration: str
    seed: int
    split: str
    post_ids: tuple[str, ...]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Two configurations trained with one seed, compared on the same `n` pictures.

    `only_first`, `only_second`: pictures that only this one gets right. `p`: McNemar's exact two-sided p-value, by user
    if users have several pictures. `p_holm`: `p` corrected for all comparisons of the sweep (Holm 1979).
    """

    first: str
    second: str
    seed: int
    split: str
    n: int
    only_first: int
    only_second: int
    p: float
    p_holm: float

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.n


def trial_answers(frame: pd.DataFrame, target: Target, split: str) -> list[TrialAnswers]:
    """Each trial's answers to the pictures of `split`, from the rows of ``predictions/``.

    Empty for targets that have no right answer (tags, scores).
    """
    if target.kind not in ("binary", "classes"):
        return []
    frame = frame[frame["split"] == split].copy()
    if target.kind == "binary":
        found_labels = set(frame["label"])
        # Tables made before there were other heads do not name their classes. The second class is last in the alphabet.
        positive = target.names[1] if found_labels <= set(target.names) else max(found_labels)
        frame["right"] = (frame["probability"] > 0.5) == (frame["label"] == positive)
    else:
        # The most probable class of each picture. If two are equal, the first in the alphabet.
        frame = frame.sort_values(["probability", "class"], ascending=[False, True], kind="stable")
        frame = frame.drop_duplicates(["configuration", "seed", "post_id"])
        frame["right"] = frame["class"] == frame["label"]
    found = []
    for _, own in frame.groupby(["configuration", "seed"], sort=True):
        own = own.sort_values("post_id")
        trial = str(own["configuration"].iloc[0]), int(own["seed"].iloc[0])
        found.append(TrialAnswers(*trial, split, tuple(own["post_id"]), own["right"].to_numpy(bool)))
    return found


def compare_configurations(found: Sequence[TrialAnswers], users: Mapping[str, str | None]) -> list[Comparison]:
    """Compares each pair of configurations with the same seed. Raises ValueError if their pictures differ.

    `users` has the users of the posts by post_id. A post whose user is missing or None has a user of its own.
    """
    by_seed: dict[int, dict[str, TrialAnswers]] = {}
    for item in found:
        by_seed.setdefault(item.seed, {})[item.configuration] = item
    pairs = [
        _pair(own[first], own[second], users)
        for _, own in sorted(by_seed.items())
        for first, second in itertools.combinations(sorted(own), 2)
    ]
    if not pairs:
        return []
    order = np.argsort([pair.p for pair in pairs], kind="stable")
    held, least = np.empty(len(pairs)), 0.0
    for i, place in enumerate(order):
        # Holm: the smallest p times the number of pairs, the next times one less. None is smaller than the one before.
        least = max(least, min(1.0, (len(pairs) - i) * pairs[place].p))
        held[place] = least
    return [replace(pair, p_holm=float(p)) for pair, p in zip(pairs, held, strict=True)]


def _pair(first: TrialAnswers, second: TrialAnswers, users: Mapping[str, str | None]) -> Comparison:
    if first.post_ids != second.post_ids:
        raise ValueError(f"{first.configuration} and {second.configuration} have answers for different pictures")
    only_first, only_second = int(np.sum(first.right & ~second.right)), int(np.sum(second.right & ~first.right))
    p = paired_p(first.right, second.right, number_users(map(users.get, first.post_ids)))
    return Comparison(
        first.configuration,
        second.configuration,
        first.seed,
        first.split,
        len(first.right),
        only_first,
        only_second,
        p,
        p,
    )


def comparisons_csv(found: Sequence[Comparison]) -> bytes:
    """CSV with one row per comparison, with the difference of the accuracies."""
    header = [*(item.name for item in fields(Comparison)), "difference"]
    return csvfile.to_csv(header, ([*astuple(item), round(item.difference, 6)] for item in found))


def comparisons_from_csv(data: bytes) -> list[Comparison]:
    """Comparisons from the CSV of `comparisons_csv`."""
    kinds = {"first": str, "second": str, "split": str, "p": float, "p_holm": float}
    return [
        Comparison(**{item.name: kinds.get(item.name, int)(row[item.name]) for item in fields(Comparison)})
        for row in csvfile.from_csv(data)
    ]


def by_pair(found: Sequence[Comparison]) -> dict[tuple[str, str], list[Comparison]]:
    """The comparisons of each pair of configurations, one per seed."""
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in sorted(found, key=lambda item: (item.first, item.second, item.seed)):
        pairs.setdefault((item.first, item.second), []).append(item)
    return pairs


def pairs_to_show(pairs: Collection[tuple[str, str]], best: str | None) -> list[tuple[str, str]]:
    """The pairs to show to the user: all, if there are at most as many as in table 1; otherwise those with `best`."""
    return [pair for pair in pairs if len(pairs) <= _FEW_PAIRS or best is None or best in pair]


def pair_summaries(found: Sequence[Comparison], level: float = 0.05) -> dict[tuple[str, str], str]:
    """Text for each pair of configurations: in how many seeds one is better by more than noise."""
    summaries = {}
    for (first, second), items in by_pair(found).items():
        better = {
            name: sum(item.p_holm < level and sign * item.difference > 0 for item in items)
            for name, sign in ((first, -1), (second, 1))
        }
        seeds = f"{len(items)} seed{'s' if len(items) > 1 else ''}"
        clear = [f"{name} is better in {n} of {seeds}" for name, n in better.items() if n]
        summaries[first, second] = ", ".join(clear) or f"no difference beyond noise in {seeds}"
    return summaries
