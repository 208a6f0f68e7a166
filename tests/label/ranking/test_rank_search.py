"""Order statistics computed in passes, compared with sorting."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.label.formula.formula import Floats
from raypipe.label.ranking.rank_search import ValueMapper, posts_at_ranks, sortable

VALUES = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, -1.5]))


def passes_over(values: Floats, ids: list[str], cuts: list[int], seen: list[int] | None = None) -> ValueMapper:
    bounds = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]

    def map_values(function: Callable[[Floats, pa.ChunkedArray], Any]) -> list[Any]:
        if seen is not None:
            seen.append(len(ids))
        names = pa.chunked_array([ids], pa.string())
        return [function(values[a:b], names.slice(a, b - a)) for a, b in itertools.pairwise(bounds)]

    return map_values


@settings(max_examples=150)
@given(data=st.data(), few=st.sampled_from([1, 2, 7, 1000]), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_order_statistics_equal_sorting(data: st.DataObject, few: int, cuts: list[int]) -> None:
    ids = data.draw(st.lists(st.text(max_size=20), min_size=1, max_size=40, unique=True))
    values = np.array(data.draw(st.lists(VALUES, min_size=len(ids), max_size=len(ids))))
    ranks = data.draw(st.lists(st.integers(1, len(ids)), min_size=1, max_size=5))
    ordered = sorted(zip((values + 0.0).tolist(), ids, strict=True), key=lambda row: (row[0], row[1].encode()))
    found = posts_at_ranks(passes_over(values, ids, cuts), ranks, len(ids), few)
    names = pa.chunked_array([ids])
    for rank, cut in zip(ranks, found, strict=True):
        assert (cut.value, cut.post_id) == ordered[rank - 1]
        at_or_below = {ids[i] for i in np.flatnonzero(cut.at_or_below(values, names))}
        assert at_or_below == {name for _, name in ordered[:rank]}


@given(values=st.lists(VALUES, min_size=2, max_size=20))
def test_floats_compare_as_their_numbers(values: list[float]) -> None:
    numbers = sortable(np.array(values)).tolist()
    for a, first in zip(values, numbers, strict=True):
        for b, second in zip(values, numbers, strict=True):
            assert (a < b, a == b) == (first < second, first == second)


def test_selection_needs_few_passes_and_rows() -> None:
    rng = np.random.default_rng(0)
    n = 100_000
    values, ids = rng.normal(size=n), [f"p{i:06d}" for i in range(n)]
    seen: list[int] = []
    cut, median = posts_at_ranks(passes_over(values, ids, list(range(0, n, 9_000)), seen), [n // 10, n // 2], n, 500)
    assert cut.value == np.sort(values)[n // 10 - 1]
    assert median.value == np.sort(values)[n // 2 - 1]
    assert len(seen) <= 4


def test_equal_values_are_ordered_by_long_names() -> None:
    ids = [f"https://example.org/a/long/path/that/all/share/{i:05d}" for i in range(3_000)]
    order = np.random.default_rng(1).permutation(3_000)
    (cut,) = posts_at_ranks(passes_over(np.zeros(3_000), [ids[i] for i in order], [700, 1_500]), [1_234], 3_000, 10)
    assert cut.post_id == ids[1_233]


@pytest.mark.parametrize("rank", [0, 4])
def test_rank_out_of_range_raises_error(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank}: must be 1 to 3"):
        posts_at_ranks(passes_over(np.zeros(3), ["a", "b", "c"], []), [rank], 3)
