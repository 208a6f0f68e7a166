"""Pictures for the report: extreme scores, and the most confident predictions of the best model (figure 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from raypipe.pictures.decoding import picture_decoder
from raypipe.report.thumbnails import thumbnail
from raypipe.report.training_results import TrainingResults
from raypipe.tables.root_tables import RootTables


@dataclass(frozen=True)
class ExamplePicture:
    """One picture: a data URI (None if its bytes cannot be shown), a caption, and the true class if it is shown."""

    post_id: str
    source: str | None
    caption: str
    truth: str | None = None


@dataclass(frozen=True)
class ExampleRow:
    """A titled row of pictures."""

    title: str
    kind: str
    pictures: list[ExamplePicture]


@dataclass(frozen=True)
class ExamplePictures:
    """`scored`: the highest and lowest scores. `sure`: the most confident predictions of `model` on `split`."""

    scored: list[ExampleRow]
    sure: list[ExampleRow]
    model: str | None
    split: str | None


def build(root_tables: RootTables, training: TrainingResults | None, count: int) -> ExamplePictures | None:
    """At most `count` pictures per row. None if `count` is 0, or if the root has no labels or no pictures."""
    labels = root_tables.labels
    if labels is None or count == 0:
        return None
    scored = _extremes(labels, count)
    sure, model, split = _most_confident(training, count)
    wanted = {post_id for _, _, chosen in (*scored, *sure) for post_id, _, _ in chosen}
    found = root_tables.pictures(wanted)
    if not found:
        return None
    with picture_decoder(thumbnail) as decode:
        drawn = {post_id: decode(data) for post_id, data in found.items()}
    # For other pictures the page shows an empty frame with the id of the post.
    thumbnails = {post_id: source for post_id, source in drawn.items() if isinstance(source, str)}

    def rows(plan: list[_RowSpec]) -> list[ExampleRow]:
        return [
            ExampleRow(
                title,
                kind,
                [ExamplePicture(post_id, thumbnails.get(post_id), text, truth) for post_id, text, truth in chosen],
            )
            for title, kind, chosen in plan
            if chosen
        ]

    return ExamplePictures(rows(scored), rows(sure), model, split)


_CaptionedPosts = list[tuple[str, str, str | None]]
_RowSpec = tuple[str, str, _CaptionedPosts]


def _extremes(labels: pd.DataFrame, count: int) -> list[_RowSpec]:
    """Pictures with the highest and lowest scores. If there are no scores: the first pictures of each class."""
    scores = labels.dropna(subset=["score"])
    if not scores.empty:
        ordered = scores.sort_values(["score", "post_id"], ascending=[False, True])
        ends = (("Highest scores", "top", ordered.head(count)), ("Lowest scores", "bottom", ordered.tail(count)[::-1]))
        return [
            (title, kind, [(str(r.post_id), f"{r.score:+.2f}".replace("-", "−"), None) for r in rows.itertuples()])
            for title, kind, rows in ends
        ]
    named = labels[labels["label"].map(lambda value: isinstance(value, str))]
    if named.empty:
        first = labels[labels["label"].notna()].head(count)
        captions: _CaptionedPosts = [(str(row.post_id), _caption(row.label), None) for row in first.itertuples()]
        return [("Labelled pictures", "plain", captions)]
    return [
        (f"Labelled {name}", "plain", [(str(post_id), str(name), None) for post_id in group["post_id"].head(count)])
        for name, group in sorted(named.groupby("label"), key=lambda pair: str(pair[0]))
    ]


def _caption(label: Any) -> str:
    """Short text for a label of the schemes `continuous` (a number) and `hashtags` (several names)."""
    return f"{label:.2f}" if isinstance(label, float) else " ".join(f"#{name}" for name in label)


def _most_confident(training: TrainingResults | None, count: int) -> tuple[list[_RowSpec], str | None, str | None]:
    """The paper's figure 5: the most confident predictions of each class, with the best model's key and the split."""
    best = training.best if training else None
    if training is None or best is None or training.predictions is None or set(training.classes) != {"top", "bottom"}:
        return [], None, None
    if training.target.kind != "binary":
        return [], None, None
    own = training.predictions[training.predictions["key"] == best.key]
    own = own[own["seed"] == own["seed"].min()]
    split = next((name for name in ("val", "test") if own["split"].eq(name).any()), None)
    if split is None:
        return [], None, None
    ordered = own[own["split"] == split].sort_values(["probability", "post_id"], ascending=[False, True])
    called_top = ordered["probability"] > 0.5
    plans: list[_RowSpec] = []
    for name, rows in (("top", ordered[called_top]), ("bottom", ordered[~called_top][::-1])):
        chosen: _CaptionedPosts = [
            (str(r.post_id), _confidence_text(name, float(r.probability)), str(r.label))
            for r in rows.head(count).itertuples()
        ]
        plans.append((f"Classified “{name}”, most confident first", "truth", chosen))
    return plans, best.key, split


def _confidence_text(name: str, probability: float) -> str:
    """The model's confidence in the class that it chose, as text. `probability` is that of top."""
    return f"{100 * (probability if name == 'top' else 1 - probability):.0f} %"
