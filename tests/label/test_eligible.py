"""Which posts take part, and the reason of each that does not."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from raypipe.label.eligible import image_verdicts, nothing_eligible, select

POSTS = pa.table({"post_id": list("abcdefgh"), "deleted": [False] * 7 + [True]})
IMAGES = pa.table(
    {
        "post_id": list("hgfedcb"),
        "status": ["deleted", "timeout", "ok", "ok", "ok", "ok", "deleted"],
        "n_faces": pa.array([None, None, None, 0, 2, 1, None], pa.int32()),
        "sha256": ["1", None, "2", "3", "3", "4", None],
    }
)


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
        ("post", "bcdefg", {"not_fetched": 1, "deleted": 1}),
    ],
)
def test_rules(rule: str, kept: str, dropped: dict[str, int]) -> None:
    found = select(POSTS, image_verdicts(IMAGES, rule))
    assert found.posts["post_id"].to_pylist() == list(kept)
    assert found.dropped == dropped
    assert len(found.posts) + found.dropped.total() == len(POSTS)
    hashes = dict(zip(IMAGES["post_id"].to_pylist(), IMAGES["sha256"].to_pylist(), strict=True))
    assert found.sha256.to_pylist() == [hashes[post_id] for post_id in kept]


def test_without_images_only_the_deleted_go() -> None:
    found = select(POSTS, None)
    assert found.posts["post_id"].to_pylist() == list("abcdefg")
    assert found.dropped == {"deleted": 1}
    assert found.sha256.null_count == 7


def test_a_block_without_rows() -> None:
    found = select(POSTS.slice(0, 0), image_verdicts(IMAGES, "one_face"))
    assert len(found.posts) == len(found.sha256) == found.dropped.total() == 0


def test_the_line_for_nobody() -> None:
    line = nothing_eligible("one_face", 5, Counter(deleted=1, faces_not_counted=4))
    assert "none of 5 posts takes part (1 deleted, 4 faces_not_counted)" in line
    assert "--faces.enabled true" in line
    assert "with_face" in nothing_eligible("one_face", 3, Counter(no_face=3))
