import contextlib
import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageOps

from raypipe.errors import InputError
from raypipe.export.safe_names import extension
from raypipe.train.data.images import decode_and_resize, image_set, prepare_batch
from raypipe.train.data.preprocessing import CAFFE_BGR, TORCHVISION, Preprocessing
from tests.ingest.files import exif_of


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width: int = 60, height: int = 40) -> Image.Image:
    """The left half is red, the right half is blue."""
    image = Image.new("RGB", (width, height), (250, 0, 0))
    image.paste((0, 0, 250), (width // 2, 0, width, height))
    return image


def test_picture_is_squeezed_not_cropped() -> None:
    pixels = decode_and_resize(encoded(halves(100, 20)), 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.uint8
    assert (pixels[0, :, :15] == 250).all()
    assert (pixels[2, :, 17:] == 250).all()


def test_exif_orientation_is_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees to the right: left becomes top
    pixels = decode_and_resize(encoded(halves(), "JPEG", exif=exif.tobytes(), quality=95), 32)
    assert pixels[0, 2].mean() > 200
    assert pixels[2, -3].mean() > 200


def mistyped(tag: int) -> bytes:
    """EXIF with two tags: orientation 6, and `tag`, which should be a number but is text."""
    entries = sorted([(tag, 2, 4, b"abc\0"), (0x0112, 3, 1, b"\0\6\0\0")])
    rows = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("tag", [0x0100, 0x011A])  # ImageWidth, XResolution
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_other_exif_tags_of_wrong_type_are_ignored(kind: str, tag: int) -> None:
    data = encoded(halves(), kind, exif=mistyped(tag), quality=95)
    pixels = decode_and_resize(data, 32)
    assert pixels[0, 2].mean() > 200
    assert pixels[2, -3].mean() > 200


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_orientation_equals_pillow(kind: str, turn: int) -> None:
    rng = np.random.default_rng(turn)
    picture = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((400, 300))
    data = encoded(picture, kind, exif=exif_of(turn), quality=95)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (64, 64))
        theirs = ImageOps.exif_transpose(image).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_and_resize(data, 32), np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("error", [struct.error("odd"), TypeError("odd"), IndexError("odd"), KeyError("odd")])
def test_any_decoder_exception_becomes_input_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(InputError, match=r"picture cannot be decoded: .*odd"):
        decode_and_resize(encoded(halves()), 32)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_and_resize(encoded(halves().convert(mode), kind), 16).shape == (3, 16, 16)


@pytest.mark.parametrize("turn", [1, 6])
def test_sixteen_bits_of_grey_are_not_clipped_to_white(turn: int) -> None:
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint16) << 8, (64, 1))
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = decode_and_resize(encoded(Image.fromarray(grey), exif=exif.tobytes()), 64)
    expected = np.repeat((grey >> 8)[None], 3, axis=0)
    # Shown rotated by 90 degrees to the right: left becomes top.
    np.testing.assert_array_equal(pixels, expected if turn == 1 else expected.transpose(0, 2, 1))


def test_heic_is_decoded_whole_and_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_and_resize(encoded(halves(), "HEIF", exif=exif.tobytes(), quality=95), 32)
    assert pixels[0, 2].mean() > 200
    assert pixels[2, -3].mean() > 200


def test_reduced_decoding_changes_pixels_little() -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    data = encoded(small.resize((900, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as whole:
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR), dtype=float).transpose(2, 0, 1)
    assert np.abs(decode_and_resize(data, 64) - expected).mean() < 1.0


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands for the program")
def test_decoding_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, marker = tmp_path / "gs", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\necho >> {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    postscript = encoded(halves(), "EPS")
    with pytest.raises(InputError, match=r"cannot be decoded: is none of JPEG, PNG, .*begins with b'%!PS-Adobe"):
        decode_and_resize(postscript, 32)
    assert extension(None, postscript) == "bin"
    assert not marker.exists()
    # Without the list of formats, the program would run.
    with contextlib.suppress(OSError), Image.open(io.BytesIO(postscript)) as image:
        image.load()
    assert marker.exists()


@pytest.mark.parametrize("kind", ["PPM", "PCX", "SGI", "ICO", "TGA", "DDS"])
def test_pictures_of_other_formats_are_refused(kind: str) -> None:
    data = encoded(halves(), kind)
    with pytest.raises(InputError, match="cannot be decoded: is none of JPEG, PNG"):
        decode_and_resize(data, 32)
    assert extension(None, data) == "bin"


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_incomplete_picture_raises_error(damage: str) -> None:
    whole = encoded(halves(600, 400), "JPEG")
    data = {"empty": b"", "text": b"<html>not found</html>", "truncated": whole[: len(whole) // 2]}[damage]
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_and_resize(data, 32)


def test_mismatched_pictures_and_labels_are_refused() -> None:
    images = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    with pytest.raises(InputError, match="2 pictures, 1 labels"):
        image_set(images, np.array([1.0]), ["a", "b"])
    with pytest.raises(InputError, match="neither 0 nor 1"):
        image_set(images, np.array([1.0, 0.5]), ["a", "b"])
    with pytest.raises(InputError, match="a class has a negative number"):
        image_set(images, np.array([1, -1]), ["a", "b"], np.int64)
    with pytest.raises(InputError, match="a score is not finite"):
        image_set(images, np.array([1.0, np.nan]), ["a", "b"], np.float64)
    with pytest.raises(InputError, match=r"float64 \[n\], found torch.float64 \[2, 1\]"):
        image_set(images, np.array([[1.0], [2.0]]), ["a", "b"], np.float64)
    with pytest.raises(InputError, match=r"uint8 \[n, 3, s, s\]"):
        image_set(images[:, :1], np.array([1.0, 0.0]), ["a", "b"])


@given(seed=st.integers(0, 10_000))
def test_normalisation_equals_manual_computation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    flips = rng.random(4) < 0.5
    ours = prepare_batch(torch.from_numpy(images), TORCHVISION, torch.from_numpy(flips)).numpy()
    for row in range(4):
        picture = images[row, :, :, ::-1] if flips[row] else images[row]
        for channel in range(3):
            expected = (picture[channel] / 255 - TORCHVISION.mean[channel]) / TORCHVISION.std[channel]
            np.testing.assert_allclose(ours[row, channel], expected, rtol=1e-4, atol=1e-5)


def test_caffe_preprocessing_is_bgr_minus_mean() -> None:
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    found = prepare_batch(images, CAFFE_BGR).flatten().tolist()
    assert found == pytest.approx([30 - 103.939, 20 - 116.779, 10 - 123.68], rel=1e-6)


def test_batch_is_channels_last_and_has_requested_dtype() -> None:
    batch = prepare_batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), Preprocessing((0, 0, 0)), dtype=torch.bfloat16)
    assert batch.dtype == torch.bfloat16
    assert batch.is_contiguous(memory_format=torch.channels_last)
    first = prepare_batch(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        CAFFE_BGR,
        torch.tensor([True, False]),
        memory_format=torch.contiguous_format,
    )
    assert first.is_contiguous()


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_picture_formats_are_read(kind: str) -> None:
    data = encoded(halves(), kind)
    assert decode_and_resize(data, 32).shape == (3, 32, 32)
    assert extension(None, data) == kind.lower()
