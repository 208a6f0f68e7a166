"""The errors that a user of raypipe can meet: each message is one line saying what, where, which value, what to do."""

from __future__ import annotations


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
