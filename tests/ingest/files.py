"""Small complete files of every supported format and kind."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image
from pillow_heif import register_heif_opener

from tests.ingest.conftest import picture

register_heif_opener()

SIZE = (320, 240)


def save(image: Image.Image, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def with_segment(jpeg: bytes, marker: int, contents: bytes) -> bytes:
    """A JPEG with one more segment before all others."""
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(contents) + 2) + contents + jpeg[2:]


def _files() -> dict[str, tuple[str, bytes]]:
    frames = [Image.open(io.BytesIO(picture("PNG", SIZE, seed))) for seed in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    jpeg, png = picture("JPEG", SIZE), picture("PNG", SIZE)
    # A thumbnail in the metadata, as cameras write it, with its own end marker.
    thumbnail = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" + picture("JPEG", (64, 48))
    return {
        "jpeg": ("JPEG", jpeg),
        "progressive": ("JPEG", picture("JPEG", SIZE, progressive=True)),
        "restarts": ("JPEG", picture("JPEG", SIZE, restart_marker_blocks=1)),
        "thumbnail": ("JPEG", with_segment(jpeg, 0xE1, thumbnail)),
        "cmyk": ("JPEG", save(frames[0].convert("CMYK"), "JPEG")),
        "png": ("PNG", png),
        "gif": ("GIF", picture("GIF", SIZE)),
        "animated gif": ("GIF", save(frames[0], "GIF", **animated)),
        "webp": ("WEBP", picture("WEBP", SIZE)),
        "lossless": ("WEBP", picture("WEBP", SIZE, lossless=True)),
        "animated webp": ("WEBP", save(frames[0], "WEBP", **animated)),
        "avif": ("AVIF", picture("AVIF", SIZE)),
        "animated avif": ("AVIF", save(frames[0], "AVIF", **animated)),
        "heic": ("HEIC", picture("HEIF", SIZE)),
    }


FILES = {name: data for name, (_kind, data) in _files().items()}
KINDS = {name: kind for name, (kind, _data) in _files().items()}
