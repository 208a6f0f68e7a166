"""Safe names of files and folders on every system, for post ids and labels of any text."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from raypipe.pictures.formats import detect_any_format

_LONGEST = 80
_SHOWN = 40
_PLAIN_KEY = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_LONGEST - 1}}}")
_PLAIN_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
# Windows reserves these names for devices, in any case and with any extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
_LONGEST_EXTENSION = 8
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "AVIF": "avif", "HEIC": "heic"}
_HEAD_BYTES = 1024


def safe_key(text: str) -> str:
    """A name of at most 80 characters from ``a-z 0-9 _ - ~``. Different texts get names that differ in more than case.

    Bytes (UTF-8) other than ``a-z 0-9 _ -`` become ``~`` and two hexadecimal digits. So do a leading ``_`` or ``-``
    and the first letter of a Windows device name (``con``). If the result is empty or longer than 80, its first 40
    characters get ``~~`` and half of the text's SHA-256 at the end. No other name contains ``~~``.
    """
    device = _DEVICE.fullmatch(text) is not None
    if _PLAIN_KEY.fullmatch(text) and not device:
        return text
    data = text.encode()
    odd_first = data[:1] if device else b"_-"
    name = "".join(chr(b) if b in _KEPT and (i or b not in odd_first) else f"~{b:02x}" for i, b in enumerate(data))
    if 0 < len(name) <= _LONGEST:
        return name
    return f"{name[:_SHOWN]}~~{hashlib.sha256(data).hexdigest()[:32]}"


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder for each label: the label itself if it is plain and no other label differs from it only in case.

    The folders of other labels are their `safe_key`.
    """
    found = list(labels)
    folded = Counter(label.casefold() for label in found)
    return {label: label if _is_plain(label) and folded[label.casefold()] == 1 else safe_key(label) for label in found}


def _is_plain(label: str) -> bool:
    return _PLAIN_LABEL.fullmatch(label) is not None and _DEVICE.fullmatch(label) is None


def extension(kind: str | None, data: bytes | memoryview) -> str:
    """The extension for `kind`, the picture's format in `images/`; if that is None, for the format of its first bytes.

    Nothing is decoded, so a broken picture with the first bytes of a PNG gives ``png``. Unknown formats give ``bin``.
    """
    if kind is None:
        kind = detect_any_format(bytes(data[:_HEAD_BYTES]))
    plain = kind and kind.isascii() and kind.isalnum() and len(kind) <= _LONGEST_EXTENSION
    return _EXTENSIONS.get(kind, kind.lower()) if kind and plain else "bin"
