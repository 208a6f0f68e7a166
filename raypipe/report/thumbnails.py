"""Small pictures for the page. Quick to import, because each child process that decodes imports it."""

from __future__ import annotations

import base64
import io

from PIL import ImageOps

from raypipe.pictures.examine import upright_rgb

_SIDE = 168
_QUALITY = 78


def thumbnail(data: bytes) -> str:
    """A square JPEG of 168 pixels as a data URI. Raises InputError if the bytes are not a complete picture."""
    pixels = upright_rgb(data, 2 * _SIDE)
    small = ImageOps.fit(pixels, (_SIDE, _SIDE), centering=(0.5, 0.4))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
