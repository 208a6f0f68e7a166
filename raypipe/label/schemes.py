"""What the label is: one small function a scheme, from the eligible posts to their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config import LabelOptions
from raypipe.errors import ConfigError, InputError
from raypipe.label.formula import Floats
from raypipe.label.ranks import class_bounds, extremes, rank
from raypipe.schemas import LABEL_TYPES

_TAG = re.compile(r"[#＃](\w+)")
_EXTREMES = ["bottom", "top"]


@dataclass(frozen=True)
class Scored:
    """Eligible posts with y, fitted and score = y − fitted of shape (n,), each None where the scheme has none."""

    posts: pa.Table
    y: Floats | None = None
    fitted: Floats | None = None
    score: Floats | None = None


@dataclass(frozen=True)
class Scheme:
    """A scheme's labels from scored posts; whether it needs the regression or y alone; posts columns it reads."""

    label: Callable[[Scored, LabelOptions], pa.Array]
    regression: bool = False
    response: bool = False
    columns: tuple[str, ...] = ()
    label_type: pa.DataType = LABEL_TYPES["class"]


def residual(scored: Scored, options: LabelOptions) -> pa.Array:
    """``top`` and ``bottom`` share `quantile` of the score, null between (paper, section 3.1)."""
    assert scored.score is not None
    n, q = len(scored.score), options.quantile
    low, high = extremes(n, q)
    if low == 0 or high == n:
        raise InputError(
            f"label.quantile {q}: leaves a class empty, as {q} of {n:,} posts is less than one; raise the quantile"
        )
    ranks = rank(scored.score, scored.posts["post_id"])
    return _classes([ranks <= low, ranks > high], _EXTREMES)


def quantiles(scored: Scored, options: LabelOptions) -> pa.Array:
    """`classes` classes of equal size by y, ``q1`` (lowest) to ``qK``."""
    assert scored.y is not None
    n, k = len(scored.y), options.classes
    if n < k:
        raise InputError(f"label.classes {k}: leaves a class empty, as only {n:,} posts take part")
    place = np.searchsorted(class_bounds(n, k), rank(scored.y, scored.posts["post_id"]))
    return pa.array([f"q{j:0{len(str(k))}d}" for j in range(1, k + 1)]).take(pa.array(place))


def karpathy(scored: Scored, options: LabelOptions) -> pa.Array:
    """Posts sorted by followers in groups of `group`; ``top`` and ``bottom`` half of each by likes (paper, section 2).

    The last group may be smaller; a post alone in it has no label.
    """
    posts, n, size = scored.posts, len(scored.posts), options.group
    if n < 2:
        raise InputError(f"label.scheme karpathy: {n} usable posts; two classes need two posts or more")
    by_reach = rank(posts["followers"].to_numpy(), posts["post_id"]) - 1
    group = by_reach // size
    order = pc.sort_indices(
        pa.table({"group": group, "likes": posts["likes"], "post_id": posts["post_id"]}),
        [("group", "ascending"), ("likes", "ascending"), ("post_id", "ascending")],
    ).to_numpy()
    within = np.empty(n, dtype=np.int64)
    within[order] = np.arange(n) % size + 1
    members = np.where(group == (n - 1) // size, n - (n - 1) // size * size, size)
    return _classes([(within <= members // 2) & (members > 1), (within > members // 2) & (members > 1)], _EXTREMES)


def continuous(scored: Scored, options: LabelOptions) -> pa.Array:  # noqa: ARG001
    """The score itself."""
    return pa.array(scored.score)


def column(scored: Scored, options: LabelOptions) -> pa.Array:
    """The values of the posts column `column` as strings; null stays null."""
    labels = _combined(pc.cast(scored.posts[options.column], pa.string()))
    classes = pc.unique(labels.drop_null())
    if len(classes) < 2:
        what = f"the label {classes[0].as_py()!r}" if len(classes) else "no label"
        raise InputError(
            f"label.column {options.column}: all {len(labels):,} eligible posts have {what}; "
            "training needs two classes or more"
        )
    return labels


def hashtags(scored: Scored, options: LabelOptions) -> pa.Array:
    """Which of the chosen `hashtags` the caption carries, letters' case aside; null where there is no caption."""
    chosen = chosen_tags(options.hashtags)

    def carried(caption: str | None) -> list[str] | None:
        if caption is None:
            return None
        found = {tag.casefold() for tag in _TAG.findall(caption)}
        return [tag for key, tag in chosen.items() if key in found]

    labels = [carried(caption) for caption in scored.posts["caption"].to_pylist()]
    counts = {tag: sum(tag in label for label in labels if label) for tag in chosen.values()}
    known = sum(label is not None for label in labels)
    for tag, count in counts.items():
        if count in (0, known):
            raise InputError(
                f"label.hashtags {tag}: {'none' if count == 0 else 'each'} of {known:,} eligible posts with a caption "
                "carries it, so there is nothing to learn; choose another tag"
            )
    return pa.array(labels, LABEL_TYPES["hashtags"])


SCHEMES = {
    "residual": Scheme(residual, regression=True),
    "continuous": Scheme(continuous, regression=True, label_type=LABEL_TYPES["continuous"]),
    "quantiles": Scheme(quantiles, response=True),
    "karpathy": Scheme(karpathy, response=True, columns=("likes", "followers")),
    "column": Scheme(column),
    "hashtags": Scheme(hashtags, columns=("caption",), label_type=LABEL_TYPES["hashtags"]),
}


def chosen_tags(hashtags: Sequence[str]) -> dict[str, str]:
    """`label.hashtags` as labels spell them, without #, by what they are compared by; in the order given."""
    return {tag.lstrip("#").casefold(): tag.lstrip("#") for tag in hashtags}


def check_options(options: LabelOptions) -> None:
    """ConfigError where the scheme misses an option, or the held-out shares leave nothing to train on."""
    if options.scheme == "column" and not options.column:
        raise ConfigError("label.column: is needed by label.scheme column: the posts column that holds the label")
    if options.scheme == "hashtags" and not options.hashtags:
        raise ConfigError("label.hashtags: is needed by label.scheme hashtags: the tags to tell apart, as a,b")
    if options.val + options.test >= 1:
        raise ConfigError(f"label.val {options.val} and label.test {options.test}: leave nothing to train on")


def thresholds(labels: pa.Array, values: Floats | None) -> dict[str, list[float]]:
    """Lowest and highest score (y where there is no score) of each class; empty where labels are not classes of it."""
    if values is None or labels.type != LABEL_TYPES["class"]:
        return {}
    grouped = pa.table({"label": labels, "value": values}).filter(pc.is_valid(labels))
    bounds = grouped.group_by("label").aggregate([("value", "min"), ("value", "max")]).sort_by("label")
    return {row["label"]: [row["value_min"], row["value_max"]] for row in bounds.to_pylist()}


def _classes(masks: list[np.ndarray], names: list[str]) -> pa.Array:
    code = np.full(len(masks[0]), -1)
    for i, mask in enumerate(masks):
        code[mask] = i
    return pa.array(names).take(pa.array(code, mask=code < 0))


def _combined(values: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
