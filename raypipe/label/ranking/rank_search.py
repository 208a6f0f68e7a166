"""Exact order statistics of any number of posts in bounded memory: the post with rank k by (value, post_id).

The first pass over the blocks counts the values by their first 16 bits. Each next pass counts, by their next 16 bits,
only the values that begin like the wanted one, until few enough are left to be sorted. Equal values are ordered by
their post_ids in the same way. A pass returns a few thousand counts per block, for any n.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.label.formula.formula import Floats
from raypipe.label.ranking.string_hashes import UInt64s, string_words

Bools = npt.NDArray[np.bool_]

MAX_SORTED_POSTS = 500_000
"""Posts that may be sorted in memory at the end."""

_BITS = 16
_PIECES = 64 // _BITS
_MOST_PIECES = _PIECES * 33


class ValueMapper(Protocol):
    """Applies a picklable function of (values float64 (n,), post_ids) to each block, in order."""

    def __call__(self, function: Callable[[Floats, pa.ChunkedArray], Any], /) -> list[Any]: ...


@dataclass(frozen=True)
class RankThreshold:
    """The value and the post_id of the post at some rank; `at_or_below` finds the posts up to it."""

    value: float
    post_id: str

    def at_or_below(self, values: Floats, post_ids: pa.ChunkedArray) -> Bools:
        """Mask of the posts up to and including the threshold: (value, post_id) ≤ (its value, its post_id)."""
        found = values < self.value
        ties = np.flatnonzero(values == self.value)
        if len(ties):
            found[ties] = np.asarray(pc.less_equal(post_ids.take(pa.array(ties)), self.post_id))
        return found


@dataclass
class _Search:
    """The search for one rank: its known 16-bit pieces, how many posts are before these, and how many share them."""

    rank: int
    pieces: tuple[int, ...] = ()
    before: int = 0
    left: int = 0

    def is_open(self, max_sorted: int) -> bool:
        """Whether more posts share the pieces than can be sorted. Very long equal names are sorted anyway."""
        return self.left > max_sorted and len(self.pieces) < _MOST_PIECES


def posts_at_ranks(
    map_values: ValueMapper, ranks: Sequence[int], n: int, max_sorted: int = MAX_SORTED_POSTS
) -> list[RankThreshold]:
    """The posts at the given ranks of 1…n; ids compare by code point. Raises ValueError if a rank is not in 1…n.

    About `max_sorted` posts per rank are held in memory at a time.
    """
    if wrong := [rank for rank in ranks if not 1 <= rank <= n]:
        raise ValueError(f"rank {wrong[0]}: must be 1 to {n:,}")
    searches = [_Search(rank, left=n) for rank in ranks]
    while open_ := [search for search in searches if search.is_open(max_sorted)]:
        prefixes = sorted({search.pieces for search in open_})
        counted = map_values(functools.partial(_counts, prefixes))
        found = {prefix: _merged([part[i] for part in counted]) for i, prefix in enumerate(prefixes)}
        for search in open_:
            pieces, counts = found[search.pieces]
            upto = search.before + np.cumsum(counts)
            at = int(np.searchsorted(upto, search.rank))
            search.pieces += (int(pieces[at]),)
            search.before = int(upto[at] - counts[at])
            search.left = int(counts[at])
    prefixes = sorted({search.pieces for search in searches})
    parts = map_values(functools.partial(_rows, prefixes))
    rows = {prefix: pa.concat_tables([part[i] for part in parts]) for i, prefix in enumerate(prefixes)}
    ordered = {prefix: table.sort_by([("value", "ascending"), ("id", "ascending")]) for prefix, table in rows.items()}
    thresholds = []
    for search in searches:
        row = ordered[search.pieces].slice(search.rank - search.before - 1, 1)
        thresholds.append(RankThreshold(row["value"][0].as_py(), row["id"][0].as_py()))
    return thresholds


def sortable(values: Floats) -> UInt64s:
    """Floats (n,) without NaN as uint64 that have the same order; −0 and 0 become equal."""
    bits = (values + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) == 1
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def _counts(prefixes: list[tuple[int, ...]], values: Floats, ids: pa.ChunkedArray) -> list[tuple[Any, Any]]:
    return [_count(values, ids, prefix) for prefix in prefixes]


def _rows(prefixes: list[tuple[int, ...]], values: Floats, ids: pa.ChunkedArray) -> list[pa.Table]:
    return [_taken(values, ids, prefix) for prefix in prefixes]


def _count(values: Floats, ids: pa.ChunkedArray, prefix: tuple[int, ...]) -> tuple[Any, Any]:
    """The 16-bit pieces that follow `prefix`, and how often each occurs."""
    _, word = _matching(values, ids, prefix)
    pieces = _piece(word, len(prefix))
    counts = np.bincount(pieces, minlength=2**_BITS)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _taken(values: Floats, ids: pa.ChunkedArray, prefix: tuple[int, ...]) -> pa.Table:
    rows, _ = _matching(values, ids, prefix)
    return pa.table({"value": values[rows], "id": ids.take(pa.array(rows))})


def _matching(values: Floats, ids: pa.ChunkedArray, prefix: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], UInt64s]:
    """Rows whose (value, post_id) begins with `prefix`, and for each the 64-bit word that contains the next piece."""
    word = sortable(values)
    rows = np.arange(len(values))
    for start in range(0, len(prefix) + 1, _PIECES):
        if start:
            word = string_words(ids.take(pa.array(rows)), start // _PIECES - 1)
        if known := prefix[start : start + _PIECES]:
            head = sum(piece << _BITS * (len(known) - 1 - i) for i, piece in enumerate(known))
            same = word >> np.uint64(64 - _BITS * len(known)) == np.uint64(head)
            rows, word = rows[same], word[same]
    return rows, word


def _piece(word: UInt64s, number: int) -> npt.NDArray[np.int64]:
    shift = 64 - _BITS * (number % _PIECES + 1)
    return ((word >> np.uint64(shift)) & np.uint64(2**_BITS - 1)).astype(np.int64)


def _merged(parts: Sequence[tuple[Any, Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    pieces, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.zeros(len(pieces), np.int64)
    np.add.at(counts, inverse, np.concatenate([part[1] for part in parts]))
    return pieces.astype(np.int64), counts
