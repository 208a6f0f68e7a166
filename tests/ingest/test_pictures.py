"""Looking into bytes: formats, headers, whole and broken files, orientation, hashes."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageFile, PngImagePlugin, WebPImagePlugin

from raypipe.ingest.pictures import (
    FORMATS,
    breaks_off,
    examine,
    kind_of,
    orientation,
    perceptual_hash,
    to_rgb,
    upright_pixels,
)
from tests.ingest.conftest import picture

PIXELS = 50_000_000
SIZE = (320, 240)
VARIANTS = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {}),
    "lossless": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {}),
}
FILES = {name: picture(kind, SIZE, **options) for name, (kind, options) in VARIANTS.items()}  # type: ignore[arg-type]


def status(data: bytes, max_side: int | None = None) -> str:
    return examine(data, PIXELS, max_side)[0].status


def save(image: Image.Image, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A header that promises much, and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", VARIANTS)
def test_whole_pictures(name: str) -> None:
    data = FILES[name]
    found, pixels = examine(data, PIXELS, 1024)
    assert (found.status, found.error, found.format) == ("ok", None, VARIANTS[name][0])
    assert (found.width, found.height, found.n_bytes) == (*SIZE, len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.phash is not None
    assert 0 <= found.phash < 2**64
    assert pixels is not None
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(pixels), expected)
    assert examine(data, PIXELS, None) == (found, None)


@pytest.mark.parametrize("max_side", [None, 1024])
@pytest.mark.parametrize("name", VARIANTS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_file_cut_anywhere_is_truncated(name: str, max_side: int | None, data: st.DataObject) -> None:
    whole = FILES[name]
    # A cut within the last bytes may leave the picture whole and only the end marker gone.
    # AVIF's header is a tree of boxes of hundreds of bytes: cut within it, a file could be anything.
    header = len(whole) // 2 if name == "avif" else 16
    length = data.draw(st.integers(header, int(len(whole) * 0.95)))
    assert status(whole[:length], max_side) == "truncated"


@given(st.binary(max_size=300))
def test_any_bytes_get_a_status(data: bytes) -> None:
    found, pixels = examine(data, PIXELS, 1024)
    assert found.status in ("ok", "not_an_image", "truncated", "too_many_pixels")
    assert (found.error is None) == (found.status == "ok") == (pixels is not None)


@pytest.mark.parametrize("name", VARIANTS)
@given(place=st.integers(0, 10**6), noise=st.binary(min_size=1, max_size=64))
@settings(max_examples=15, deadline=None)
def test_damaged_files_get_a_status(name: str, place: int, noise: bytes) -> None:
    data = bytearray(FILES[name])
    start = place % len(data)
    data[start : start + len(noise)] = noise
    assert status(bytes(data), 1024) in ("ok", "not_an_image", "truncated", "too_many_pixels")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><title>Log in</title>",
        b"\x00" * 100,
        b"GIF",
        b"%PDF-1.7",
        save(Image.new("RGB", (9, 9)), "BMP"),
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    found, _ = examine(data, PIXELS, None)
    assert (found.status, found.format, found.phash) == ("not_an_image", None, None)
    assert found.error
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_a_broken_file_with_its_end_is_not_called_truncated() -> None:
    data = bytearray(FILES["png"])
    start = data.index(b"IDAT") + 4
    data[start : start + 20] = b"\xff" * 20
    found, _ = examine(bytes(data), PIXELS, None)
    assert found.status == "not_an_image"
    assert str(found.error).startswith("PNG cannot be decoded: ")


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_never_decoded(size: tuple[int, int]) -> None:
    found, pixels = examine(png_of_size(*size), PIXELS, 1024)
    assert (found.status, pixels, found.phash) == ("too_many_pixels", None, None)
    assert found.error


@pytest.mark.parametrize("name", VARIANTS)
def test_the_header_is_judged_before_anything_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    for plugin in (PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile, AvifImagePlugin.AvifImageFile):
        monkeypatch.setattr(plugin, "load", decode)
    assert examine(FILES[name], 1000, 1024)[0].status == "too_many_pixels"


def test_the_limit_on_pixels_is_exact() -> None:
    assert examine(FILES["jpeg"], 320 * 240, None)[0].status == "ok"
    found, _ = examine(FILES["jpeg"], 320 * 240 - 1, None)
    assert (found.status, found.width, found.height, found.format) == ("too_many_pixels", 320, 240, "JPEG")


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_followed(turn: int) -> None:
    upright = Image.open(io.BytesIO(FILES["png"])).convert("RGB")
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(back[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    data = save(stored, "PNG", exif=exif.tobytes())
    found, pixels = examine(data, PIXELS, 1024)
    assert (found.width, found.height) == SIZE
    assert pixels is not None
    np.testing.assert_array_equal(np.asarray(pixels), np.asarray(upright))
    plain, _ = examine(save(upright, "PNG"), PIXELS, None)
    assert found.phash is not None
    assert plain.phash is not None
    assert (found.phash ^ plain.phash).bit_count() <= 2


def test_broken_metadata_does_not_spoil_a_picture() -> None:
    data = save(Image.open(io.BytesIO(FILES["png"])), "JPEG", exif=b"Exif\x00\x00MM\x00*" + b"\xff" * 40)
    with Image.open(io.BytesIO(data)) as image:
        assert orientation(image) == 1
    assert status(data) == "ok"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_modes_become_rgb(mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) << 8)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    data = save(image, "JPEG" if mode == "CMYK" else "PNG")
    found, pixels = examine(data, PIXELS, 1024)
    assert found.status == "ok"
    assert pixels is not None
    assert pixels.mode == "RGB"
    brightness = np.asarray(pixels, dtype=float).mean(axis=(0, 2))
    assert brightness[:8].mean() < 40
    assert brightness[-8:].mean() > 215
    if mode == "I;16":
        np.testing.assert_array_equal(np.asarray(pixels)[:, :, 0], grey)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found, pixels = examine(data, PIXELS, 1024)
    assert (found.status, found.width, found.height) == ("ok", 30, 20)
    assert pixels is not None
    assert np.asarray(pixels)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(2000, 1000), (1000, 2000), (1025, 30), (3000, 150)])
def test_large_pictures_are_shrunk_to_the_longer_side(size: tuple[int, int]) -> None:
    data = picture("JPEG", size)
    found, pixels = examine(data, PIXELS, 1024)
    assert (found.width, found.height) == size
    assert pixels is not None
    assert max(pixels.size) == 1024
    scale = 1024 / max(size)
    assert pixels.size == (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    plain = Image.open(io.BytesIO(data)).convert("RGB").resize(pixels.size, Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(plain, dtype=float) - np.asarray(pixels, dtype=float))
    assert difference.mean() < 3


def test_a_small_picture_keeps_its_pixels() -> None:
    with Image.open(io.BytesIO(FILES["jpeg"])) as image:
        pixels = upright_pixels(image, 320)
    np.testing.assert_array_equal(np.asarray(pixels), np.asarray(to_rgb(Image.open(io.BytesIO(FILES["jpeg"])))))


def test_perceptual_hash_is_imagehash_s_but_for_few_bits(shared_data: Path) -> None:
    distances = []
    for path in sorted((shared_data / "portraits").glob("*.jpg"))[:40]:
        with Image.open(path) as image:
            mine = perceptual_hash(image)
        theirs = int(str(imagehash.phash(Image.open(path))), 16)
        distances.append((mine ^ theirs).bit_count())
    assert max(distances) <= 6


def test_perceptual_hash_knows_reposts_from_strangers(shared_data: Path) -> None:
    paths = sorted((shared_data / "portraits").glob("*.jpg"))[:30]
    originals = [Image.open(path).convert("RGB") for path in paths]
    hashes = [perceptual_hash(Image.open(io.BytesIO(save(image, "PNG")))) for image in originals]
    reposts = [
        perceptual_hash(Image.open(io.BytesIO(save(image.resize((180, 220)), "JPEG", quality=60))))
        for image in originals
    ]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, reposts, strict=True)) <= 8
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 8


@pytest.mark.parametrize("name", VARIANTS)
def test_kinds_and_ends(name: str) -> None:
    kind = VARIANTS[name][0]
    data = FILES[name]
    assert kind_of(data) == kind
    assert kind in FORMATS
    assert not breaks_off(data, kind)
    assert breaks_off(data[: len(data) // 2], kind)


def test_junk_behind_a_jpeg_is_no_end_missing() -> None:
    assert not breaks_off(FILES["jpeg"] + b"\x00" * 100, "JPEG")
    assert status(FILES["jpeg"] + b"\x00" * 100) == "ok"
