"""Who trains and who is held out: train, val and test of labelled posts.

Posts with byte-for-byte the same picture stay on one side, and by user all posts of a user do. What decides is a hash
of the seed and the post's name, so that neither order nor partitioning matters. Sizes are exact: ⌊share·n⌋ for test,
then for val; only where whole users or duplicates do not fit may a side be short.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raypipe.errors import InputError
from raypipe.label.ranks import exact, rank

Ints = npt.NDArray[np.int64]
SIDES = ("train", "val", "test")


def strata(labels: pa.Array) -> pa.Array:
    """The class by which a split is stratified: the label, the set of hashtags, one for all numbers; null: no label."""
    if pa.types.is_list(labels.type):
        return pa.array([None if tags is None else ",".join(sorted(tags)) for tags in labels.to_pylist()], pa.string())
    if pa.types.is_floating(labels.type):
        return pc.if_else(pc.is_valid(labels), "continuous", pa.scalar(None, pa.string()))
    return labels


def split(
    kind: str, posts: pa.Table, sha256: pa.ChunkedArray, classes: pa.Array, *, val: float, test: float, seed: int
) -> pa.Array:
    """``train``, ``val`` or ``test`` for each post, null where `classes` (see `strata`) is null.

    `kind` is ``random``, ``user`` (no user on two sides), ``time`` (the latest are test, those before val) or a posts
    column that says it. Raises InputError where that column holds anything else, or a time is missing.
    """
    labelled = pc.is_valid(classes)
    chosen = np.flatnonzero(labelled.to_numpy(zero_copy_only=False))
    rows = posts.filter(labelled)
    if kind not in ("random", "user", "time"):
        sides: npt.NDArray[np.object_] = np.array(_by_column(kind, rows), dtype=object)
    else:
        # In order of post_id the result cannot depend on the order of the rows.
        order = np.argsort(rank(np.zeros(len(rows)), rows["post_id"]))
        rows, chosen = rows.take(pa.array(order)), chosen[order]
        keys = [sha256.take(pa.array(chosen))] + ([rows["user_id"]] if kind == "user" else [])
        units = group_units(len(rows), keys)
        n_test, n_val = math.floor(exact(test) * len(rows)), math.floor(exact(val) * len(rows))
        if kind == "time":
            sides = _by_time(rows, units, n_val, n_test)
        else:
            codes = pc.rank(classes.take(pa.array(chosen)), tiebreaker="dense").to_numpy().astype(np.int64) - 1
            sides = _by_hash(rows["post_id"], units, codes, n_val, n_test, seed)
    split_of = np.full(len(posts), None, dtype=object)
    split_of[chosen] = sides
    return pa.array(split_of, pa.string())


def group_units(n: int, keys: Sequence[pa.ChunkedArray]) -> Ints:
    """The unit of each of n rows, numbered by first appearance: rows that share any non-null key value are one unit."""
    edges_from, edges_to, nodes = [], [], n
    for key in keys:
        coded = key.dictionary_encode().combine_chunks() if key.num_chunks else None
        if coded is None:
            continue
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0)
        known = pc.is_valid(coded).to_numpy(zero_copy_only=False)
        edges_from.append(np.flatnonzero(known))
        edges_to.append(nodes + coded.indices.drop_null().to_numpy().astype(np.int64))
        nodes += len(coded.dictionary)
    start = np.concatenate([np.empty(0, np.int64), *edges_from])
    end = np.concatenate([np.empty(0, np.int64), *edges_to])
    graph = coo_array((np.ones(len(start), dtype=np.int8), (start, end)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1][:n]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _by_column(name: str, rows: pa.Table) -> list[str]:
    sides: list[str] = pc.cast(rows[name], pa.string()).to_pylist()
    if wrong := sorted({str(side) for side in sides} - set(SIDES)):
        shown = ", ".join(repr(value) for value in wrong[:5]) + (" …" if len(wrong) > 5 else "")
        raise InputError(
            f"label.split {name}: that column of posts/ holds {shown} for labelled posts; only train, val, test are "
            "allowed"
        )
    return sides


def _by_time(rows: pa.Table, units: Ints, n_val: int, n_test: int) -> npt.NDArray[np.object_]:
    times = rows["created_at"]
    if times.null_count:
        raise InputError(
            f"label.split time: {times.null_count:,} labelled posts have no created_at; use random or user"
        )
    # A unit goes where its latest post belongs: an early duplicate in val does no harm, a late one in train would.
    latest = np.full(units.max(initial=-1) + 1, np.iinfo(np.int64).min)
    np.maximum.at(latest, units, times.cast(pa.int64()).to_numpy())
    order = np.argsort(-latest, kind="stable")
    size = np.bincount(units, minlength=len(latest))
    upto = np.cumsum(size[order])
    in_test = upto <= n_test
    upto -= size[order][in_test].sum()
    side = np.full(len(latest), "train", dtype=object)
    side[order[~in_test & (upto <= n_val)]] = "val"
    side[order[in_test]] = "test"
    return side[units]


def _by_hash(
    post_ids: pa.ChunkedArray, units: Ints, codes: Ints, n_val: int, n_test: int, seed: int
) -> npt.NDArray[np.object_]:
    n_units = int(units.max(initial=-1)) + 1
    # Rows are in order of post_id, so a unit's first row names it whatever the order of the input.
    first = np.unique(units, return_index=True)[1]
    names = post_ids.take(pa.array(first)).to_pylist()
    order = np.argsort(np.array([_key(seed, name) for name in names], dtype=np.uint64), kind="stable")
    parts = _class_counts(units, codes, n_units)
    per_class = np.bincount(codes)
    side = np.full(n_units, "train", dtype=object)
    for name, total in (("test", n_test), ("val", n_val)):
        free = [unit for unit in order.tolist() if side[unit] == "train"]
        side[_take(free, parts, _quotas(per_class, total), total)] = name
    return side[units]


def _key(seed: int, post_id: str) -> int:
    digest = hashlib.blake2b(post_id.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big")


def _class_counts(units: Ints, codes: Ints, n_units: int) -> list[list[tuple[int, int]]]:
    """For each unit its classes and how many posts of each."""
    width = int(codes.max(initial=0)) + 1
    pairs, counts = np.unique(units * width + codes, return_counts=True)
    parts: list[list[tuple[int, int]]] = [[] for _ in range(n_units)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        parts[pair // width].append((pair % width, count))
    return parts


def _quotas(per_class: Ints, total: int) -> list[int]:
    """`total` shared among classes in proportion, whole numbers by largest remainder."""
    whole, rest = np.divmod(per_class * total, max(int(per_class.sum()), 1))
    extra = np.argsort(-rest, kind="stable")[: total - int(whole.sum())]
    whole[extra] += 1
    return [int(n) for n in whole]


def _take(free: list[int], parts: list[list[tuple[int, int]]], quotas: list[int], total: int) -> list[int]:
    """Units, in the given order, that fill `total` posts; by class first, then whatever fits what is left."""
    taken, left = set(), total
    for unit in free:
        if all(quotas[code] >= count for code, count in parts[unit]):
            for code, count in parts[unit]:
                quotas[code] -= count
                left -= count
            taken.add(unit)
        if left == 0:
            break
    for unit in free if left else ():
        size = sum(count for _, count in parts[unit])
        if unit not in taken and size <= left:
            taken.add(unit)
            left -= size
    return sorted(taken)
