"""The training data of an exported model, as texts of the model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.export.model.markdown import code
from raypipe.export.model.training_origin import TrainingOrigin
from raypipe.label.split import SIDES
from raypipe.report import funnel
from raypipe.tables.root_tables import RootTables

_MOST_CLASSES = 12
_REASONS = {
    "unlabelled": "eligible, but without a label",
    "no_picture": "with a label, but no picture is stored",
    "undecodable": "with a label, but the picture cannot be decoded",
}


@dataclass(frozen=True)
class TrainingData:
    """`steps`: the funnel. `classes`: per label, its posts by split. `dropped`: posts left out, by reason."""

    generated: bool
    scheme: str
    label_method: str
    eligible: str
    eligible_text: str
    split: str
    date_range: str
    steps: list[funnel.FunnelStep]
    splits: list[str]
    classes: list[tuple[str, list[int]]]
    dropped: list[tuple[str, int]]
    users_on_two_sides: int
    warnings: list[str]


def build(root_tables: RootTables, origin: TrainingOrigin) -> TrainingData:
    """Describe the labels in the root. They must be those that the model was trained on."""
    labels = root_tables.records["labels"]
    options, facts = labels.config["label"], labels.facts
    splits, classes = _counts(root_tables)
    return TrainingData(
        generated="truth" in root_tables,
        scheme=options["scheme"],
        label_method=_label_method(options, root_tables.model),
        eligible=options["eligible"],
        eligible_text=_ELIGIBLE[options["eligible"]],
        split=_split(options["split"]),
        date_range=_date_range(root_tables),
        steps=funnel.build(root_tables).steps,
        splits=splits,
        classes=classes,
        dropped=[(_REASONS.get(name, name), n) for name, n in origin.record.dropped.items() if n],
        users_on_two_sides=int(facts.get("users_on_two_sides") or 0),
        warnings=[f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in facts.get("warnings", [])],
    )


def _counts(root_tables: RootTables) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """The splits, and the posts of each class by split. The row of all classes is last, or alone for many classes."""
    labels = root_tables.labels
    assert labels is not None
    known = labels[labels["label"].notna() & labels["split"].notna()]
    splits = [side for side in SIDES if known["split"].eq(side).any()]
    total = ("all", [int(known["split"].eq(side).sum()) for side in splits])
    # Scores and lists of hashtags are not classes.
    names = sorted(known["label"].unique()) if known["label"].map(lambda label: isinstance(label, str)).all() else []
    if len(names) > _MOST_CLASSES:
        return splits, [total]
    rows = [
        (str(name), [int((known["label"].eq(name) & known["split"].eq(side)).sum()) for side in splits])
        for name in names
    ]
    return splits, [*rows, total]


_ELIGIBLE = {
    "one_face": "pictures in which dlib finds exactly one face",
    "with_face": "pictures in which dlib finds a face",
    "image": "all pictures, with faces or without",
    "post": "all posts",
}


def _label_method(options: dict[str, Any], model: dict[str, Any] | None) -> str:
    """How the posts got their labels."""
    scheme = options["scheme"]
    if scheme in ("residual", "continuous"):
        found = model or {}
        explained = f", which explains {100 * found['rsquared']:.1f} % of the variance" if "rsquared" in found else ""
        text = f"Likes are predicted from reach by the regression {code(options['formula'])}{explained}. "
        text += "The residual is the score"
        if scheme == "continuous":
            return f"{text}, and the score is the label."
        share = f"{100 * options['quantile']:g} %"
        return f"{text}. The lowest {share} are `bottom`, the highest {share} `top`, and posts between have no label."
    return {
        "karpathy": f"Posts are sorted by followers into groups of {options['group']}. In each group, the half with "
        "more likes is `top`, the other half is `bottom`.",
        "quantiles": "Posts are divided into classes of equal size by likes, regardless of the author's reach. "
        "So the classes depend on reach as much as on pictures.",
        "column": f"The label is the posts' column {code(str(options['column']))}, unchanged.",
        "hashtags": "The labels are those of the hashtags above that the author wrote in the caption.",
    }.get(scheme, f"The labels are those of the scheme {code(scheme)}.")


def _split(split: str) -> str:
    return {
        "random": "at random, by post",
        "user": "by user: all posts of a user are in one split",
        "time": "by time: the latest posts are not used to train",
    }.get(split, f"by the posts' column {code(split)}")


def _date_range(root_tables: RootTables) -> str:
    """The first and the last day of the posts, or an empty text if they are not known."""
    if "posts" not in root_tables or "created_at" not in tables.open_dataset(root_tables.storage, "posts").schema.names:
        return ""
    created = tables.read_table(root_tables.storage, "posts", ["created_at"])["created_at"]
    found: pa.StructScalar = pc.min_max(created)
    first, last = found["min"].as_py(), found["max"].as_py()
    return "" if first is None else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
