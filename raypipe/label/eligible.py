"""Which posts take part: never the deleted ones, and by default those whose picture shows exactly one face."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

IMAGE_COLUMNS = ("post_id", "status", "n_faces", "sha256")


@dataclass(frozen=True)
class Eligible:
    """The posts of a block that take part, their pictures' hashes (null: unknown), and the others by reason."""

    posts: pa.Table
    sha256: pa.ChunkedArray
    dropped: Counter[str]


def image_verdicts(images: pa.Table, rule: str) -> pa.Table:
    """`post_id`, `reason` (null where the picture may take part) and `sha256` of each row of images/ under a rule.

    Reasons: ``deleted``, ``not_fetched``, and where faces are asked for ``faces_not_counted``, ``no_face``,
    ``several_faces``.
    """
    status, faces = images["status"], images["n_faces"]
    cases = [(pc.equal(status, "deleted"), "deleted"), (pc.not_equal(status, "ok"), "not_fetched")]
    if rule in ("one_face", "with_face"):
        cases += [(pc.is_null(faces), "faces_not_counted"), (pc.equal(faces, 0), "no_face")]
    if rule == "one_face":
        cases += [(pc.greater(faces, 1), "several_faces")]
    if rule == "post":
        cases = []
    reason = pa.chunked_array([pa.nulls(len(images), pa.string())])
    for applies, name in reversed(cases):
        reason = pc.if_else(pc.fill_null(applies, False), name, reason)
    return pa.table({"post_id": images["post_id"], "reason": reason, "sha256": images["sha256"]})


def select(posts: pa.Table, verdicts: pa.Table | None) -> Eligible:
    """The eligible rows of a block of posts; `verdicts` is None where no picture is asked for and none is known.

    A post without a row in images/ counts as ``not_fetched``.
    """
    deleted = posts["deleted"]
    if verdicts is None:
        reason = pc.if_else(deleted, "deleted", pa.scalar(None, pa.string()))
        sha256 = pa.chunked_array([pa.nulls(len(posts), pa.string())])
    else:
        place = pc.index_in(posts["post_id"], value_set=verdicts["post_id"])
        found = pc.if_else(pc.is_null(place), "not_fetched", verdicts["reason"].take(place))
        reason = pc.if_else(deleted, "deleted", found)
        sha256 = verdicts["sha256"].take(place)
    kept = pc.is_null(reason)
    counts = {item["values"]: item["counts"] for item in pc.value_counts(reason.drop_null()).to_pylist()}
    return Eligible(posts.filter(kept), sha256.filter(kept), Counter(counts))


def nothing_eligible(rule: str, n_posts: int, dropped: Counter[str]) -> str:
    """The line for a person whose posts all fell out."""
    counts = ", ".join(f"{n:,} {reason}" for reason, n in sorted(dropped.items())) or "none was read"
    ways = {
        "faces_not_counted": "run ingest with --faces.enabled true, or use --label.eligible image",
        "not_fetched": "see images/ for each picture's status, or use --label.eligible post",
    }
    most = max(dropped, key=lambda reason: dropped[reason], default="")
    way = ways.get(most, "use another --label.eligible (with_face, image, post)")
    return f"label.eligible {rule}: none of {n_posts:,} posts takes part ({counts}); {way}"
