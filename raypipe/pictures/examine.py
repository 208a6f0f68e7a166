"""Examines bytes that a server sent as a picture: their format, whether they are whole, and their pixels."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from raypipe.errors import InputError, one_line
from raypipe.pictures.formats import FORMATS, detect_any_format, detect_format, is_cut_off, png_chunks

try:
    from pillow_heif import register_heif_opener
except ImportError:  # an optional extra
    _HEIC = False
else:
    register_heif_opener()
    _HEIC = True

_ORIENTATION = 0x0112
_HASH_SIDE = 64
# EXIF orientation (CIPA DC-008, tag 274): how the stored picture is transposed to become upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
# Pillow calls a JPEG with further pictures after the first one MPO.
_JPEG = ("JPEG", "MPO")


@dataclass(frozen=True)
class PictureFacts:
    """Facts about the bytes of a picture. `status` is ``ok``, ``not_an_image``, ``truncated`` or ``too_many_pixels``.

    `width` and `height` are pixels of the upright picture (EXIF orientation applied), or of the stored picture if it
    has too many pixels. `format` is one of FORMATS. All three are None if the header could not be read. `phash` is the
    64-bit perceptual hash of the upright picture, or None if `status` is not ``ok`` or the hash was not requested.
    """

    status: str
    error: str | None
    sha256: str
    n_bytes: int
    format: str | None = None
    width: int | None = None
    height: int | None = None
    phash: int | None = None


def examine(
    data: bytes | memoryview, max_pixels: int, *, max_side: int | None, phash: bool
) -> tuple[PictureFacts, Image.Image | None]:
    """The facts about `data`, and its upright RGB pixels if `max_side` is not None and `data` is a whole picture.

    The pixels are shrunk if the longer side has more than `max_side` pixels. If neither pixels nor `phash` are
    requested, nothing is decoded: the header is read, and the file counts as whole if it reaches the end that it
    announces (`formats.is_cut_off`). Otherwise it counts as whole if it can be decoded (of an animation, the first
    frame). A picture of more than `max_pixels` is never decoded.
    """
    raw = bytes(data)
    facts = functools.partial(PictureFacts, sha256=hashlib.sha256(raw).hexdigest(), n_bytes=len(raw))
    kind = detect_format(raw)
    if kind is None or kind in _missing_codecs():
        return facts("not_an_image", _format_error(raw, kind)), None
    try:
        # Pillow warns about unusual files. The code below decides whether it is a picture.
        with warnings.catch_warnings(action="ignore"), _open(raw, kind) as image:
            width, height = image.size
            facts = functools.partial(facts, format=kind, width=width, height=height)
            if width * height > max_pixels:
                return facts("too_many_pixels", f"{width} × {height} pixels, {max_pixels:,} are allowed"), None
            decoded = phash or max_side is not None
            if not decoded and is_cut_off(raw, kind):
                return facts("truncated", f"{kind} is cut off before its end"), None
            if (orientation(image) if decoded else _orientation_in_header(image, raw)) in _ON_ITS_SIDE:
                facts = functools.partial(facts, width=height, height=width)
            pixels = None if max_side is None else upright_pixels(image, max_side)
            if not phash:
                return facts("ok", None), pixels
            # The hash must not depend on `max_side`, so the file is opened again if the pixels were decoded.
            with _open(raw, kind) as again:
                return facts("ok", None, phash=perceptual_hash(again if pixels else image)), pixels
    except Image.DecompressionBombError as error:
        return facts("too_many_pixels", one_line(error)), None
    except Exception as error:  # bytes from strangers can raise any error in a decoder; the result reports it
        return _broken_facts(facts, raw, kind, error), None


def open_picture(raw: bytes) -> Image.Image:
    """Open a picture in one of FORMATS, or BMP or TIFF, without decoding it.

    Raises InputError for other bytes, and Pillow's errors. Pillow's forty other formats are refused, because it runs
    other programs (EPS) and poorly maintained libraries for them.
    """
    kind = detect_any_format(raw)
    if kind is None or kind in _missing_codecs():
        raise InputError(_format_error(raw, kind))
    return _open(raw, kind)


def _open(raw: bytes, kind: str) -> Image.Image:
    return Image.open(io.BytesIO(raw), formats=("HEIF" if kind == "HEIC" else kind,))


@functools.cache
def _missing_codecs() -> dict[str, str]:
    """The package to install for each format that the libraries of this machine cannot read."""
    found = {kind: "a Pillow that supports it" for kind in ("WEBP", "AVIF") if not features.check(kind.lower())}
    return found if _HEIC else found | {"HEIC": "pillow-heif: pip install 'raypipe[heic]'"}


def _format_error(raw: bytes, kind: str | None) -> str:
    if kind is not None:
        return f"{kind} cannot be decoded on this machine: it needs {_missing_codecs()[kind]}"
    return f"is none of {', '.join(FORMATS)}; begins with {raw[:16]!r}" if raw else "is empty"


def _broken_facts(facts: functools.partial[PictureFacts], raw: bytes, kind: str, error: Exception) -> PictureFacts:
    reason = "its header is broken" if isinstance(error, UnidentifiedImageError) else one_line(error)
    cut = "truncated" in reason.lower() or is_cut_off(raw, kind)
    return facts("truncated" if cut else "not_an_image", f"{kind} cannot be decoded: {reason}")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is still to be applied. 1 if the picture has none that can be read.

    Raises the errors of decoding a PNG or a TIFF.
    """
    if image.format in ("PNG", "TIFF"):
        # The EXIF of a PNG may come after the pixels. Pillow decodes them to find it, and broken pixels must not
        # count as broken metadata. Pillow turns a TIFF itself when it decodes it.
        image.load()
    return _orientation_read(image)


def _orientation_in_header(image: Image.Image, raw: bytes) -> int:
    """As `orientation`, but without decoding. Finds the EXIF chunk of a PNG also after its pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        image.info.update(("exif", contents) for name, contents in png_chunks(raw) if name == b"eXIf")
    return _orientation_read(image)


def _orientation_read(image: Image.Image) -> int:
    try:
        # The method of the base class, because that of a PNG decodes the pixels first.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
        return int(value) if value in _UPRIGHT else 1
    except Exception:  # the metadata are broken but the picture may be fine: it is not turned
        return 1


def upright_rgb(data: bytes, side: int) -> Image.Image:
    """The upright RGB pixels of a picture. A JPEG may be decoded to a smaller size of at least `side` × `side`.

    Unreadable metadata are ignored. Raises InputError if the bytes are not a whole picture in a format of
    `open_picture`, or if they have more pixels than Pillow opens.
    """
    try:
        with open_picture(data) as image:
            shrink_on_load(image, "RGB", (side, side))
            return upright_pixels(image, max(image.size))
    except UnidentifiedImageError as error:
        # Pillow's own message contains a memory address, which differs between processes.
        raise InputError("picture cannot be decoded: its header is broken") from error
    except Exception as error:  # bytes from strangers can raise any error in a decoder
        raise InputError(f"picture cannot be decoded: {one_line(error)}") from error


def upright_pixels(image: Image.Image, max_side: int) -> Image.Image:
    """An opened picture as upright RGB, shrunk if its longer side has more than `max_side` pixels."""
    # Pillow's exif_transpose is not used, because it rewrites the EXIF and fails on invalid tags.
    transposition = _UPRIGHT.get(orientation(image))
    longest = max(image.size)
    wanted = image.size
    if longest > max_side:
        wanted = _scaled(image.size, max_side / longest)
        shrink_on_load(image, "RGB", wanted)
    pixels = to_rgb(image)
    if pixels.size != wanted:
        pixels = pixels.resize(wanted, Image.Resampling.BILINEAR)
    return pixels if transposition is None else pixels.transpose(transposition)


def shrink_on_load(image: Image.Image, mode: str, size: tuple[int, int]) -> None:
    """Let an opened JPEG be decoded at a half, a quarter or an eighth of its size if that is at least `size`.

    No-op for other formats, because a HEIC would give its thumbnail, which may show another picture.
    """
    if image.format in _JPEG:
        image.draft(mode, size)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened picture to 8-bit RGB. Alpha is dropped. 16-bit grey keeps its high bytes."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def perceptual_hash(image: Image.Image) -> int:
    """The 64-bit DCT hash (imagehash.phash) of an opened picture, after it is upright and 64 × 64 grey pixels.

    Bit 63 is the first bit of the hash. The hashes of near duplicates differ in few bits. The hash of the full-size
    picture also differs from this one in few bits.
    """
    # Imported here because it imports scipy, which is slow, and training may run without imagehash installed.
    import imagehash

    transposition = _UPRIGHT.get(orientation(image))
    shrink_on_load(image, "L", (_HASH_SIDE, _HASH_SIDE))
    grey = image if image.mode == "L" else to_rgb(image).convert("L")
    small = grey.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX)
    bits = imagehash.phash(small if transposition is None else small.transpose(transposition)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
