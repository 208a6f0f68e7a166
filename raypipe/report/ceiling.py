"""The accuracy of a perfect judge in a generated world, on the same pictures that a model was tested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from raypipe.tables.root_tables import RootTables
from raypipe.world.truth import judge_accuracy

_CLASSES = ["top", "bottom"]


@dataclass(frozen=True)
class PerfectClassifier:
    """Knows the planted look of each picture exactly, but not the noise. `known` has `look` and `label` by post."""

    known: pd.DataFrame

    @classmethod
    def from_root(cls, root_tables: RootTables) -> PerfectClassifier | None:
        """The judge of a generated world. None if the posts are real, or labels are not the residual's extremes."""
        truth, labels = root_tables.truth, root_tables.labels
        if truth is None or labels is None or root_tables.scheme != "residual":
            return None
        judged = labels.loc[
            labels["label"].map(lambda label: isinstance(label, str) and label in _CLASSES), ["post_id", "label"]
        ]
        known = judged.merge(truth[["post_id", "look"]], on="post_id").set_index("post_id")
        return None if known.empty else cls(known)

    def accuracy(self, post_ids: Iterable[str]) -> float | None:
        """Share of the given pictures that the judge classifies correctly. None if none of them is labelled."""
        seen = self.known.reindex(pd.Index(sorted(set(post_ids)))).dropna()
        return None if seen.empty else judge_accuracy(seen["look"].to_numpy(), seen["label"].tolist())
