"""Which posts take part: never deleted ones, and by default those whose picture shows exactly one face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.label.ranking.string_hashes import UInt64s, find_positions, hash_strings

REASONS = ("deleted", "not_fetched", "faces_not_counted", "no_face", "several_faces")
"""Why a post does not take part. Codes start at 1; code 0 means that the post takes part."""

_DELETED, _NOT_FETCHED, _NOT_COUNTED, _NO_FACE, _SEVERAL = range(1, 6)
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class ImageEligibility:
    """The code (see `REASONS`) of each row of images/; `keys` are the sorted hashes of post_ids, made with `salt`."""

    keys: UInt64s
    codes: Codes
    salt: int


def image_columns(rule: str) -> list[str]:
    """The columns of images/ that a rule reads."""
    return ["post_id", "status"] + (["n_faces"] if rule in ("one_face", "with_face") else [])


def image_codes(images: pa.Table, rule: str) -> Codes:
    """The code of each row of images/ under a rule, int8 (n,).

    Reasons: ``deleted``, ``not_fetched``, and if the rule needs faces ``faces_not_counted``, ``no_face``,
    ``several_faces``.
    """
    codes = np.zeros(len(images), np.int8)
    status = images["status"]
    codes[~np.asarray(pc.equal(status, "ok"))] = _NOT_FETCHED
    codes[np.asarray(pc.equal(status, "deleted"))] = _DELETED
    if rule in ("one_face", "with_face"):
        faces = np.asarray(pc.fill_null(images["n_faces"], -1))
        fetched = codes == 0
        codes[fetched & (faces < 0)] = _NOT_COUNTED
        codes[fetched & (faces == 0)] = _NO_FACE
        if rule == "one_face":
            codes[fetched & (faces > 1)] = _SEVERAL
    return codes


def image_eligibility(map_images: Callable[[Callable[[pa.Table], Any]], Sequence[Any]], rule: str) -> ImageEligibility:
    """The codes of all of images/; `map_images` applies a function to each block of it (see `image_columns`)."""
    for salt in range(8):

        def block(images: pa.Table, salt: int = salt) -> tuple[UInt64s, Codes]:
            return hash_strings(images["post_id"], salt), image_codes(images, rule)

        parts = map_images(block)
        keys = np.concatenate([np.empty(0, np.uint64), *(part[0] for part in parts)])
        codes = np.concatenate([np.empty(0, np.int8), *(part[1] for part in parts)])
        order = np.argsort(keys)
        keys = keys[order]
        # Two post_ids share a hash in one of 3,700 tables of 100 million posts. Another salt then separates them.
        if len(keys) < 2 or (keys[1:] != keys[:-1]).all():
            break
    return ImageEligibility(keys, codes[order], salt)


def post_columns(eligibility: ImageEligibility | None) -> list[str]:
    """The columns of posts/ that `post_codes` reads."""
    return ["deleted"] if eligibility is None else ["deleted", "post_id"]


def post_codes(posts: pa.Table, eligibility: ImageEligibility | None) -> Codes:
    """The code of each post, int8 (n,); `eligibility` is None if the rule does not need pictures.

    A post without a row in images/ counts as ``not_fetched``.
    """
    codes = np.zeros(len(posts), np.int8)
    if eligibility is not None:
        codes[:] = _NOT_FETCHED
        place, found = find_positions(eligibility.keys, hash_strings(posts["post_id"], eligibility.salt))
        codes[found] = eligibility.codes[place[found]]
    codes[np.asarray(posts["deleted"])] = _DELETED
    return codes


def count_reasons(codes: Codes) -> Counter[str]:
    """How many posts do not take part, by reason."""
    counts = np.bincount(codes, minlength=len(REASONS) + 1)
    return Counter({reason: int(counts[i]) for i, reason in enumerate(REASONS, 1) if counts[i]})


def no_eligible_message(rule: str, n_posts: int, dropped: Counter[str]) -> str:
    """The error message if no post takes part."""
    counts = ", ".join(f"{n:,} {reason}" for reason, n in sorted(dropped.items())) or "no post was read"
    ways = {
        "faces_not_counted": "run ingest with --faces.enabled true, or use --label.eligible image",
        "not_fetched": "see images/ for each picture's status, or use --label.eligible post",
    }
    most = max(dropped, key=lambda reason: dropped[reason], default="")
    way = ways.get(most, "use another --label.eligible (with_face, image, post)")
    return f"label.eligible {rule}: none of {n_posts:,} posts takes part ({counts}); {way}"
