"""The errors that users of raypipe see. Each message is one line: what, where, which value, what to do."""

from __future__ import annotations

import re


class RaypipeError(Exception):
    """Base of all errors that the command line shows as one line, without a traceback.

    `extra_lines` is shown on the following lines, for example a formula with a caret below the wrong part.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, extra_lines: str = "") -> None:
        super().__init__(message)
        self.extra_lines = extra_lines


class ConfigError(RaypipeError):
    """An unknown option, or a value that is not allowed. The command line exits with 2."""

    exit_code = 2


class InputError(RaypipeError):
    """The input data of a stage cannot be used: a missing column, an empty file, only one class."""


class StageError(RaypipeError):
    """A stage cannot continue: its root is not writable, its input is incomplete, the table is of another run."""


def one_line(error: BaseException) -> str:
    """The message of `error` as one line, or the name of its type if it has no message."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


_UNPRINTABLE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tab and line feed
    "\u2028\u2029"  # other line breaks
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction of the following text
    # Characters without width, which could hide in a name. Scripts and emoji need the joiners U+200C and U+200D.
    "\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufffe\uffff"  # lone surrogates, and characters that XML cannot hold
    "]"
)


def printable(text: str) -> str:
    r"""`text` with each invisible or control character as its Python escape: ``\x1b``, ``\u202e``.

    Tabs and line feeds stay. The result can be encoded as UTF-8 and put into XML.
    """
    return _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
