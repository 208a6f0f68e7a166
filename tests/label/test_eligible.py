"""Which posts take part, and the reason for each post that does not."""

from __future__ import annotations

import itertools
from collections import Counter

import pyarrow as pa
import pytest

from raypipe.label.eligible import (
    count_reasons,
    image_columns,
    image_eligibility,
    no_eligible_message,
    post_codes,
    post_columns,
)

POSTS = pa.table({"post_id": list("abcdefgh"), "deleted": [False] * 7 + [True]})
IMAGES = pa.table(
    {
        "post_id": list("hgfedcb"),
        "status": ["deleted", "timeout", "ok", "ok", "ok", "ok", "deleted"],
        "n_faces": pa.array([None, None, None, 0, 2, 1, None], pa.int32()),
        "sha256": ["1", None, "2", "3", "3", "4", None],
    }
)


@pytest.mark.parametrize("cuts", [[0, 7], [0, 3, 3, 7]])
@pytest.mark.parametrize(
    ("rule", "kept", "dropped"),
    [
        (
            "one_face",
            "c",
            {"not_fetched": 2, "deleted": 2, "faces_not_counted": 1, "no_face": 1, "several_faces": 1},
        ),
        ("with_face", "cd", {"not_fetched": 2, "deleted": 2, "faces_not_counted": 1, "no_face": 1}),
        ("image", "cdef", {"not_fetched": 2, "deleted": 2}),
    ],
)
def test_eligibility_rules_keep_and_drop_posts(rule: str, kept: str, dropped: dict[str, int], cuts: list[int]) -> None:
    columns = image_columns(rule)
    blocks = [IMAGES.select(columns).slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    eligibility = image_eligibility(lambda function: [function(block) for block in blocks], rule)
    codes = post_codes(POSTS, eligibility)
    assert [name for name, code in zip(POSTS["post_id"].to_pylist(), codes, strict=True) if code == 0] == list(kept)
    assert count_reasons(codes) == dropped
    assert len(kept) + count_reasons(codes).total() == len(POSTS)


def test_without_picture_rule_only_deleted_posts_drop() -> None:
    codes = post_codes(POSTS.select(post_columns(None)), None)
    assert codes.tolist() == [0] * 7 + [1]
    assert count_reasons(codes) == {"deleted": 1}


def test_empty_blocks_are_handled() -> None:
    eligibility = image_eligibility(lambda _: [], "one_face")
    assert count_reasons(post_codes(POSTS, eligibility)) == {"not_fetched": 7, "deleted": 1}
    assert len(post_codes(POSTS.slice(0, 0), eligibility)) == 0


def test_message_if_no_post_is_eligible() -> None:
    line = no_eligible_message("one_face", 5, Counter(deleted=1, faces_not_counted=4))
    assert "none of 5 posts takes part (1 deleted, 4 faces_not_counted)" in line
    assert "--faces.enabled true" in line
    assert "with_face" in no_eligible_message("one_face", 3, Counter(no_face=3))
