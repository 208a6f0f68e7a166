"""Looking into bytes that a server called a picture: what they are, whether they are whole, and what they show."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from raypipe.errors import InputError, one_line
from raypipe.pictures.formats import FORMATS, breaks_off, kind_of, png_chunks, stored_kind_of

try:
    from pillow_heif import register_heif_opener
except ImportError:  # an optional extra
    _HEIC = False
else:
    register_heif_opener()
    _HEIC = True

_ORIENTATION = 0x0112
_HASH_SIDE = 64
# EXIF orientation, by how the stored picture is turned to stand upright (CIPA DC-008, tag 274).
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
# MPO is how Pillow calls a JPEG that carries further pictures behind the first.
_JPEG = ("JPEG", "MPO")


@dataclass(frozen=True)
class Picture:
    """What the bytes of an answer hold. `status` is ``ok``, ``not_an_image``, ``truncated`` or ``too_many_pixels``.

    `width` and `height` are pixels of the upright picture (EXIF orientation followed; as stored where it has too many),
    None where no header tells; so is `format`, one of FORMATS.
    `phash` is the 64-bit perceptual hash of the upright picture, None where it is not ``ok`` or was not asked for.
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
) -> tuple[Picture, Image.Image | None]:
    """What `data` is, and its upright RGB pixels where `max_side` asks for them and it is a whole picture.

    The pixels are those of the file, unless its longer side has more than `max_side`: then they are shrunk to that.
    Where neither pixels nor `phash` are asked for, nothing is decoded: the header is read, and a file is whole where it
    reaches the end that it announces (`endings.breaks_off`). Otherwise it is whole where it can be decoded; of an
    animation, its first frame. A picture of more than `max_pixels` is never decoded.
    """
    raw = bytes(data)
    seen = functools.partial(Picture, sha256=hashlib.sha256(raw).hexdigest(), n_bytes=len(raw))
    kind = kind_of(raw)
    if kind is None or kind in _lacking():
        return seen("not_an_image", _stranger(raw, kind)), None
    try:
        # Pillow warns of what is odd in a file; whether it is a picture is told below.
        with warnings.catch_warnings(action="ignore"), _open(raw, kind) as image:
            width, height = image.size
            seen = functools.partial(seen, format=kind, width=width, height=height)
            if width * height > max_pixels:
                return seen("too_many_pixels", f"{width} × {height} pixels, {max_pixels:,} are allowed"), None
            decoded = phash or max_side is not None
            if not decoded and breaks_off(raw, kind):
                return seen("truncated", f"{kind} breaks off before its end"), None
            if (orientation(image) if decoded else _orientation_in_header(image, raw)) in _ON_ITS_SIDE:
                seen = functools.partial(seen, width=height, height=width)
            pixels = None if max_side is None else upright_pixels(image, max_side)
            if not phash:
                return seen("ok", None), pixels
            # The hash is that of the file whatever `max_side` made of the pixels.
            with _open(raw, kind) as again:
                return seen("ok", None, phash=perceptual_hash(again if pixels else image)), pixels
    except Image.DecompressionBombError as error:
        return seen("too_many_pixels", one_line(error)), None
    except Exception as error:  # a decoder meets whatever strangers send; what it met is kept
        return _broken(seen, raw, kind, error), None


def open_picture(raw: bytes) -> Image.Image:
    """A picture in one of FORMATS, or BMP or TIFF, opened and not decoded.

    Raises InputError on other bytes, and what Pillow raises.

    Pillow knows forty formats more, for which it runs other programs (EPS) and libraries that few look after.
    """
    kind = stored_kind_of(raw)
    if kind is None or kind in _lacking():
        raise InputError(_stranger(raw, kind))
    return _open(raw, kind)


def _open(raw: bytes, kind: str) -> Image.Image:
    return Image.open(io.BytesIO(raw), formats=("HEIF" if kind == "HEIC" else kind,))


@functools.cache
def _lacking() -> dict[str, str]:
    """What would have to be installed, for each format that this machine's libraries cannot read."""
    found = {kind: "a Pillow that was built with it" for kind in ("WEBP", "AVIF") if not features.check(kind.lower())}
    return found if _HEIC else found | {"HEIC": "pillow-heif: pip install 'raypipe[heic]'"}


def _stranger(raw: bytes, kind: str | None) -> str:
    if kind is not None:
        return f"{kind} cannot be decoded here: it needs {_lacking()[kind]}"
    return f"is none of {', '.join(FORMATS)}; begins with {raw[:16]!r}" if raw else "is empty"


def _broken(seen: functools.partial[Picture], raw: bytes, kind: str, error: Exception) -> Picture:
    reason = "its header is broken" if isinstance(error, UnidentifiedImageError) else one_line(error)
    cut = "truncated" in reason.lower() or breaks_off(raw, kind)
    return seen("truncated" if cut else "not_an_image", f"{kind} cannot be decoded: {reason}")


def orientation(image: Image.Image) -> int:
    """How the picture has still to be turned, EXIF's 1 to 8; 1 where it has nothing on it that can be read.

    Raises what decoding a PNG or a TIFF does.
    """
    if image.format in ("PNG", "TIFF"):
        # A PNG's EXIF may stand behind the pixels, so Pillow decodes them to find it: broken pixels must not pass as
        # broken metadata. A TIFF it turns by itself as it decodes it.
        image.load()
    return _orientation_read(image)


def _orientation_in_header(image: Image.Image, raw: bytes) -> int:
    """As `orientation`, without decoding: of what a PNG has behind its pixels, the EXIF chunk is found."""
    if image.format == "PNG" and "exif" not in image.info:
        image.info.update(("exif", contents) for name, contents in png_chunks(raw) if name == b"eXIf")
    return _orientation_read(image)


def _orientation_read(image: Image.Image) -> int:
    try:
        # Not the image's own getexif: a PNG's decodes the pixels first.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
        return int(value) if value in _UPRIGHT else 1
    except Exception:  # broken metadata of a picture that is fine: it stands as it is stored
        return 1


def upright_rgb(data: bytes, side: int) -> Image.Image:
    """The upright RGB pixels of a picture, a JPEG decoded smaller where that leaves `side` × `side`.

    Metadata that cannot be read is no harm. Raises InputError where the bytes are no whole picture of the formats of
    `open_picture`, or have more pixels than Pillow opens.
    """
    try:
        with open_picture(data) as image:
            shrink_on_load(image, "RGB", (side, side))
            return upright_pixels(image, max(image.size))
    except UnidentifiedImageError as error:
        # Pillow's own message names a place in memory: another in each process.
        raise InputError("picture cannot be decoded: its header is broken") from error
    except Exception as error:  # a decoder meets whatever strangers send
        raise InputError(f"picture cannot be decoded: {one_line(error)}") from error


def upright_pixels(image: Image.Image, max_side: int) -> Image.Image:
    """An opened picture as RGB, upright, shrunk where its longer side has more than `max_side` pixels."""
    # Not Pillow's exif_transpose: it writes the EXIF anew and fails on tags that are not what they should be.
    turn = _UPRIGHT.get(orientation(image))
    longest = max(image.size)
    wanted = image.size
    if longest > max_side:
        wanted = _scaled(image.size, max_side / longest)
        shrink_on_load(image, "RGB", wanted)
    pixels = to_rgb(image)
    if pixels.size != wanted:
        pixels = pixels.resize(wanted, Image.Resampling.BILINEAR)
    return pixels if turn is None else pixels.transpose(turn)


def shrink_on_load(image: Image.Image, mode: str, size: tuple[int, int]) -> None:
    """Let an opened JPEG be decoded at a half, a quarter or an eighth of its size where that is at least `size`.

    Of other formats the picture itself is decoded: a HEIC would give its thumbnail, which may show anything.
    """
    if image.format in _JPEG:
        image.draft(mode, size)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened picture decoded to 8-bit RGB. Alpha is dropped; 16-bit grey keeps its high bytes."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def perceptual_hash(image: Image.Image) -> int:
    """The 64-bit DCT hash (imagehash.phash) of an opened picture, upright and reduced to 64 × 64 grey pixels first.

    Bit 63 is the hash's first. Near duplicates differ in few bits; so does the hash of the full-size picture.
    """
    # With scipy a slow import, which training on a bare machine need not have.
    import imagehash

    turn = _UPRIGHT.get(orientation(image))
    shrink_on_load(image, "L", (_HASH_SIDE, _HASH_SIDE))
    grey = image if image.mode == "L" else to_rgb(image).convert("L")
    small = grey.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX)
    bits = imagehash.phash(small if turn is None else small.transpose(turn)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
