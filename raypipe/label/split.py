"""Who trains and who is held out: train, val and test of labelled posts.

Posts with the same picture (equal bytes, or near duplicates where `images/` marks them) stay on one side, and by user
all posts of a user do. What decides is a hash of the seed and the post's name, so that neither order nor partitioning
matters. Sizes are exact: ⌊share·n⌋ for test, then for val; only where whole users or duplicates do not fit may a side
be short. Posts are arrays here, 8 bytes a column: a hundred million of them fit into memory.
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
from raypipe.label.ranking.names import Words, mixed
from raypipe.label.ranking.ranks import exact

Ints = npt.NDArray[np.int64]
Sides = npt.NDArray[np.int8]

SIDES = ("train", "val", "test")
_TRAIN, _VAL, _TEST = range(3)


@dataclass(frozen=True)
class Labelled:
    """The n labelled posts, each array of shape (n,).

    `keys`: a seeded hash of each post_id. `classes`: a number a class, from 0. `users`: a hash of each user_id, 0 where
    there is none. `pictures`: a number for each group of duplicates, −1 where a picture is like no other. `times`:
    when it was posted, any unit; `given`: the side that a column of posts/ says.
    """

    keys: Words
    classes: Ints
    users: Words | None = None
    pictures: Ints | None = None
    times: Ints | None = None
    given: Sides | None = None


def strata(labels: pa.Array) -> pa.Array:
    """The class by which a split is stratified: the label, the set of hashtags, one for all numbers; null: no label."""
    if pa.types.is_list(labels.type):
        return pa.array([None if tags is None else ",".join(sorted(tags)) for tags in labels.to_pylist()], pa.string())
    if pa.types.is_floating(labels.type):
        return pc.if_else(pc.is_valid(labels), "continuous", pa.scalar(None, pa.string()))
    return labels


def split(kind: str, posts: Labelled, *, val: float, test: float) -> Sides:
    """0, 1 or 2 (see `SIDES`) for each post.

    `kind` is ``random``, ``user`` (no user on two sides), ``time`` (the latest are test, those before val) or a posts
    column, whose sides are `posts.given`.
    """
    if posts.given is not None:
        return posts.given
    n = len(posts.keys)
    units = group_units(n, posts.pictures, posts.users if kind == "user" else None)
    n_test, n_val = math.floor(exact(test) * n), math.floor(exact(val) * n)
    if kind == "time":
        assert posts.times is not None
        return _by_time(posts.times, posts.keys, units, n_val, n_test)
    return _by_key(posts.keys, posts.classes, units, n_val, n_test)


def group_units(n: int, pictures: Ints | None, users: Words | None) -> Ints:
    """The unit of each of n rows, from 0: rows that share a picture or a user, or a chain of these, are one unit."""
    units = np.arange(n)
    if users is not None:
        named = users != 0
        # Rows without a user are each a unit, numbered behind the users.
        known, inverse = np.unique(users[named], return_inverse=True)
        units[named] = inverse
        units[~named] = len(known) + np.arange(n - int(named.sum()))
    if pictures is None or not (several := pictures >= 0).any():
        return units
    # Only rows with duplicates join units: few, whatever n is.
    ends = units[several], int(units.max()) + 1 + pictures[several]
    nodes = int(ends[1].max()) + 1
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1]
    return np.unique(component[units], return_inverse=True)[1].astype(np.int64)


def check_sides(kind: str, posts: Labelled, sides: Sides, *, val: float, test: float) -> None:
    """InputError where nobody trains, a side that was asked for got no post, or no user is known by whom to split."""
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


def count_leaks(sides: Sides, users: Words | None) -> int:
    """How many users have posts on two sides or more."""
    if users is None:
        return 0
    named = users != 0
    order = np.argsort(users[named])
    who, where = users[named][order], sides[named][order]
    if not len(who):
        return 0
    first = np.flatnonzero(np.append(True, who[1:] != who[:-1]))
    return int(np.sum(np.minimum.reduceat(where, first) != np.maximum.reduceat(where, first)))


def sides_of(column: str, values: pa.ChunkedArray) -> Sides:
    """The sides that a column of posts/ names; InputError where it holds anything else."""
    text = pc.cast(values, pa.string())
    found = pc.index_in(text, value_set=pa.array(SIDES))
    if found.null_count:
        wrong = sorted(map(str, pc.unique(text.filter(pc.is_null(found))).to_pylist()))
        shown = ", ".join(map(repr, wrong[:5])) + (" …" if len(wrong) > 5 else "")
        raise InputError(
            f"label.split {column}: that column of posts/ holds {shown} for labelled posts; only train, val, test are "
            "allowed"
        )
    return np.asarray(found).astype(np.int8)


def _by_time(times: Ints, keys: Words, units: Ints, n_val: int, n_test: int) -> Sides:
    # A unit goes where its latest post belongs: an early duplicate in val does no harm, a late one in train would.
    size = np.bincount(units)
    latest = np.full(len(size), np.iinfo(np.int64).min)
    np.maximum.at(latest, units, times)
    # Where several are equally late, the smallest key decides, not the order of the rows.
    key = np.full(len(size), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(key, units, keys)
    order = np.lexsort((mixed(key), -latest))
    upto = np.cumsum(size[order])
    in_test = upto <= n_test
    upto -= size[order][in_test].sum()
    side = np.full(len(size), _TRAIN, dtype=np.int8)
    side[order[~in_test & (upto <= n_val)]] = _VAL
    side[order[in_test]] = _TEST
    return side[units]


def _by_key(keys: Words, classes: Ints, units: Ints, n_val: int, n_test: int) -> Sides:
    # A unit is named by its smallest key, mixed anew: of many keys the smallest is small. Two posts with one key would
    # stand in the order of the rows: among 20 million, once in a hundred thousand runs.
    order = np.lexsort((keys, units))
    first = np.flatnonzero(np.diff(units[order], prepend=-1))
    place = np.empty(len(first), np.int64)
    place[np.argsort(mixed(keys[order][first]), kind="stable")] = np.arange(len(first))
    order = order[np.argsort(np.repeat(place, np.diff(first, append=len(order))), kind="stable")]
    per_class = np.bincount(classes)
    side = np.full(len(keys), _TRAIN, dtype=np.int8)
    for name, total in ((_TEST, n_test), (_VAL, n_val)):
        free = order[side[order] == _TRAIN]
        side[free[_take(units[free], classes[free], _quotas(per_class, total), total)]] = name
    return side


def _quotas(per_class: Ints, total: int) -> Ints:
    """`total` shared among classes in proportion, whole numbers by largest remainder."""
    whole, rest = np.divmod(per_class * total, max(int(per_class.sum()), 1))
    extra = np.argsort(-rest, kind="stable")[: total - int(whole.sum())]
    whole[extra] += 1
    return np.asarray(whole, dtype=np.int64)


def _take(units: Ints, classes: Ints, quotas: Ints, total: int) -> npt.NDArray[np.bool_]:
    """Which of the rows, whose units lie together in the order of their drawing, fill `total` places.

    First the units whose posts are all within their classes' quotas, then single posts of the classes that are short,
    then whatever fits into what is left.
    """
    if not len(units) or not total:
        return np.zeros(len(units), dtype=bool)
    start = np.flatnonzero(np.diff(units, prepend=-1))
    size = np.diff(start, append=len(units))
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
        # As many as fit one after the other; the next round looks for smaller ones.
        chosen = fits[np.cumsum(size[fits]) <= left]
        for unit in chosen:
            taken[start[unit] : start[unit] + size[unit]] = True
        left = total - int(taken.sum())
    return taken


def _number_in_class(classes: Ints) -> Ints:
    """How many rows of its class stand before each row."""
    order = np.argsort(classes, kind="stable")
    start = np.searchsorted(classes[order], np.arange(int(classes.max(initial=0)) + 1))
    number = np.empty(len(classes), np.int64)
    number[order] = np.arange(len(classes)) - start[classes[order]]
    return number
