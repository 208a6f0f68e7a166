"""Finds duplicate pictures: equal bytes, or perceptual hashes that differ in a few bits."""

from __future__ import annotations

from math import comb

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BITS = 64
# Groups up to this size are compared pair by pair; larger ones are divided again.
_SMALL = 32
# Number of near pairs that are collected before they are merged.
_MOST_PAIRS = 2**19

# Cost of searching one part, in compared pairs: a fixed cost, and a cost per item.
_PAIRS_A_PART, _PAIRS_AN_ITEM = 20_000, 20

SCHEMA = pa.schema([("post_id", pa.string()), ("group", pa.string()), ("kind", pa.string())])


def duplicate_groups(post_ids: pa.Array, sha256: pa.Array, phash: pa.Array, distance: int) -> pa.Table:
    """Find posts whose picture another post also has: `post_id`, `group`, `kind`, sorted by (group, post_id).

    `post_ids` (strings, all different), `sha256` (any type) and `phash` (uint64) have n values each. A null hash is
    equal to no other. Two posts are in one group if their `sha256` are equal, if their `phash` differ in at most
    `distance` bits, or if a chain of such pairs joins them. The ends of a chain may be further apart; for a split, this
    is the careful choice. `group` is the smallest post_id of the group. `kind` is ``exact`` if another post of the
    group has the same `sha256`, else ``near``. Raises ValueError if lengths differ or `distance` is negative.
    """
    n = len(post_ids)
    if not n == len(sha256) == len(phash) or distance < 0:
        raise ValueError(f"{n} posts, {len(sha256)} sha256, {len(phash)} phash, distance {distance}")
    files, seen = _codes(sha256), _codes(phash)
    hashes = np.zeros(seen.max(initial=-1) + 1, dtype=np.uint64)
    hashes[seen[seen >= 0]] = pc.fill_null(phash, 0).to_numpy(zero_copy_only=False)[seen >= 0]
    phash_groups = np.where(seen >= 0, near_components(hashes, distance)[seen], -1) if len(hashes) else seen
    group = _join_groups(files, phash_groups)

    several = np.bincount(group, minlength=n)[group] > 1
    copies = np.bincount(files[files >= 0], minlength=1)
    exact = (files >= 0) & (copies[np.maximum(files, 0)] > 1)
    # In the order of post_ids, the first post of each group gives the group its name.
    order = pc.sort_indices(post_ids).to_numpy()
    order = order[several[order]]
    _, first, which = np.unique(group[order], return_index=True, return_inverse=True)
    rows = np.lexsort((np.arange(len(order)), first[which]))
    columns = [
        post_ids.take(pa.array(order[rows])),
        post_ids.take(pa.array(order[first[which[rows]]])),
        pc.if_else(pa.array(exact[order[rows]]), "exact", "near"),
    ]
    return pa.table([column.cast(pa.string()) for column in columns], schema=SCHEMA)


def _codes(values: pa.Array) -> np.ndarray:
    """int64 (n,): a number for each distinct value, from 0; -1 for null."""
    indices = values.dictionary_encode().indices
    return np.asarray(pc.fill_null(indices.cast(pa.int64()), -1))


def _join_groups(files: np.ndarray, phash_groups: np.ndarray) -> np.ndarray:
    """int64 (n,): the component of each post; posts with equal `files` or `phash_groups` are joined; -1 joins none."""
    n, n_files = len(files), files.max(initial=-1) + 1
    posts = np.arange(n)
    has_sha256, has_phash = files >= 0, phash_groups >= 0
    pairs = (
        np.concatenate([posts[has_sha256], posts[has_phash]]),
        np.concatenate([n + files[has_sha256], n + n_files + phash_groups[has_phash]]),
    )
    return _components(n + n_files + phash_groups.max(initial=-1) + 1, *pairs)[:n]


def near_components(hashes: np.ndarray, distance: int) -> np.ndarray:
    """int64 (n,): the connected component of each of `hashes` (uint64 (n,), all different). Hashes that differ in at
    most `distance` bits are joined. The result is the same as from comparing all pairs.

    Multi-index hashing: if the bits are cut into distance + k pieces, two such hashes agree in at least k of them
    (k = 1: Norouzi, Punjani & Fleet 2012, section 3; any k: Manku, Jain & Das Sarma 2007, section 3). So only hashes
    that agree in some k pieces are compared. Hashes of similar pictures agree in many pieces. A group that is too large
    is divided again by the bits in which it still differs. Memory is about 200 bytes per hash, for any hashes.
    """
    search = _NearPairSearch(hashes, distance)
    if distance > 0 and len(hashes) > 1:
        search.divide(np.arange(len(hashes)), np.uint64(0), len(hashes))
        search.merge()
    return search.component


class _NearPairSearch:
    def __init__(self, hashes: np.ndarray, distance: int) -> None:
        self._hashes, self._distance = hashes, distance
        self.component = np.arange(len(hashes))
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_pairs = 0

    def divide(self, items: np.ndarray, agreed: np.uint64, largest: int) -> None:
        """Find the near pairs in each group of `items` (indices of hashes) that agree in the bits of `agreed`.
        `largest` is the size of the largest such group.
        """
        hashes = self._hashes[items]
        differing = int(np.bitwise_or.reduce(hashes) ^ np.bitwise_and.reduce(hashes)) & ~int(agreed)
        bits = [1 << bit for bit in range(_BITS) if differing >> bit & 1]
        depth, wanted = 1, np.log2(largest / _SMALL)
        while self._distance + depth < len(bits) and len(bits) * depth / (self._distance + depth) < wanted:
            depth += 1
        n_pieces = self._distance + depth
        grouped, _, sizes = self._grouped(items, agreed)
        if len(bits) <= self._distance:
            # Any two items of a group are near, so comparing neighbours joins the whole group.
            self._compare(grouped, _following(sizes), 1)
            return
        if np.square(sizes).sum() < comb(n_pieces, depth) * (_PAIRS_A_PART + _PAIRS_AN_ITEM * len(items)):
            self._compare(grouped, _following(sizes), largest - 1)
            return
        # Neighbouring bits are correlated, so each piece takes bits from all regions.
        self._walk(items, agreed, [np.uint64(sum(bits[i::n_pieces])) for i in range(n_pieces)], depth)

    def _walk(self, items: np.ndarray, agreed: np.uint64, pieces: list[np.uint64], depth: int) -> None:
        """Compare items that agree in `depth` more of `pieces`. Small groups are compared at once, with fewer."""
        for i in range(len(pieces) - depth + 1):
            mask = agreed | pieces[i]
            grouped, starts, sizes = self._grouped(items, mask)
            following = _following(sizes)
            self._compare(grouped, np.where(np.repeat(sizes, sizes) <= _SMALL, following, 0), _SMALL - 1)
            of = self.component[grouped]
            not_joined = np.minimum.reduceat(of, starts) != np.maximum.reduceat(of, starts)
            left = (sizes > _SMALL) & not_joined
            if not left.any():
                continue
            rest, largest = grouped[np.repeat(left, sizes)], int(sizes[left].max())
            if depth == 1:
                self.divide(rest, mask, largest)
            else:
                self._walk(rest, mask, pieces[i + 1 :], depth - 1)

    def _grouped(self, items: np.ndarray, mask: np.uint64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `items` sorted so that those that agree in `mask` are adjacent, and each group's start and size."""
        keys = self._hashes[items] & mask
        order = np.argsort(keys)
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return items[order], starts, np.diff(starts, append=len(items))

    def _compare(self, items: np.ndarray, following: np.ndarray, most: int) -> None:
        """Compare each item with the items after it: `following` (int64 (n,)) of them, but at most `most`."""
        at = np.arange(len(items))
        for step in range(1, most + 1):
            at = at[following[at] >= step]
            if not len(at):
                break
            left, right = items[at], items[at + step]
            near = np.bitwise_count(self._hashes[left] ^ self._hashes[right]) <= self._distance
            near &= self.component[left] != self.component[right]
            if near.any():
                self._pairs.append((left[near], right[near]))
                self._n_pairs += len(self._pairs[-1][0])
            if self._n_pairs > _MOST_PAIRS:
                self.merge()

    def merge(self) -> None:
        """Join the collected pairs in `component`."""
        if self._pairs:
            left, right = (self.component[np.concatenate(side)] for side in zip(*self._pairs, strict=True))
            self.component = _components(len(self.component), left, right)[self.component]
            self._pairs, self._n_pairs = [], 0


def _following(sizes: np.ndarray) -> np.ndarray:
    """How many items of its group come after each item, for adjacent groups of these sizes: [3, 1] gives 2, 1, 0, 0."""
    return np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(sizes.sum())


def _components(n: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 (n,): connected components of the graph with n nodes and the edges (left[i], right[i])."""
    edges = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)
