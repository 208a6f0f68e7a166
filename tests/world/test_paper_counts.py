"""The funnel: exactly the paper's counts at its size, and the paper's shares at other sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.world.paper_counts import NO_PICTURE, PostCounts, paper_counts, sample_face_counts


def test_size_of_paper_gives_counts_of_paper() -> None:
    assert paper_counts(486_149) == PostCounts(
        posts=486_149,
        deleted=56_966,
        present=429_183,
        with_face=232_971,
        one_face=200_545,
        users=311_475,
        comments=1_500_967,
    )


@given(st.integers(1, 2_000_000))
def test_other_sizes_keep_shares_of_paper(posts: int) -> None:
    counts = paper_counts(posts)
    assert counts.present == posts - counts.deleted > 0
    assert counts.one_face <= counts.with_face <= counts.present
    assert 1 <= counts.users <= counts.present
    assert abs(counts.deleted - posts * 56_966 / 486_149) <= 0.5
    assert abs(counts.with_face - counts.present * 232_971 / 429_183) <= 0.5
    assert abs(counts.one_face - counts.present * 200_545 / 429_183) <= 0.5


@given(st.integers(1, 3_000), st.integers(0, 2**32))
def test_assignment_has_exactly_the_counts(posts: int, seed: int) -> None:
    counts = paper_counts(posts)
    faces = sample_face_counts(np.random.default_rng(seed), counts)
    assert len(faces) == posts
    assert (faces == NO_PICTURE).sum() == counts.deleted
    assert (faces >= 1).sum() == counts.with_face
    assert (faces == 1).sum() == counts.one_face
    assert faces.max() <= 4


def test_groups_are_mostly_pairs() -> None:
    faces = sample_face_counts(np.random.default_rng(0), paper_counts(100_000))
    pairs, threes, fours = ((faces == n).sum() for n in (2, 3, 4))
    assert pairs > threes > fours > 0


def test_world_without_posts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one post"):
        paper_counts(0)
