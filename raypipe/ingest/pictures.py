"""Looking into bytes that a server called a picture: what they are, whether they are whole, and what they show."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, replace

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

from raypipe.errors import one_line

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_SIGNATURES = {
    "JPEG": (0, b"\xff\xd8\xff"),
    "PNG": (0, b"\x89PNG\r\n\x1a\n"),
    "GIF": (0, b"GIF8"),
    "WEBP": (8, b"WEBP"),
    "AVIF": (4, b"ftyp"),
}
_TAIL = 4096
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


@dataclass(frozen=True)
class Picture:
    """What the bytes of an answer hold. `status` is ``ok``, ``not_an_image``, ``truncated`` or ``too_many_pixels``.

    `width` and `height` are pixels of the upright picture (EXIF orientation followed; as stored where it has too many),
    None where no header tells.
    `phash` is the 64-bit perceptual hash of the upright picture, None where it is not ``ok``.
    """

    status: str
    error: str | None
    sha256: str
    n_bytes: int
    format: str | None = None
    width: int | None = None
    height: int | None = None
    phash: int | None = None


def examine(data: bytes | memoryview, max_pixels: int, max_side: int | None) -> tuple[Picture, Image.Image | None]:
    """What `data` is, and its upright RGB pixels where `max_side` asks for them and it is a whole picture.

    The pixels are those of the file, unless its longer side has more than `max_side`: then they are shrunk to that.
    The header is read first; a picture of more than `max_pixels` is not decoded. Of an animation, the first frame.
    """
    found = Picture("ok", None, hashlib.sha256(data).hexdigest(), len(data))
    if not len(data):
        return replace(found, status="not_an_image", error="is empty"), None
    try:
        with warnings.catch_warnings():
            # Pillow's own limit on pixels is looser than ours, and ours is checked before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                # MPO is how Pillow calls a JPEG that carries further pictures behind the first.
                kind = "JPEG" if image.format == "MPO" else image.format
                found = replace(found, format=kind, width=image.width, height=image.height)
                if image.width * image.height > max_pixels:
                    error = f"{image.width} × {image.height} pixels, {max_pixels:,} are allowed"
                    return replace(found, status="too_many_pixels", error=error), None
                if orientation(image) in _ON_ITS_SIDE:
                    found = replace(found, width=image.height, height=image.width)
                pixels = None if max_side is None else upright_pixels(image, max_side)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return replace(found, phash=perceptual_hash(image)), pixels
    except Image.DecompressionBombError as error:
        return replace(found, status="too_many_pixels", error=one_line(error)), None
    except Exception as error:  # a decoder meets whatever strangers send; what it met is kept
        return _broken(found, data, error), None


def _broken(found: Picture, data: bytes | memoryview, error: Exception) -> Picture:
    kind = kind_of(data)
    if kind is None:
        error_text = f"is none of {', '.join(FORMATS)}; begins with {bytes(data[:16])!r}"
        return replace(found, status="not_an_image", error=error_text)
    reason = "its header is broken" if isinstance(error, UnidentifiedImageError) else one_line(error)
    cut = "truncated" in reason.lower() or breaks_off(data, kind)
    text = f"{kind} cannot be decoded: {reason}"
    return replace(found, status="truncated" if cut else "not_an_image", error=text)


def kind_of(data: bytes | memoryview) -> str | None:
    """The format that the first bytes announce, None where it is none of FORMATS."""
    for kind, (start, signature) in _SIGNATURES.items():
        if bytes(data[start : start + len(signature)]) == signature:
            return kind
    return None


def breaks_off(data: bytes | memoryview, kind: str) -> bool:
    """Whether a file of a known format ends before its own end: by its end marker, or by the lengths it announces."""
    tail = bytes(data[-_TAIL:])
    match kind:
        case "JPEG":
            return b"\xff\xd9" not in tail
        case "PNG":
            return b"IEND\xaeB`\x82" not in tail
        case "GIF":
            return not tail.endswith(b";")
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return _box_breaks_off(data)


def _box_breaks_off(data: bytes | memoryview) -> bool:
    # ISO base media (AVIF): boxes of a 32-bit length, one after the other; 1 announces 64 bits, 0 means to the end.
    place = 0
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16], "big")
        if length == 0:
            return False
        place += max(length, 8)
    return place != len(data)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the picture has none that can be read. Raises what decoding a PNG does."""
    if image.format == "PNG":
        # Its EXIF may stand behind the pixels, so Pillow decodes them to find it: broken pixels must not pass as
        # broken metadata.
        image.load()
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata of a picture that is fine: it stands as it is stored
        return 1
    return value if value in _UPRIGHT else 1


def upright_pixels(image: Image.Image, max_side: int) -> Image.Image:
    """An opened picture as RGB, upright, shrunk where its longer side has more than `max_side` pixels."""
    turn = _UPRIGHT.get(orientation(image))
    longest = max(image.size)
    wanted = image.size
    if longest > max_side:
        wanted = _scaled(image.size, max_side / longest)
        # A JPEG is decoded at a half, a quarter or an eighth of its size where that is still enough.
        image.draft("RGB", wanted)
    pixels = to_rgb(image)
    if pixels.size != wanted:
        pixels = pixels.resize(wanted, Image.Resampling.BILINEAR)
    return pixels if turn is None else pixels.transpose(turn)


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
    turn = _UPRIGHT.get(orientation(image))
    image.draft("L", (_HASH_SIDE, _HASH_SIDE))
    grey = image if image.mode == "L" else to_rgb(image).convert("L")
    small = grey.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX)
    bits = imagehash.phash(small if turn is None else small.transpose(turn)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
