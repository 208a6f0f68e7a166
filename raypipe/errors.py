"""The errors that a user of raypipe can meet: each message is one line saying what, where, which value, what to do."""

from __future__ import annotations

import re


class RaypipeError(Exception):
    """Base of all errors that the command line shows as one line, without a traceback.

    `below` is shown on the lines that follow: a formula with a caret below its culprit.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, below: str = "") -> None:
        super().__init__(message)
        self.below = below


class ConfigError(RaypipeError):
    """An unknown option or a value that is not allowed; the command line exits with 2."""

    exit_code = 2


class InputError(RaypipeError):
    """Data that a stage was given cannot be used: a missing column, an empty file, one class only."""


class StageError(RaypipeError):
    """A stage cannot go on: its root is not writable, its input incomplete, another run's data is in its place."""


def one_line(error: BaseException) -> str:
    """The first cause of `error` as one line: the message where there is one, the type's name where there is none."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


_ODD = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and line feed
    "\u2028\u2029"  # other breaks of lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what follows
    # What has no width, and so hides in a name. Not the joiners U+200C and U+200D: scripts and emoji need them.
    "\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufffe\uffff"  # halves of characters, and what XML cannot hold
    "]"
)


def plain(text: str) -> str:
    r"""`text` with each character that would not be shown as the code that Python writes for it: ``\x1b``, ``\u202e``.

    Tabs and line feeds stay. The result can be encoded, and stands in XML.
    """
    return _ODD.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
