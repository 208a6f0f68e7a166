"""Names of files and folders that are safe everywhere, for post ids and labels that are any text."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from raypipe.ingest.endings import stored_kind_of

_LONGEST = 80
_SHOWN = 40
_PLAIN_KEY = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_LONGEST - 1}}}")
_PLAIN_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "AVIF": "avif", "HEIC": "heic"}
_HEAD_BYTES = 1024


def safe_key(text: str) -> str:
    """A name of at most 114 letters from ``a-z 0-9 _ - ~``, another for each text, even where case does not count.

    Bytes (UTF-8) other than ``a-z 0-9 _ -``, and a leading ``_`` or ``-``, become ``~`` and two hexadecimal digits.
    What is empty, or longer than 80 so, ends in ``~~`` and half of its SHA-256; `~~` stands in no other name.
    """
    if _PLAIN_KEY.fullmatch(text):
        return text
    data = text.encode()
    name = "".join(chr(b) if b in _KEPT and (i or b not in b"_-") else f"~{b:02x}" for i, b in enumerate(data))
    if 0 < len(name) <= _LONGEST:
        return name
    return f"{name[:_SHOWN]}~~{hashlib.sha256(data).hexdigest()[:32]}"


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder for each label: the label itself where it is plain and no other differs from it only in case.

    The other labels' folders are their `safe_key`.
    """
    found = list(labels)
    folded = Counter(label.casefold() for label in found)
    return {
        label: label if _PLAIN_LABEL.fullmatch(label) and folded[label.casefold()] == 1 else safe_key(label)
        for label in found
    }


def extension(kind: str | None, data: bytes | memoryview) -> str:
    """The extension of a picture's true format, as `images/` has it, or, if it has none, as its first bytes announce.

    Nothing is decoded: bytes that say PNG are ``png`` even if the picture is broken.
    """
    if kind is None:
        kind = stored_kind_of(bytes(data[:_HEAD_BYTES]))
    return _EXTENSIONS.get(kind, kind.lower()) if kind and kind.isalnum() else "bin"
