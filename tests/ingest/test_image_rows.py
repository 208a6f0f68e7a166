"""From answers to rows: each picture gets its status, and no row is lost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.ingest.counts import ImageCounts, failure_lines, funnel_text
from raypipe.ingest.examine_fetched import picture_examiner
from raypipe.ingest.faces import FaceDetector
from raypipe.ingest.fetching.client import FetchResult
from raypipe.ingest.image_rows import StagedCounts, fetched_table, images_table, stored_table
from raypipe.tables.schemas import IMAGES, STATUSES
from tests.ingest.conftest import picture


def result(post_id: str, status: str, body: bytes | None = None) -> FetchResult:
    error = None if status == "ok" else f"{status} it was"
    return FetchResult(post_id, "http://h.example/x", status, 200, 1, error, "h.example", None, body, 0.5)


def images(results: list[FetchResult], *, faces: bool = False, isolated: bool = False, **ingest: Any) -> pa.Table:
    options = IngestOptions(**{"phash": True, **ingest})
    with picture_examiner(options, FaceOptions(enabled=faces), isolated=isolated) as examine_pictures:
        return images_table(fetched_table(results), examine_pictures)


def test_each_status_gives_one_row() -> None:
    found = images([result(f"p{i}", name, picture() if name == "ok" else None) for i, name in enumerate(STATUSES)])
    assert found.schema == IMAGES
    assert found["status"].to_pylist() == list(STATUSES)
    assert found["error"].null_count == 1
    assert found["image"].null_count == len(STATUSES) - 1
    assert found["n_faces"].null_count == len(STATUSES)


def test_fetched_bytes_are_examined() -> None:
    whole = picture("PNG", (40, 30))
    bodies = [whole, whole[: len(whole) // 2], b"<html>", picture("JPEG", (200, 200))]
    found = images([result(f"p{i}", "ok", data) for i, data in enumerate(bodies)], max_pixels=1200)
    assert found["status"].to_pylist() == ["ok", "truncated", "not_an_image", "too_many_pixels"]
    assert found["image"].to_pylist() == [whole, None, None, None]
    assert found["n_bytes"].to_pylist() == [len(data) for data in bodies]
    assert found["format"].to_pylist() == ["PNG", "PNG", None, "JPEG"]
    assert found["width"].to_pylist() == [40, 40, None, 200]
    assert found["sha256"].null_count == 0
    assert found["phash"].null_count == 3
    assert found["http_status"].to_pylist() == [200] * 4
    assert found["error"].to_pylist()[0] is None


def test_faces_are_counted_only_in_whole_pictures(shared_data: Path) -> None:
    portrait = (shared_data / "portraits" / "000.jpg").read_bytes()
    blank = io.BytesIO()
    Image.new("RGB", (80, 80)).save(blank, "PNG")
    bodies = [portrait, blank.getvalue(), portrait[:3000]]
    found = images([result(f"p{i}", "ok", data) for i, data in enumerate(bodies)], faces=True, phash=None)
    assert found["n_faces"].to_pylist() == [1, 0, None]
    (face,) = found["faces"].to_pylist()[0]
    assert set(face) == {"left", "top", "right", "bottom", "score"}
    assert 0 <= face["left"] < face["right"] < found["width"][0].as_py()
    assert found["faces"].to_pylist()[1:] == [[], None]


def test_failing_detector_keeps_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(FaceDetector, "detect", broken)
    found = images([result("p0", "ok", picture()), result("p1", "gone")], faces=True)
    assert found["status"].to_pylist() == ["ok", "gone"]
    assert found["n_faces"].to_pylist() == [None, None]
    assert found["error"].to_pylist() == ["faces not counted: out of luck", "gone it was"]
    assert found["image"].to_pylist()[0] == picture()


def test_picture_is_not_decoded_unless_needed() -> None:
    whole = picture()
    found = images([result("a", "ok", whole), result("b", "ok", whole[: len(whole) // 2])], phash=None)
    assert found["status"].to_pylist() == ["ok", "truncated"]
    assert found["phash"].null_count == 2
    assert (found["width"][0].as_py(), found["height"][0].as_py()) == (64, 48)


def test_rows_are_equal_in_child_process() -> None:
    bodies = [picture(), b"<html>", picture("PNG", seed=4)]
    results = [result(f"p{i}", "ok", data) for i, data in enumerate(bodies)] + [result("gone", "gone")]
    assert images(results, faces=True, isolated=True).equals(images(results, faces=True))


def test_reexamined_rows_are_unchanged() -> None:
    first = images([result(f"p{i}", "ok", picture(seed=i)) for i in range(3)])
    with picture_examiner(IngestOptions(phash=True), FaceOptions(enabled=False)) as examine_pictures:
        again = images_table(stored_table(first), examine_pictures)
    assert again.equals(first)


def test_summary_adds_up_statuses_bytes_and_seconds() -> None:
    summary = StagedCounts()
    summary.add(images([result("a", "ok", picture()), result("b", "gone")]))
    summary.add(images([result("c", "ok", picture(seed=2))]))
    (row,) = summary.row().to_pylist()
    assert (row["rows"], json.loads(row["statuses"])) == (3, {"ok": 2, "gone": 1})
    assert row["n_bytes"] == len(picture()) + len(picture(seed=2))
    assert row["fetch"] == 1.5
    assert row["decode"] > 0


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.binary(max_size=60)), min_size=1, max_size=20))
def test_any_answers_give_one_row_per_post(answers: list[tuple[str, bytes]]) -> None:
    results = [result(f"p{i}", name, data if name == "ok" else None) for i, (name, data) in enumerate(answers)]
    found = images(results)
    assert found["post_id"].to_pylist() == [item.post_id for item in results]
    assert set(found["status"].to_pylist()) <= set(STATUSES)
    found.validate(full=True)


def counted(rows: list[tuple[str, int | None]]) -> ImageCounts:
    image_counts = ImageCounts()
    for start in range(0, len(rows), 2):
        part = rows[start : start + 2]
        image_counts.add(
            pa.table(
                {
                    "status": [name for name, _ in part],
                    "host": ["h" if name != "invalid_url" else None for name, _ in part],
                    "n_bytes": pa.array([10 if name == "ok" else None for name, _ in part], pa.int64()),
                    "n_faces": pa.array([faces for _, faces in part], pa.int32()),
                    "error": pa.array([None if name == "ok" else f"{name}!" for name, _ in part], pa.string()),
                }
            )
        )
    return image_counts


def test_funnel_counts_each_step() -> None:
    rows = [("ok", 0), ("ok", 1), ("ok", 1), ("ok", 3), ("gone", None), ("deleted", None), ("invalid_url", None)]
    image_counts = counted(rows)
    facts = image_counts.facts()
    assert facts["funnel"] == {"posts": 7, "present": 6, "fetched": 4, "with_face": 3, "one_face": 2}
    assert facts["n_faces"] == {"0": 1, "1": 2, "2+": 1}
    assert facts["statuses"] == {"ok": 4, "gone": 1, "deleted": 1, "invalid_url": 1}
    assert (facts["hosts"], facts["n_hosts"], facts["n_bytes"]) == ({"h": {"ok": 4, "gone": 1, "deleted": 1}}, 1, 40)
    assert funnel_text(facts) == (
        "Pictures: 7 posts, 6 present at the revisit (1 deleted), 4 fetched, 3 with a face, 2 with exactly one"
    )
    assert failure_lines(image_counts) == ["  1 gone: gone!", "  1 invalid_url: invalid_url!"]


def test_funnel_without_face_detection() -> None:
    facts = counted([("ok", None), ("ok", None)]).facts()
    assert (facts["funnel"]["with_face"], facts["funnel"]["one_face"]) == (None, None)
    assert funnel_text(facts) == "Pictures: 2 posts, 2 fetched; faces were not counted"


def test_funnel_of_failed_posts_is_zero() -> None:
    facts = counted([("gone", None)]).facts()
    assert facts["funnel"] == {"posts": 1, "present": 1, "fetched": 0, "with_face": 0, "one_face": 0}
