"""Splits labelled posts into train, val and test.

Posts with the same picture (equal bytes, or near duplicates if `images/` marks them) stay in one split. With ``user``,
all posts of a user do too. A hash of the seed and the post_id decides, so neither order nor partitioning matters. Sizes
are exact: ⌊share·n⌋ for test, then for val. A split is smaller only if whole users or duplicates do not fit. Posts
are arrays here, 8 bytes per column: a hundred million of them fit into memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raypipe.errors import InputError
from raypipe.label.ranking.ranks import as_fraction
from raypipe.label.ranking.string_hashes import UInt64s, mix_bits

Ints = npt.NDArray[np.int64]
Sides = npt.NDArray[np.int8]

SIDES = ("train", "val", "test")
_TRAIN, _VAL, _TEST = range(3)


@dataclass(frozen=True)
class LabelledPosts:
    """The n labelled posts. Each array has shape (n,).

    `keys`: a seeded hash of each post_id. `classes`: the number of the class, from 0. `users`: a hash of each user_id,
    0 if there is none. `pictures`: the number of the group of duplicates, −1 if a picture has no duplicate. `times`:
    when it was posted, in any unit. `given`: the split by a column of posts/.
    """

    keys: UInt64s
    classes: Ints
    users: UInt64s | None = None
    pictures: Ints | None = None
    times: Ints | None = None
    given: Sides | None = None


def strata(labels: pa.Array) -> pa.Array:
    """The class by which a split is stratified: label, set of hashtags, or one for all numbers. Null means no label."""
    if pa.types.is_list(labels.type):
        return pa.array([None if tags is None else ",".join(sorted(tags)) for tags in labels.to_pylist()], pa.string())
    if pa.types.is_floating(labels.type):
        return pc.if_else(pc.is_valid(labels), "continuous", pa.scalar(None, pa.string()))
    return labels


def split(kind: str, posts: LabelledPosts, *, val: float, test: float) -> Sides:
    """0, 1 or 2 (see `SIDES`) for each post.

    `kind` is ``random``, ``user`` (no user in two splits), ``time`` (the latest posts are test, those before are val)
    or a posts column, whose splits are `posts.given`.
    """
    if posts.given is not None:
        return posts.given
    n = len(posts.keys)
    groups = linked_groups(n, posts.pictures, posts.users if kind == "user" else None)
    n_test, n_val = math.floor(as_fraction(test) * n), math.floor(as_fraction(val) * n)
    if kind == "time":
        assert posts.times is not None
        return _by_time(posts.times, posts.keys, groups, n_val, n_test)
    return _by_key(posts.keys, posts.classes, groups, n_val, n_test)


def linked_groups(n: int, pictures: Ints | None, users: UInt64s | None) -> Ints:
    """The unit of each of n rows, from 0. Rows that share a picture or a user, or a chain of these, are one unit."""
    groups = np.arange(n)
    if users is not None:
        named = users != 0
        # Each row without a user is a unit, numbered after the users.
        known, inverse = np.unique(users[named], return_inverse=True)
        groups[named] = inverse
        groups[~named] = len(known) + np.arange(n - int(named.sum()))
    if pictures is None or not (several := pictures >= 0).any():
        return groups
    # Only rows with duplicates join units. There are few of these for any n.
    ends = groups[several], int(groups.max()) + 1 + pictures[several]
    nodes = int(ends[1].max()) + 1
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1]
    return np.unique(component[groups], return_inverse=True)[1].astype(np.int64)


def check_sides(kind: str, posts: LabelledPosts, sides: Sides, *, val: float, test: float) -> None:
    """Raises InputError if train or another wanted split has no post, or a split by user finds no user_id."""
    n = len(sides)
    if kind == "user" and (posts.users is None or not posts.users.any()):
        raise InputError(f"label.split user: none of {n:,} labelled posts has a user_id; use random or time")
    counts = np.bincount(sides, minlength=len(SIDES))
    wanted = {_TRAIN: True} | ({} if posts.given is not None else {_VAL: val > 0, _TEST: test > 0})
    for side, is_wanted in wanted.items():
        if is_wanted and not counts[side]:
            users = len(np.unique(posts.users)) if kind == "user" and posts.users is not None else None
            of = f" of {users:,} users" if users is not None else ""
            raise InputError(
                f"label.split {kind}: {n:,} labelled posts{of} leave no post for {SIDES[side]}; label more posts, "
                "or use another split or share"
            )


def count_leaks(sides: Sides, users: UInt64s | None) -> int:
    """How many users have posts in more than one split."""
    if users is None:
        return 0
    named = users != 0
    order = np.argsort(users[named])
    who, where = users[named][order], sides[named][order]
    if not len(who):
        return 0
    first = np.flatnonzero(np.append(True, who[1:] != who[:-1]))
    return int(np.sum(np.minimum.reduceat(where, first) != np.maximum.reduceat(where, first)))


def sides_from_column(column: str, values: pa.ChunkedArray) -> Sides:
    """The splits that a column of posts/ contains. Raises InputError if it contains any other value."""
    text = pc.cast(values, pa.string())
    found = pc.index_in(text, value_set=pa.array(SIDES))
    if found.null_count:
        wrong = sorted(map(str, pc.unique(text.filter(pc.is_null(found))).to_pylist()))
        shown = ", ".join(map(repr, wrong[:5])) + (" …" if len(wrong) > 5 else "")
        raise InputError(
            f"label.split {column}: this column of posts/ has {shown} for labelled posts; only train, val, test are "
            "allowed"
        )
    return np.asarray(found).astype(np.int8)


def _by_time(times: Ints, keys: UInt64s, groups: Ints, n_val: int, n_test: int) -> Sides:
    # The latest post of a unit decides. An early duplicate in val does no harm, but a late one in train would.
    size = np.bincount(groups)
    latest = np.full(len(size), np.iinfo(np.int64).min)
    np.maximum.at(latest, groups, times)
    # If several units are equally late, the smallest key decides, so that the order of rows does not matter.
    key = np.full(len(size), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(key, groups, keys)
    order = np.lexsort((mix_bits(key), -latest))
    upto = np.cumsum(size[order])
    in_test = upto <= n_test
    upto -= size[order][in_test].sum()
    side = np.full(len(size), _TRAIN, dtype=np.int8)
    side[order[~in_test & (upto <= n_val)]] = _VAL
    side[order[in_test]] = _TEST
    return side[groups]


def _by_key(keys: UInt64s, classes: Ints, groups: Ints, n_val: int, n_test: int) -> Sides:
    # A unit is ordered by its smallest key, mixed again: the smallest of many keys is small, so large units would come
    # first. Two posts with one key keep the order of the rows: among 20 million posts, once in a hundred thousand runs.
    order = np.lexsort((keys, groups))
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    place = np.empty(len(first), np.int64)
    place[np.argsort(mix_bits(keys[order][first]), kind="stable")] = np.arange(len(first))
    order = order[np.argsort(np.repeat(place, np.diff(first, append=len(order))), kind="stable")]
    per_class = np.bincount(classes)
    side = np.full(len(keys), _TRAIN, dtype=np.int8)
    for name, total in ((_TEST, n_test), (_VAL, n_val)):
        free = order[side[order] == _TRAIN]
        side[free[_take(groups[free], classes[free], _quotas(per_class, total), total)]] = name
    return side


def _quotas(per_class: Ints, total: int) -> Ints:
    """Divides `total` among classes in proportion to their sizes, in whole numbers by largest remainder."""
    whole, rest = np.divmod(per_class * total, max(int(per_class.sum()), 1))
    extra = np.argsort(-rest, kind="stable")[: total - int(whole.sum())]
    whole[extra] += 1
    return np.asarray(whole, dtype=np.int64)


def _take(groups: Ints, classes: Ints, quotas: Ints, total: int) -> npt.NDArray[np.bool_]:
    """Mask of the rows that fill `total` places. Rows are in the order of drawing, with those of a unit together.

    First come the units whose posts are all within their classes' quotas, then single posts of the classes that are
    short, then any units that fit into what is left.
    """
    if not len(groups) or not total:
        return np.zeros(len(groups), dtype=bool)
    start = np.flatnonzero(np.diff(groups, prepend=-1))
    size = np.diff(start, append=len(groups))
    taken = np.repeat(np.logical_and.reduceat(_number_in_class(classes) < quotas[classes], start), size)
    short = quotas - np.bincount(classes[taken], minlength=len(quotas))
    alone = np.repeat(size == 1, size) & ~taken
    fitting = np.flatnonzero(alone)
    taken[fitting[_number_in_class(classes[fitting]) < short[classes[fitting]]]] = True
    left = total - int(taken.sum())
    while left:
        fits = np.flatnonzero(~taken[start] & (size <= left))
        if not len(fits):
            break
        # As many units as fit one after the other are taken. The next round looks for smaller ones.
        chosen = fits[np.cumsum(size[fits]) <= left]
        for unit in chosen:
            taken[start[unit] : start[unit] + size[unit]] = True
        left = total - int(taken.sum())
    return taken


def _number_in_class(classes: Ints) -> Ints:
    """How many rows of the same class come before each row."""
    order = np.argsort(classes, kind="stable")
    start = np.searchsorted(classes[order], np.arange(int(classes.max(initial=0)) + 1))
    number = np.empty(len(classes), np.int64)
    number[order] = np.arange(len(classes)) - start[classes[order]]
    return number
