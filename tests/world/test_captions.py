"""Captions contain exactly the given number of different hashtags, including #selfie."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raypipe.world import captions
from raypipe.world.captions import MAX_HASHTAGS, TAGS, generate_captions


def tags_of(text: str) -> list[str]:
    return re.findall(r"#(\w+)", text)


@given(st.lists(st.integers(1, MAX_HASHTAGS), min_size=1, max_size=60), st.integers(0, 2**32))
def test_hashtags_match_their_count(counts: list[int], seed: int) -> None:
    written = generate_captions(np.random.default_rng(seed), np.array(counts, dtype=np.int32))
    for text, count in zip(written.texts(0, len(counts)), counts, strict=True):
        found = tags_of(text)
        assert found[0] == "selfie"
        assert len(found) == len(set(found)) == count


def test_captions_do_not_depend_on_the_slice() -> None:
    counts = np.random.default_rng(1).integers(1, MAX_HASHTAGS + 1, 500).astype(np.int32)
    written = generate_captions(np.random.default_rng(2), counts)
    assert written.texts(0, 500) == written.texts(0, 123) + written.texts(123, 124) + written.texts(124, 500)


def test_captions_do_not_depend_on_chunk_size(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    counts = np.random.default_rng(1).integers(1, MAX_HASHTAGS + 1, 500).astype(np.int32)
    at_once = generate_captions(np.random.default_rng(2), counts).texts(0, 500)
    monkeypatch.setattr(captions, "_ROWS_AT_A_TIME", 7)
    assert generate_captions(np.random.default_rng(2), counts).texts(0, 500) == at_once


def test_popular_hashtags_are_more_frequent() -> None:
    written = generate_captions(np.random.default_rng(0), np.full(5_000, 5, dtype=np.int32))
    often = np.bincount(written.tags, minlength=len(TAGS))
    assert often[0] == 5_000
    assert often[1] > 3 * often[-1] > 0
