"""Detects the format of picture files, and whether a file is cut off, without decoding."""

from __future__ import annotations

import struct
from collections.abc import Iterator

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIC")
# Formats that users' own pictures and tables of other programs may also have. Ingest does not store them.
_OTHERS = {b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}

FILE_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "HEIC": (".heic", ".heics", ".heif", ".heifs", ".hif"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""File name endings of each format that `examine.open_picture` opens, as in Pillow and pillow-heif."""

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_MOST_BRANDS = 64
# JPEG markers without a length (ITU-T T.81, table B.1): stuffed bytes, TEM, restarts, start and end of image.
_MARKERS_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
_CHUNK = struct.Struct(">I4s")


def detect_format(data: bytes) -> str | None:
    """The format in FORMATS that the first bytes announce, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return _format_of_brands(data) if data[4:8] == b"ftyp" else None


def detect_any_format(data: bytes) -> str | None:
    """As `detect_format`, but also BMP or TIFF, which users' own pictures may have."""
    return detect_format(data) or next((kind for begins, kind in _OTHERS.items() if data.startswith(begins)), None)


def _format_of_brands(data: bytes) -> str | None:
    # ISO/IEC 14496-12, 4.3: the major brand, a version, then the compatible brands to the end of the box. Videos have
    # other brands. Both formats build on mif1, which means HEIC only if there is no AVIF brand.
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * _MOST_BRANDS)
    brands = {data[i : i + 4] for i in range(16, end, 4)}
    for kind, known in (("AVIF", _AVIF), ("HEIC", _HEIC - {b"mif1", b"msf1"})):
        if data[8:12] in known:
            return kind
    if brands & _AVIF:
        return "AVIF"
    return "HEIC" if (brands | {data[8:12]}) & _HEIC else None


def is_cut_off(data: bytes, kind: str) -> bool:
    """Whether a file of a known format is cut off, by the lengths that it announces and its end marker.

    Data after the end (zeros, junk, further pictures) are ignored.
    """
    match kind:
        case "JPEG":
            return _is_jpeg_cut_off(data)
        case "PNG":
            return all(name != b"IEND" for name, _ in png_chunks(data))
        case "GIF":
            return _is_gif_cut_off(data)
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return _is_box_file_cut_off(data)


def _is_jpeg_cut_off(data: bytes) -> bool:
    # Compressed data contain no markers except restarts. So an end marker after the first scan starts is that of the
    # picture. An end marker before it belongs to a thumbnail in the metadata.
    position, size = 2, len(data)
    while position + 4 <= size:
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                return True
            continue
        marker = data[position + 1]
        if marker == 0xDA:
            return data.rfind(b"\xff\xd9", position) < 0
        if marker == 0xFF:
            position += 1
        elif marker in _MARKERS_WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + max(2, data[position + 2] << 8 | data[position + 3])
    return True


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and contents of each complete chunk of a PNG, up to IEND. The contents of pixel chunks are left out."""
    position = 8
    while position + 12 <= len(data):
        length, name = _CHUNK.unpack_from(data, position)
        start, position = position + 8, position + 12 + length
        if position > len(data):
            return
        yield name, b"" if name == b"IDAT" else data[start : start + length]
        if name == b"IEND":
            return


def _is_gif_cut_off(data: bytes) -> bool:
    # GIF89a, appendix A: a header, blocks and a trailer. A block is a head and pieces, each after its length.
    try:
        position = 13 + _colour_table_bytes(data[10])
        while data[position] != 0x3B:
            if data[position] == 0x21:
                position += 2
            elif data[position] == 0x2C:
                position += 11 + _colour_table_bytes(data[position + 9])
            else:
                # No block begins with this byte. A decoder uses the blocks before it, and an end may come after junk.
                return b";" not in data[position:]
            while length := data[position]:
                position += 1 + length
            position += 1
    except IndexError:
        return True
    return False


def _colour_table_bytes(flags: int) -> int:
    """Bytes of the colour table that a descriptor's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _is_box_file_cut_off(data: bytes) -> bool:
    # ISO/IEC 14496-12, 4.2: a sequence of boxes with 32-bit lengths. 1 means that 64 bits follow, 0 means to the end.
    position, has_pixels = 0, False
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        # Pixels are in an `mdat` box. Pixels of very small pictures may be in the `meta` box.
        name = data[position + 4 : position + 8]
        has_pixels = (
            has_pixels or name == b"mdat" or (name == b"meta" and b"idat" in data[position : position + length])
        )
        if length == 0:
            break
        position += max(length, 8)
    return not has_pixels or position > len(data) or (position + 8 > len(data) and any(data[position:]))
