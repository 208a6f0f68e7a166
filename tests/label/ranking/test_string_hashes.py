"""Hashes and words of whole name columns, compared with Python's strings."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.label.ranking.string_hashes import hash_strings, string_words

NAMES = st.lists(st.one_of(st.none(), st.text(max_size=30)), max_size=40)


def chunked(names: list[str | None], cut: int, kind: pa.DataType) -> pa.ChunkedArray:
    # A slice, so that offsets do not start at 0.
    whole = pa.array(["before", *names, "behind"], kind)
    return pa.chunked_array([whole.slice(1, cut), whole.slice(1 + cut, len(names) - cut)], kind)


@given(names=NAMES, cut=st.integers(0, 40), large=st.booleans(), salt=st.integers(0, 3))
def test_hash_depends_only_on_name(names: list[str | None], cut: int, large: bool, salt: int) -> None:
    kind = pa.large_string() if large else pa.string()
    hashes = hash_strings(chunked(names, min(cut, len(names)), kind), salt)
    assert hashes.dtype == np.uint64
    for name, found in zip(names, hashes.tolist(), strict=True):
        alone = hash_strings(pa.chunked_array([[name]], pa.string()), salt).tolist()[0]
        assert found == alone
        assert (found == 0) == (name is None)
    known = {name for name in names if name is not None}
    assert len({h for h, name in zip(hashes.tolist(), names, strict=True) if name is not None}) == len(known)


def test_hashes_of_million_names_are_unique_and_uniform() -> None:
    names = pa.chunked_array([[f"post-{i}" for i in range(1_000_000)]])
    hashes = hash_strings(names)
    assert len(np.unique(hashes)) == 1_000_000
    assert not np.intersect1d(hashes, hash_strings(names, salt=1)).size
    for shift in (0, 24, 56):
        counts = np.bincount(((hashes >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
        # χ² with 255 degrees of freedom: 255 ± 22.6.
        assert np.sum((counts - 1e6 / 256) ** 2 / (1e6 / 256)) == pytest.approx(255, abs=120)


@given(names=st.lists(st.text(max_size=30), min_size=2, max_size=30), cut=st.integers(0, 30))
def test_words_sort_like_their_strings(names: list[str], cut: int) -> None:
    column = chunked([*names], min(cut, len(names)), pa.string())
    words = np.column_stack([string_words(column, k) for k in range(16)])
    by_words = sorted(range(len(names)), key=lambda i: (tuple(words[i].tolist()), names[i]))
    assert [names[i] for i in by_words] == sorted(names)
    for name, row in zip(names, words.tolist(), strict=True):
        assert b"".join(word.to_bytes(8, "big") for word in row) == name.encode().ljust(128, b"\0")


def test_empty_columns_and_names_are_handled() -> None:
    empty = pa.chunked_array([], pa.string())
    assert len(hash_strings(empty)) == len(string_words(empty, 0)) == 0
    assert string_words(pa.chunked_array([["", "ab"]]), 3).tolist() == [0, 0]
