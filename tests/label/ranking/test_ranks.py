"""Ranks and bounds, compared with a plain implementation in integers."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.label.ranking.ranks import as_fraction, class_bounds, extreme_ranks, rank


def test_the_papers_deciles() -> None:
    low, high = extreme_ranks(200_545, 0.1)
    assert (low, 200_545 - high) == (20_054, 20_055)


@given(n=st.integers(1, 10**9), thousandths=st.integers(1, 500))
def test_bounds_are_exact(n: int, thousandths: int) -> None:
    low, high = extreme_ranks(n, thousandths / 1000)
    assert low == thousandths * n // 1000
    assert high == (1000 - thousandths) * n // 1000
    assert 0 <= low <= high <= n


@pytest.mark.parametrize("q", [0.1, 0.2, 0.3, 0.05, 1e-5, 0.15])
def test_share_is_taken_as_typed_decimal(q: float) -> None:
    assert as_fraction(q) == Decimal(str(q))


def test_float_rounding_does_not_change_bounds() -> None:
    # In floats 0.29 * 100 is 28.999…, and (1 - 0.1) * 10 differs from 9 because of rounding.
    assert extreme_ranks(100, 0.29) == (29, 71)
    assert extreme_ranks(10, 0.3) == (3, 7)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_ranks_break_ties_by_post_id_in_any_order(values: list[int], random: object) -> None:
    ids = [f"p{i % 7}-{i}" for i in range(len(values))]
    pairs = list(zip([float(value) for value in values], ids, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    ranks = rank(np.array([value for value, _ in pairs]), pa.chunked_array([[name for _, name in pairs]]))
    expected = {pair: i for i, pair in enumerate(sorted(pairs), start=1)}
    assert [expected[pair] for pair in pairs] == ranks.tolist()


@given(n=st.integers(0, 5_000), k=st.integers(2, 40))
def test_classes_differ_by_one_post_at_most(n: int, k: int) -> None:
    sizes = np.diff([0, *class_bounds(n, k)])
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1
