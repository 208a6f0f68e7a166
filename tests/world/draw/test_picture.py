"""Whole pictures: size, mode, determinism, and the number of faces that dlib's detector finds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raypipe.world.draw import MAX_FACES, draw_picture, encode_jpeg

dlib = pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def count_faces():
    detector = dlib.get_frontal_face_detector()
    return lambda image: len(detector(np.asarray(image), 1))


def _look(seed: int) -> float:
    return float(np.random.default_rng([seed, 1]).normal())


def _share_found(count_faces, n_faces: int, pictures: int, looks=None) -> float:
    found = 0
    for seed in range(pictures):
        look = _look(seed) if looks is None else looks[seed % len(looks)]
        image = draw_picture(np.random.default_rng([11, n_faces, seed]), n_faces=n_faces, look=look)
        found += count_faces(image) == n_faces
    return found / pictures


def test_exactly_one_face_in_portraits(count_faces):
    assert _share_found(count_faces, 1, 120) >= 0.99


def test_extreme_looks_keep_the_face_detectable(count_faces):
    assert _share_found(count_faces, 1, 40, looks=(-9.0, -2.5, 2.5, 9.0)) >= 0.97


@pytest.mark.parametrize("n_faces", [2, 3, 4])
def test_all_faces_of_a_group_are_found(count_faces, n_faces):
    assert _share_found(count_faces, n_faces, 14) >= 0.92


def test_scenes_have_no_face(count_faces):
    assert _share_found(count_faces, 0, 60) >= 0.98


@pytest.mark.parametrize("size", [(240, 240), (240, 360), (400, 300), (360, 540)])
def test_face_is_found_at_each_requested_size(count_faces, size):
    image = draw_picture(np.random.default_rng(5), n_faces=1, look=0.3, size=size)
    assert image.size == size
    assert count_faces(image) == 1


@pytest.mark.parametrize("n_faces", range(MAX_FACES + 1))
def test_same_random_state_gives_same_picture(n_faces):
    first, second = (draw_picture(np.random.default_rng(3), n_faces=n_faces, look=1.0) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    other = draw_picture(np.random.default_rng(4), n_faces=n_faces, look=1.0)
    assert other.size != first.size or other.tobytes() != first.tobytes()


@pytest.mark.parametrize("n_faces", [0, 1, 3])
def test_look_does_not_change_later_random_numbers(n_faces):
    after = []
    for look in (-2.0, 0.0, 2.0):
        rng = np.random.default_rng(8)
        draw_picture(rng, n_faces=n_faces, look=look)
        after.append(rng.random())
    assert len(set(after)) == 1


def test_default_sizes_and_shapes_vary():
    images = [draw_picture(np.random.default_rng(seed), n_faces=seed % 3, look=0.0) for seed in range(30)]
    assert {image.mode for image in images} == {"RGB"}
    assert all(240 <= min(image.size) <= 401 for image in images)
    assert len({round(image.width / image.height, 1) for image in images}) >= 4


def test_invalid_pictures_are_refused():
    with pytest.raises(ValueError, match="n_faces is 5"):
        draw_picture(np.random.default_rng(0), n_faces=5, look=0.0)
    with pytest.raises(ValueError, match="n_faces is -1"):
        draw_picture(np.random.default_rng(0), n_faces=-1, look=0.0)
    with pytest.raises(ValueError, match="96 pixels"):
        draw_picture(np.random.default_rng(0), n_faces=1, look=0.0, size=(400, 50))
    with pytest.raises(ValueError, match="look is nan"):
        draw_picture(np.random.default_rng(0), n_faces=1, look=float("nan"))


def test_encoded_pictures_are_jpeg_of_varied_quality():
    image = draw_picture(np.random.default_rng(0), n_faces=1, look=0.0)
    rng = np.random.default_rng(0)
    blobs = [encode_jpeg(image, rng) for _ in range(12)]
    assert len({len(blob) for blob in blobs}) >= 5
    opened = Image.open(io.BytesIO(blobs[0]))
    assert opened.format == "JPEG"
    assert opened.size == image.size
    difference = np.asarray(opened.convert("RGB"), dtype=float) - np.asarray(image, dtype=float)
    assert np.abs(difference).mean() < 6
