"""Examining bytes: formats, headers, whole and broken files, orientation, hashes."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageFile, PngImagePlugin, WebPImagePlugin

from raypipe.pictures.examine import PictureFacts, examine, orientation, to_rgb, upright_pixels
from tests.ingest.conftest import picture
from tests.ingest.files import FILES, KINDS, SIZE, exif_of, png_chunk, save

PIXELS = 50_000_000
ASKED = [(None, False), (None, True), (1024, False), (1024, True)]
STATUSES = ("ok", "not_an_image", "truncated", "too_many_pixels")


def look(data: bytes | memoryview, max_side: int | None = 1024, phash: bool = True) -> tuple[PictureFacts, Image.Image]:
    """Call `examine` and check that it returns pixels."""
    found, pixels = examine(data, PIXELS, max_side=max_side, phash=phash)
    assert pixels is not None, found
    return found, pixels


def status(data: bytes, max_side: int | None = None, phash: bool = False) -> str:
    return examine(data, PIXELS, max_side=max_side, phash=phash)[0].status


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a picture is decoded."""

    def decode(*_: object) -> None:
        pytest.fail("decoded")

    plugins = (PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile, AvifImagePlugin.AvifImageFile)
    for plugin in (ImageFile.ImageFile, *plugins, pillow_heif.HeifImageFile):
        monkeypatch.setattr(plugin, "load", decode)


@pytest.mark.parametrize("name", FILES)
def test_whole_pictures_are_ok(name: str) -> None:
    data = FILES[name]
    found, pixels = look(data)
    assert (found.status, found.error, found.format) == ("ok", None, KINDS[name])
    assert (found.width, found.height, found.n_bytes) == (*SIZE, len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.phash is not None
    assert 0 <= found.phash < 2**64
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(pixels), expected)


@pytest.mark.parametrize("name", FILES)
def test_requested_pixels_and_hash_change_no_other_facts(name: str) -> None:
    data = memoryview(FILES[name])
    whole, _ = look(data)
    for max_side, phash in ASKED:
        found, pixels = examine(data, PIXELS, max_side=max_side, phash=phash)
        assert (pixels is None) == (max_side is None)
        assert found.phash == (whole.phash if phash else None)
        assert PictureFacts(**(vars(found) | {"phash": whole.phash})) == whole


def test_animation_without_end_is_ok_only_when_decoded() -> None:
    data = FILES["animated gif"][:-1]
    assert [status(data, *asked) for asked in ASKED] == ["truncated", "ok", "ok", "ok"]


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("name", FILES)
def test_examine_does_not_decode_unless_requested(name: str) -> None:
    assert status(FILES[name]) == "ok"
    assert status(FILES[name][:-2]) == "truncated"


@pytest.mark.parametrize(("max_side", "phash"), ASKED)
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=15)
def test_a_file_cut_anywhere_is_truncated(name: str, max_side: int | None, phash: bool, data: st.DataObject) -> None:
    whole = FILES[name]
    # For a decoder, a cut near the end may only remove the end marker. Of an animation it reads the first frame.
    decoded = phash or max_side is not None
    last = len(whole) // 3 if "animated" in name else int(len(whole) * 0.95)
    length = data.draw(st.integers(16, last if decoded else len(whole) - 1))
    assert status(whole[:length], max_side, phash) == "truncated"


@given(st.binary(max_size=300))
def test_any_bytes_give_a_status(data: bytes) -> None:
    found, pixels = examine(data, PIXELS, max_side=1024, phash=True)
    assert found.status in STATUSES
    assert (found.error is None) == (found.status == "ok") == (pixels is not None)
    assert status(data) in STATUSES


@pytest.mark.parametrize("name", FILES)
@given(place=st.integers(0, 10**6), noise=st.binary(min_size=1, max_size=64))
@settings(max_examples=15)
def test_damaged_files_get_a_status(name: str, place: int, noise: bytes) -> None:
    data = bytearray(FILES[name])
    start = place % len(data)
    data[start : start + len(noise)] = noise
    assert status(bytes(data), 1024) in STATUSES
    assert status(bytes(data)) in STATUSES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><title>Log in</title>",
        b"\x00" * 100,
        b"GIF",
        b"%PDF-1.7",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + b"\x00" * 100,
        b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\x00" * 28,
        save(Image.new("RGB", (9, 9)), "BMP"),
    ],
)
def test_non_picture_bytes_are_not_an_image(data: bytes) -> None:
    found, _ = examine(data, PIXELS, max_side=None, phash=False)
    assert (found.status, found.format, found.phash) == ("not_an_image", None, None)
    assert found.error in ("is empty", f"is none of JPEG, PNG, WEBP, GIF, AVIF, HEIC; begins with {data[:16]!r}")
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_complete_but_corrupt_file_is_not_truncated() -> None:
    data = bytearray(FILES["png"])
    start = data.index(b"IDAT") + 4
    data[start : start + 20] = b"\xff" * 20
    found, _ = examine(bytes(data), PIXELS, max_side=None, phash=True)
    assert found.status == "not_an_image"
    assert str(found.error).startswith("PNG cannot be decoded: ")


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_pictures_over_pixel_limit_are_not_decoded(size: tuple[int, int]) -> None:
    found, pixels = examine(png(*size, 8, 2, b""), PIXELS, max_side=1024, phash=True)
    assert (found.status, pixels, found.phash) == ("too_many_pixels", None, None)
    assert found.error


def test_canvas_size_is_read_from_webp_header() -> None:
    side = struct.pack("<I", 16383)[:3]
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\x02\x00\x00\x00" + side + side
    data = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    assert status(data, 1024) == "too_many_pixels"


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("name", FILES)
def test_pixel_limit_is_checked_before_decoding(name: str) -> None:
    assert examine(FILES[name], 1000, max_side=1024, phash=True)[0].status == "too_many_pixels"


@pytest.mark.parametrize(("max_side", "phash"), ASKED)
def test_the_limit_on_pixels_is_exact(max_side: int | None, phash: bool) -> None:
    data = FILES["jpeg"]
    assert examine(data, 320 * 240, max_side=max_side, phash=phash)[0].status == "ok"
    found, _ = examine(data, 320 * 240 - 1, max_side=max_side, phash=phash)
    assert (found.status, found.width, found.height, found.format) == ("too_many_pixels", 320, 240, "JPEG")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG behind", "WEBP", "AVIF", "HEIF"])
def test_exif_orientation_is_followed(kind: str, turn: int) -> None:
    upright = Image.open(io.BytesIO(FILES["png"])).convert("RGB")
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(back[turn]))
    exif = exif_of(turn)
    if kind == "PNG behind":
        whole = save(stored, "PNG")
        data = whole[:-12] + png_chunk(b"eXIf", exif.removeprefix(b"Exif\x00\x00")) + whole[-12:]
    else:
        data = save(stored, kind, exif=exif, quality=95)
    found, pixels = look(data)
    assert (found.width, found.height) == SIZE == pixels.size
    assert np.abs(np.asarray(pixels, dtype=float) - np.asarray(upright, dtype=float)).mean() < 4
    undecoded, _ = examine(data, PIXELS, max_side=None, phash=False)
    assert (undecoded.status, undecoded.width, undecoded.height) == ("ok", *SIZE)
    plain, _ = examine(save(upright, "PNG"), PIXELS, max_side=None, phash=True)
    assert found.phash is not None
    assert plain.phash is not None
    assert (found.phash ^ plain.phash).bit_count() <= 4


@given(
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    turn=st.integers(0, 9),
    progressive=st.booleans(),
    more=st.booleans(),
)
def test_jpeg_header_facts_equal_decoded_facts(
    mode: str, size: tuple[int, int], turn: int, progressive: bool, more: bool
) -> None:
    image = Image.new(mode, size)
    # MPO holds a second picture after the first.
    frames = {"save_all": True, "append_images": [image]} if more else {}
    data = save(image, "MPO" if more else "JPEG", exif=exif_of(turn), progressive=progressive, **frames)
    undecoded, _ = examine(data, PIXELS, max_side=None, phash=False)
    decoded, pixels = look(data, 1024, phash=False)
    assert undecoded == decoded
    assert (undecoded.width, undecoded.height) == pixels.size
    assert (undecoded.status, undecoded.format) == ("ok", "JPEG")


def test_broken_metadata_does_not_matter() -> None:
    data = save(Image.open(io.BytesIO(FILES["png"])), "JPEG", exif=b"Exif\x00\x00MM\x00*" + b"\xff" * 40)
    with Image.open(io.BytesIO(data)) as image:
        assert orientation(image) == 1
    assert status(data) == "ok"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_all_modes_are_converted_to_rgb(mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) << 8)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    data = save(image, "JPEG" if mode == "CMYK" else "PNG")
    # In a CMYK JPEG, Adobe's marker means that 255 is no ink.
    assert (b"Adobe" in data) == (mode == "CMYK")
    found, pixels = look(data)
    assert found.status == "ok"
    assert pixels.mode == "RGB"
    brightness = np.asarray(pixels, dtype=float).mean(axis=(0, 2))
    assert brightness[:8].mean() < 40
    assert brightness[-8:].mean() > 215
    if mode == "I;16":
        np.testing.assert_array_equal(np.asarray(pixels)[:, :, 0], grey)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_channels_keep_their_high_bits(colour: int, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (9, 7, channels))
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    found, pixels = look(png(7, 9, 16, colour, zlib.compress(rows)))
    assert found.status == "ok"
    high = (values >> 8)[:, :, :3] if channels > 2 else np.repeat((values >> 8)[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(pixels), high)


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff\x10"])
@pytest.mark.filterwarnings("error")
def test_a_palette_s_transparency_is_dropped(transparency: int | bytes) -> None:
    image = Image.open(io.BytesIO(FILES["png"])).convert("RGB").quantize(4)
    data = save(image, "PNG", transparency=transparency)
    np.testing.assert_array_equal(np.asarray(look(data)[1]), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_heic_of_other_modes(mode: str) -> None:
    image = Image.open(io.BytesIO(FILES["png"])).convert("L").convert(mode)
    found, pixels = look(save(image, "HEIF", quality=95))
    assert (found.status, found.format) == ("ok", "HEIC")
    assert np.abs(np.asarray(pixels, dtype=float) - np.asarray(image.convert("RGB"), dtype=float)).mean() < 4


def test_heic_thumbnail_is_not_used() -> None:
    image = Image.open(io.BytesIO(FILES["png"])).convert("RGB").resize((900, 600))
    found, pixels = look(save(image, "HEIF", quality=95, thumbnails=[160]), max_side=100)
    expected = to_rgb(Image.open(io.BytesIO(save(image, "HEIF", quality=95)))).resize(
        pixels.size, Image.Resampling.BILINEAR
    )
    np.testing.assert_array_equal(np.asarray(pixels), np.asarray(expected))
    assert (found.width, found.height) == (900, 600)


def test_heic_without_library_names_package_to_install(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(FILES["heic"])
    program = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from pathlib import Path
from raypipe.pictures.examine import examine
found, _ = examine(Path(sys.argv[1]).read_bytes(), 10**6, max_side=1024, phash=True)
print(found.status, found.format, found.error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")], capture_output=True, text=True, check=True
    )
    error = "HEIC cannot be decoded on this machine: it needs pillow-heif: pip install 'raypipe[heic]'"
    assert done.stdout.strip() == f"not_an_image None {error}"


def test_first_frame_of_animation_is_used() -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found, pixels = look(data)
    assert (found.status, found.width, found.height) == ("ok", 30, 20)
    assert np.asarray(pixels)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(2000, 1000), (1000, 2000), (1025, 30), (3000, 150)])
def test_large_pictures_are_shrunk_to_the_longer_side(size: tuple[int, int]) -> None:
    data = picture("JPEG", size)
    found, pixels = look(data)
    assert (found.width, found.height) == size
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
