"""The label schemes: what each one learns from all posts, and how it then labels each post.

`learn` reads all usable posts, in passes. It returns a labeller, which can label any block by itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.config.learning_options import LabelOptions
from raypipe.errors import ConfigError, InputError
from raypipe.label.formula.design import MAX_LEVELS
from raypipe.label.formula.formula import Floats
from raypipe.label.ranking.rank_search import RankThreshold, posts_at_ranks
from raypipe.label.ranking.ranks import as_fraction, class_bounds, extreme_ranks, rank
from raypipe.tables.schemas import LABEL_TYPES

# A tag ends at a space, another tag or punctuation. Unicode marks and emoji are part of it. No tag begins inside a
# word, or inside an HTML entity (&#39;).
_END = r"""\s#＃!"$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~…“”‘’«»‹›、。，！？：；（）「」·•"""
_TAGS = re.compile(rf"(?<![\w&])(?:[#＃][^{_END}]+)+")
_SIGN = re.compile("[#＃]")
_EXTREMES = ("bottom", "top")


@dataclass(frozen=True)
class ScoredPosts:
    """Usable posts of a block with y, fitted and score = y − fitted of shape (n,), each None if not computed."""

    posts: pa.Table
    y: Floats | None = None
    fitted: Floats | None = None
    score: Floats | None = None
    block_number: int = 0


class ScoredMapper(Protocol):
    """Applies a function to the usable posts of each block, in order. It reads `columns` of posts/."""

    def __call__(self, function: Callable[[ScoredPosts], Any], columns: tuple[str, ...], /) -> list[Any]: ...


Labeller = Callable[[ScoredPosts], pa.Array]


@dataclass(frozen=True)
class LabelScheme:
    """How a scheme learns to label `n` usable posts, if it needs the regression or only y, and the columns it reads."""

    learn: Callable[[ScoredMapper, int, LabelOptions], Labeller]
    regression: bool = False
    response: bool = False
    columns: tuple[str, ...] = ()
    label_type: pa.DataType = LABEL_TYPES["class"]


@dataclass(frozen=True)
class RankLabeller:
    """Classes by rank of the score or of y: `names[j]` up to and including `thresholds[j]`, the last name beyond."""

    thresholds: tuple[RankThreshold, ...]
    names: tuple[str | None, ...]
    of_score: bool

    def __call__(self, scored: ScoredPosts) -> pa.Array:
        values = scored.score if self.of_score else scored.y
        assert values is not None
        place = np.full(len(values), len(self.thresholds))
        for j in reversed(range(len(self.thresholds))):
            place[self.thresholds[j].at_or_below(values, scored.posts["post_id"])] = j
        return pa.array(self.names, pa.string()).take(pa.array(place))

    def ties(self, scored: ScoredPosts) -> Counter[tuple[int, bool]]:
        """How many posts have exactly the value of a threshold: (its number, whether they are beyond it) → posts."""
        values = scored.score if self.of_score else scored.y
        assert values is not None
        found = Counter[tuple[int, bool]]()
        for number, cut in enumerate(self.thresholds):
            equal = values == cut.value
            at_or_below = int(np.sum(equal & cut.at_or_below(values, scored.posts["post_id"]))) if equal.any() else 0
            found[number, False], found[number, True] = at_or_below, int(equal.sum()) - at_or_below
        return found


def _find_thresholds(map_scored: ScoredMapper, ranks: list[int], n: int, of_score: bool) -> tuple[RankThreshold, ...]:
    def map_values(function: Callable[[Floats, pa.ChunkedArray], Any]) -> list[Any]:
        def block(scored: ScoredPosts) -> Any:
            values = scored.score if of_score else scored.y
            return function(values, scored.posts["post_id"])  # type: ignore[arg-type]

        return map_scored(block, ("post_id",))

    return tuple(posts_at_ranks(map_values, ranks, n))


def residual(map_scored: ScoredMapper, n: int, options: LabelOptions) -> Labeller:
    """``top`` and ``bottom`` for the share `quantile` at each end of the score, null between (paper, section 3.1)."""
    low, high = extreme_ranks(n, options.quantile)
    if low == 0 or high == n:
        q = options.quantile
        raise InputError(
            f"label.quantile {q}: {q} of {n:,} posts is less than one post, so a class is empty; use a larger quantile"
        )
    if low == high:
        return RankLabeller(_find_thresholds(map_scored, [low], n, True), _EXTREMES, True)
    return RankLabeller(_find_thresholds(map_scored, [low, high], n, True), ("bottom", None, "top"), True)


def quantiles(map_scored: ScoredMapper, n: int, options: LabelOptions) -> Labeller:
    """`classes` classes of equal size by y, ``q1`` (lowest) to ``qK``."""
    k = options.classes
    if n < k:
        raise InputError(f"label.classes {k}: only {n:,} posts take part, so a class is empty; use fewer")
    names = tuple(f"q{j:0{len(str(k))}d}" for j in range(1, k + 1))
    first, *thresholds, last = _find_thresholds(map_scored, [1, *class_bounds(n, k)[:-1], n], n, False)
    if first.value == last.value:
        raise InputError(f"label.scheme quantiles: y is {first.value:g} in all {n:,} posts; there is nothing to rank")
    return RankLabeller(tuple(thresholds), names, False)


@dataclass(frozen=True)
class _RowLabeller:
    """Labels that were computed before, for each usable row: codes into `names` by block, −1 for no label."""

    codes: tuple[npt.NDArray[np.int8], ...]
    names: tuple[str, ...]

    def __call__(self, scored: ScoredPosts) -> pa.Array:
        codes = self.codes[scored.block_number]
        return pa.array(self.names).take(pa.array(codes, mask=codes < 0))


def karpathy(map_scored: ScoredMapper, n: int, options: LabelOptions) -> Labeller:
    """Sorts posts by followers into groups of `group`; ``top`` and ``bottom`` half of each by likes (paper, section 2).

    Posts among the share `outliers` with the fewest or most followers, or likes, have no label. The last group may be
    smaller. A post alone in it has no label. All posts are sorted in memory, at about 100 bytes each.
    """
    parts = map_scored(lambda scored: scored.posts, LABEL_SCHEMES["karpathy"].columns)
    posts = pa.concat_tables(parts)
    codes = np.full(n, -1, np.int8)
    inside = np.flatnonzero(_within(posts, n, options.outliers))
    if len(inside) < 2:
        raise InputError(f"label.scheme karpathy: {len(inside)} usable posts; two classes need two posts or more")
    if pc.count_distinct(posts["likes"]).as_py() == 1:
        raise InputError(
            f"label.scheme karpathy: likes are {posts['likes'][0]} in all {n:,} posts; there is nothing to rank"
        )
    codes[inside] = label_group_halves(posts.take(pa.array(inside)), options.group)
    bounds = np.cumsum([len(part) for part in parts])[:-1]
    return _RowLabeller(tuple(np.split(codes, bounds)), _EXTREMES)


def _within(posts: pa.Table, n: int, share: float) -> npt.NDArray[np.bool_]:
    inside = np.ones(n, dtype=bool)
    cut = int(as_fraction(share) * n)
    for name in ("followers", "likes") if cut else ():
        ranks = rank(posts[name].to_numpy(), posts["post_id"])
        inside &= (ranks > cut) & (ranks <= n - cut)
    return inside


def label_group_halves(posts: pa.Table, size: int) -> npt.NDArray[np.int8]:
    """0 or 1 for the lower or upper half by likes of each group of `size` posts by followers; −1 for a post alone.

    An odd group has one more in its upper half. Ties are broken by post_id.
    """
    n = len(posts)
    group = (rank(posts["followers"].to_numpy(), posts["post_id"]) - 1) // size
    order = pc.sort_indices(
        pa.table({"group": group, "likes": posts["likes"], "post_id": posts["post_id"]}),
        [("group", "ascending"), ("likes", "ascending"), ("post_id", "ascending")],
    ).to_numpy()
    within = np.empty(n, dtype=np.int64)
    within[order] = np.arange(n) % size + 1
    members = np.where(group == (n - 1) // size, n - (n - 1) // size * size, size)
    return np.where(members > 1, within > members // 2, -1).astype(np.int8)


def continuous(map_scored: ScoredMapper, n: int, options: LabelOptions) -> Labeller:  # noqa: ARG001
    """The score itself."""
    return lambda scored: pa.array(scored.score)


def column(map_scored: ScoredMapper, n: int, options: LabelOptions) -> Labeller:  # noqa: ARG001
    """The values of the column `column` of posts/ as strings. Null and NaN become null."""

    def label(scored: ScoredPosts) -> pa.Array:
        values = scored.posts[options.column]
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        return _combined(pc.cast(values, pa.string()))

    return label


def hashtags(map_scored: ScoredMapper, n: int, options: LabelOptions) -> Labeller:  # noqa: ARG001
    """The chosen `hashtags` that the caption contains, ignoring case; null if there is no caption."""
    chosen = chosen_tags(options.hashtags)

    def carried(caption: str | None) -> list[str] | None:
        if caption is None:
            return None
        found = {_folded(tag) for run in _TAGS.findall(caption) for tag in _SIGN.split(run)}
        return [tag for key, tag in chosen.items() if key in found]

    def label(scored: ScoredPosts) -> pa.Array:
        return pa.array(map(carried, scored.posts["caption"].to_pylist()), LABEL_TYPES["hashtags"])

    return label


LABEL_SCHEMES = {
    "residual": LabelScheme(residual, regression=True, columns=("post_id",)),
    "continuous": LabelScheme(continuous, regression=True, label_type=LABEL_TYPES["continuous"]),
    "quantiles": LabelScheme(quantiles, response=True, columns=("post_id",)),
    "karpathy": LabelScheme(karpathy, response=True, columns=("post_id", "likes", "followers")),
    "column": LabelScheme(column),
    "hashtags": LabelScheme(hashtags, columns=("caption",), label_type=LABEL_TYPES["hashtags"]),
}


def chosen_tags(hashtags: Sequence[str]) -> dict[str, str]:
    """`label.hashtags` in their order: the form that is compared → the form that labels show, without #."""
    return {_folded(tag.lstrip("#＃")): tag.lstrip("#＃") for tag in hashtags}


def _folded(tag: str) -> str:
    # Unicode can write the same letter as one character or as two.
    return unicodedata.normalize("NFC", tag).casefold()


def check_options(options: LabelOptions) -> None:
    """Raises ConfigError if the scheme lacks an option, a hashtag is invalid, or no share is left for train."""
    if options.scheme == "column" and not options.column:
        raise ConfigError("label.column: is missing; label.scheme column needs the posts column with the label")
    if options.scheme == "hashtags" and not options.hashtags:
        raise ConfigError("label.hashtags: is missing; label.scheme hashtags needs the tags to learn, as a,b")
    for tag in options.hashtags if options.scheme == "hashtags" else ():
        if not _TAGS.fullmatch(f"#{tag.lstrip('#＃')}"):
            raise ConfigError(f"label.hashtags {tag!r}: is not a hashtag; write only letters, as in sun,rain")
    if options.val + options.test >= 1:
        raise ConfigError(f"label.val {options.val} and label.test {options.test}: leave no posts to train on")


def check_classes(options: LabelOptions, classes: Counter[str], n: int) -> None:
    """Raises InputError if labels of `n` usable posts leave nothing to learn; `classes` is counted from `strata`."""
    if options.scheme == "column" and len(classes) > MAX_LEVELS:
        raise InputError(
            f"label.column {options.column}: has {len(classes):,} classes (at most {MAX_LEVELS:,}); use one with fewer"
        )
    if options.scheme == "column" and len(classes) < 2:
        what = f"the label {next(iter(classes))!r}" if classes else "no label"
        raise InputError(
            f"label.column {options.column}: all {n:,} eligible posts have {what}; training needs two classes or more"
        )
    if options.scheme != "hashtags":
        return
    known = classes.total()
    for tag in chosen_tags(options.hashtags).values():
        count = sum(number for tags, number in classes.items() if tag in tags.split(","))
        if count in (0, known):
            raise InputError(
                f"label.hashtags {tag}: {'none' if count == 0 else 'each'} of {known:,} eligible posts with a caption "
                "has it, so there is nothing to learn; choose another tag"
            )


def _combined(values: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
