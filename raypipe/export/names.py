"""Names of files and folders that are safe everywhere, for post ids and labels that are any text."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from raypipe.pictures.formats import stored_kind_of

_LONGEST = 80
_SHOWN = 40
_PLAIN_KEY = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_LONGEST - 1}}}")
_PLAIN_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
# Windows has devices of these names, whatever their case and extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
_LONGEST_EXTENSION = 8
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "AVIF": "avif", "HEIC": "heic"}
_HEAD_BYTES = 1024


def safe_key(text: str) -> str:
    """A name of at most 114 letters from ``a-z 0-9 _ - ~``, another for each text, even where case does not count.

    Bytes (UTF-8) other than ``a-z 0-9 _ -``, a leading ``_`` or ``-``, and the first letter of a device of Windows
    (``con``), become ``~`` and two hexadecimal digits. What is empty, or longer than 80 so, ends in ``~~`` and half of
    its SHA-256; `~~` stands in no other name.
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
    """A folder for each label: the label itself where it is plain and no other differs from it only in case.

    The other labels' folders are their `safe_key`.
    """
    found = list(labels)
    folded = Counter(label.casefold() for label in found)
    return {label: label if _is_plain(label) and folded[label.casefold()] == 1 else safe_key(label) for label in found}


def _is_plain(label: str) -> bool:
    return _PLAIN_LABEL.fullmatch(label) is not None and _DEVICE.fullmatch(label) is None


def extension(kind: str | None, data: bytes | memoryview) -> str:
    """The extension of a picture's true format, as `images/` has it, or, if it has none, as its first bytes announce.

    Nothing is decoded: bytes that say PNG are ``png`` even if the picture is broken.
    """
    if kind is None:
        kind = stored_kind_of(bytes(data[:_HEAD_BYTES]))
    plain = kind and kind.isascii() and kind.isalnum() and len(kind) <= _LONGEST_EXTENSION
    return _EXTENSIONS.get(kind, kind.lower()) if kind and plain else "bin"
