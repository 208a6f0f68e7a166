"""The face detector against dlib called directly, on real portraits and generated pictures."""

from __future__ import annotations

import io
from pathlib import Path

import dlib
import numpy as np
import pytest
from PIL import Image

from raypipe.config import FaceOptions
from raypipe.ingest.faces import FaceDetector
from raypipe.ingest.pictures import examine
from raypipe.world.draw import draw_picture


@pytest.fixture(scope="module")
def portraits(shared_data: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((shared_data / "portraits").glob("*.jpg"))[::40]]


def detect(data: bytes, **options: int) -> tuple[list[tuple[int, int, int, int]], list[float]]:
    faces = FaceOptions(**options)  # type: ignore[arg-type]
    found, pixels = examine(data, 50_000_000, faces.max_side)
    assert pixels is not None
    assert found.width is not None
    assert found.height is not None
    seen = FaceDetector(faces).detect(pixels, (found.width, found.height))
    return [(face.left, face.top, face.right, face.bottom) for face in seen], [face.score for face in seen]


@pytest.mark.parametrize("upsample", [0, 1])
def test_the_same_as_dlib_itself(portraits: list[bytes], upsample: int) -> None:
    bare = dlib.get_frontal_face_detector()
    for data in portraits:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        boxes, scores = detect(data, upsample=upsample)
        assert boxes == [(b.left(), b.top(), b.right(), b.bottom()) for b in bare(pixels, upsample)]
        np.testing.assert_allclose(scores, bare.run(pixels, upsample, 0.0)[1], rtol=1e-6)
        assert all(score > 0 for score in scores)


def test_one_face_in_each_portrait(portraits: list[bytes]) -> None:
    assert {len(detect(data)[0]) for data in portraits} == {1}


def test_boxes_come_back_in_the_original_s_pixels(portraits: list[bytes]) -> None:
    image = Image.open(io.BytesIO(portraits[0])).convert("RGB").resize((900, 1100), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    image.save(sink, "PNG")
    (full,), _ = detect(sink.getvalue(), upsample=0, max_side=1100)
    (shrunk,), _ = detect(sink.getvalue(), upsample=0, max_side=400)
    width = full[2] - full[0]
    assert max(abs(a - b) for a, b in zip(full, shrunk, strict=True)) < 0.2 * width


def test_upsampling_finds_smaller_faces(portraits: list[bytes]) -> None:
    small = Image.open(io.BytesIO(portraits[0])).convert("RGB").resize((64, 78), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    small.save(sink, "PNG")
    assert len(detect(sink.getvalue(), upsample=0)[0]) == 0
    assert len(detect(sink.getvalue(), upsample=1)[0]) == 1


@pytest.mark.parametrize("n_faces", [0, 1, 3])
def test_generated_pictures(n_faces: int) -> None:
    image = draw_picture(np.random.default_rng(5), n_faces=n_faces, look=0.0)
    detector = FaceDetector(FaceOptions())
    found = detector.detect(image, image.size)
    assert len(found) == n_faces
    assert len(found) == len(dlib.get_frontal_face_detector()(np.asarray(image), 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (9, 9)])
def test_tiny_pictures_have_no_face(size: tuple[int, int]) -> None:
    assert FaceDetector(FaceOptions()).detect(Image.new("RGB", size), size) == []
