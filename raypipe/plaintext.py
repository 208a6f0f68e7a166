"""Users' text where some characters would do more than show: on a terminal, on a page, in a drawing."""

from __future__ import annotations

import re

# Control characters but for tab and line feed, other breaks of lines, marks that turn the direction of what follows,
# halves of characters, and what XML cannot hold.
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def plain(text: str) -> str:
    r"""`text` with each character that would not be shown as the code that Python writes for it: ``\x1b``, ``\u202e``.

    Tabs and line feeds stay. The result can be encoded, and stands in XML.
    """
    return _ODD.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
