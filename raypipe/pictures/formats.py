"""What bytes tell of themselves undecoded: the format they announce, and whether they reach the end they announce."""

from __future__ import annotations

import struct
from collections.abc import Iterator

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIC")
# What people's own pictures and tables of other programs may hold besides; ingest stores none of these.
_OTHERS = {b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}

OF_NAMES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "HEIC": (".heic", ".heics", ".heif", ".heifs", ".hif"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""How names of files end, for each format that `pictures.open_picture` opens; as Pillow and pillow-heif know them."""

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_MOST_BRANDS = 64
# JPEG markers without a length (ITU-T T.81, table B.1): stuffed bytes, TEM, restarts, start and end of image.
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
_CHUNK = struct.Struct(">I4s")


def kind_of(data: bytes) -> str | None:
    """The one of FORMATS that the first bytes announce, None where it is none of them."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return _brand(data) if data[4:8] == b"ftyp" else None


def stored_kind_of(data: bytes) -> str | None:
    """As `kind_of`, or BMP or TIFF: what a person's own pictures may be in besides."""
    return kind_of(data) or next((kind for begins, kind in _OTHERS.items() if data.startswith(begins)), None)


def _brand(data: bytes) -> str | None:
    # ISO/IEC 14496-12, 4.3: the major brand, a version, then the compatible ones to the end of the box. Videos have
    # brands of their own, and what both formats build on (mif1) says HEIC only where nothing says AVIF.
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * _MOST_BRANDS)
    brands = {data[i : i + 4] for i in range(16, end, 4)}
    for kind, known in (("AVIF", _AVIF), ("HEIC", _HEIC - {b"mif1", b"msf1"})):
        if data[8:12] in known:
            return kind
    if brands & _AVIF:
        return "AVIF"
    return "HEIC" if (brands | {data[8:12]}) & _HEIC else None


def breaks_off(data: bytes, kind: str) -> bool:
    """Whether a file of a known format ends before its own end, by the lengths it announces and its end marker.

    What follows behind the end (zeros, junk, further pictures) counts for nothing.
    """
    match kind:
        case "JPEG":
            return _jpeg_breaks_off(data)
        case "PNG":
            return all(name != b"IEND" for name, _ in png_chunks(data))
        case "GIF":
            return _gif_breaks_off(data)
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return _boxes_break_off(data)


def _jpeg_breaks_off(data: bytes) -> bool:
    # Compressed data holds no marker but restarts, so an end behind the first scan is the picture's; one before it
    # belongs to a thumbnail in the metadata.
    place, size = 2, len(data)
    while place + 4 <= size:
        if data[place] != 0xFF:
            place = data.find(b"\xff", place)
            if place < 0:
                return True
            continue
        marker = data[place + 1]
        if marker == 0xDA:
            return data.rfind(b"\xff\xd9", place) < 0
        if marker == 0xFF:
            place += 1
        elif marker in _BARE:
            place += 2
        else:
            place += 2 + max(2, data[place + 2] << 8 | data[place + 3])
    return True


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and contents of the chunks of a PNG that are there whole, up to IEND; of pixels the name alone."""
    place = 8
    while place + 12 <= len(data):
        length, name = _CHUNK.unpack_from(data, place)
        start, place = place + 8, place + 12 + length
        if place > len(data):
            return
        yield name, b"" if name == b"IDAT" else data[start : start + length]
        if name == b"IEND":
            return


def _gif_breaks_off(data: bytes) -> bool:
    # GIF89a, appendix A: a header, blocks, a trailer. A block is a head and then pieces that begin with their lengths.
    try:
        place = 13 + _colours(data[10])
        while data[place] != 0x3B:
            if data[place] == 0x21:
                place += 2
            elif data[place] == 0x2C:
                place += 11 + _colours(data[place + 9])
            else:
                # No block begins so. A decoder takes what came before; the end, if there is one, lies behind junk.
                return b";" not in data[place:]
            while length := data[place]:
                place += 1 + length
            place += 1
    except IndexError:
        return True
    return False


def _colours(flags: int) -> int:
    """Bytes of the colour table that a descriptor's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _boxes_break_off(data: bytes) -> bool:
    # ISO/IEC 14496-12, 4.2: boxes of a 32-bit length, one after the other; 1 announces 64 bits, 0 means to the end.
    place, pixels = 0, False
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16], "big")
        # Pixels lie in a box of their own; those of very small pictures may lie in the `meta` box.
        name = data[place + 4 : place + 8]
        pixels = pixels or name == b"mdat" or (name == b"meta" and b"idat" in data[place : place + length])
        if length == 0:
            break
        place += max(length, 8)
    return not pixels or place > len(data) or (place + 8 > len(data) and any(data[place:]))
