"""Every served picture is a valid JPEG with unique bytes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import pictures


def test_photos_have_unique_bytes_and_requested_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_BASES", 20)
    folder = pictures.photos(tmp_path, 50, 20_000)
    data = [(folder / pictures.path_of(number)).read_bytes() for number in range(50)]
    assert len({hashlib.sha256(item).digest() for item in data}) == 50
    assert 16_000 < np.mean([len(item) for item in data]) < 21_000
    for item in data:
        with Image.open(io.BytesIO(item)) as picture:
            picture.load()
            assert picture.size == (640, 480)
    assert pictures.digests(folder)[pictures.path_of(7)] == hashlib.sha256(data[7]).hexdigest()


def test_existing_pictures_are_reused(tmp_path: Path) -> None:
    folder = pictures.photos(tmp_path, 3, 20_000)
    marked = folder / pictures.path_of(0)
    marked.write_bytes(b"mine")
    pictures.photos(tmp_path, 3, 20_000)
    assert marked.read_bytes() == b"mine"
    pictures.photos(tmp_path, 4, 20_000)
    assert marked.read_bytes() != b"mine"


def test_comment_does_not_change_pixels(tmp_path: Path) -> None:
    plain = (pictures.faces(tmp_path, 1) / pictures.path_of(0)).read_bytes()
    with Image.open(io.BytesIO(plain)) as one, Image.open(io.BytesIO(pictures.with_comment(plain, "x"))) as other:
        assert max(one.size) == 640
        assert other.info["comment"] == b"x"
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_missing_disk_space_is_reported_in_advance(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="are needed; set another --work"):
        pictures.need_room(tmp_path, 1e18)
