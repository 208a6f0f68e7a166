"""Which differences between configurations are more than noise: McNemar's test on the pictures that they share.

Two classifiers that were shown the same pictures are compared on those that exactly one of them gets right (McNemar
1947; Dietterich 1998, "Approximate statistical tests for comparing supervised classification learning algorithms",
section 3.1). Intervals of two accuracies that overlap say less: their errors are mostly on the same pictures. Pictures
of one user are taken together, as in the intervals (`raypipe.statistics.clustered.paired_p`).
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

# Those of A to D.
_FEW_PAIRS = 6


@dataclass(frozen=True)
class Answers:
    """What one trial said of the pictures of a split: whether it was `right`, bool [n], in the order of `post_ids`."""

    configuration: str
    seed: int
    split: str
    post_ids: tuple[str, ...]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Two configurations trained with one seed, on the same `n` pictures.

    `only_first` and `only_second` are those that one alone gets right; `p` is McNemar's exact two-sided p-value, by
    user if users have several pictures, and `p_holm` the same held to all comparisons of the sweep (Holm 1979).
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
        """Accuracy of the second less that of the first."""
        return (self.only_second - self.only_first) / self.n


def answers(frame: pd.DataFrame, target: Target, split: str) -> list[Answers]:
    """Each trial's answers to the pictures of `split`, from the rows of ``predictions/``.

    Empty for targets that have no right answer (tags, scores).
    """
    if target.kind not in ("binary", "classes"):
        return []
    frame = frame[frame["split"] == split].copy()
    if target.kind == "binary":
        found_labels = set(frame["label"])
        # Tables from before there were other heads do not name their classes: the second is the last in the alphabet.
        positive = target.names[1] if found_labels <= set(target.names) else max(found_labels)
        frame["right"] = (frame["probability"] > 0.5) == (frame["label"] == positive)
    else:
        # The likeliest class of each picture; the first in the alphabet where two are.
        frame = frame.sort_values(["probability", "class"], ascending=[False, True], kind="stable")
        frame = frame.drop_duplicates(["configuration", "seed", "post_id"])
        frame["right"] = frame["class"] == frame["label"]
    found = []
    for _, own in frame.groupby(["configuration", "seed"], sort=True):
        own = own.sort_values("post_id")
        trial = str(own["configuration"].iloc[0]), int(own["seed"].iloc[0])
        found.append(Answers(*trial, split, tuple(own["post_id"]), own["right"].to_numpy(bool)))
    return found


def compare(found: Sequence[Answers], users: Mapping[str, str | None]) -> list[Comparison]:
    """Each pair of configurations that were trained with the same seed. Raises ValueError where pictures differ.

    `users` are the users of the posts by post_id; a post whose user is missing or None is one of a user of its own.
    """
    by_seed: dict[int, dict[str, Answers]] = {}
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
        # The smallest p times as many as there are, the next times one less, and none below the one before.
        least = max(least, min(1.0, (len(pairs) - i) * pairs[place].p))
        held[place] = least
    return [replace(pair, p_holm=float(p)) for pair, p in zip(pairs, held, strict=True)]


def _pair(first: Answers, second: Answers, users: Mapping[str, str | None]) -> Comparison:
    if first.post_ids != second.post_ids:
        raise ValueError(f"{first.configuration} and {second.configuration} were shown different pictures")
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
    """A row a comparison, with the difference of the accuracies."""
    header = [*(item.name for item in fields(Comparison)), "difference"]
    return csvfile.to_csv(header, ([*astuple(item), round(item.difference, 6)] for item in found))


def from_csv(data: bytes) -> list[Comparison]:
    """Back from `comparisons_csv`."""
    kinds = {"first": str, "second": str, "split": str, "p": float, "p_holm": float}
    return [
        Comparison(**{item.name: kinds.get(item.name, int)(row[item.name]) for item in fields(Comparison)})
        for row in csvfile.from_csv(data)
    ]


def by_pair(found: Sequence[Comparison]) -> dict[tuple[str, str], list[Comparison]]:
    """The comparisons of each pair of configurations, a seed each."""
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in sorted(found, key=lambda item: (item.first, item.second, item.seed)):
        pairs.setdefault((item.first, item.second), []).append(item)
    return pairs


def told(pairs: Collection[tuple[str, str]], best: str | None) -> list[tuple[str, str]]:
    """The pairs of configurations to tell a person: all of a few, as table 1 has; of many those with the `best`."""
    return [pair for pair in pairs if len(pairs) <= _FEW_PAIRS or best is None or best in pair]


def verdicts(found: Sequence[Comparison], level: float = 0.05) -> dict[tuple[str, str], str]:
    """For each pair of configurations in words: in how many seeds one is better by more than noise."""
    said = {}
    for (first, second), items in by_pair(found).items():
        better = {
            name: sum(item.p_holm < level and sign * item.difference > 0 for item in items)
            for name, sign in ((first, -1), (second, 1))
        }
        seeds = f"{len(items)} seed{'s' if len(items) > 1 else ''}"
        clear = [f"{name} is better in {n} of {seeds}" for name, n in better.items() if n]
        said[first, second] = ", ".join(clear) or f"no difference beyond noise in {seeds}"
    return said
