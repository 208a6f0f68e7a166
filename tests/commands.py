"""Commands as child processes that a signal ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import Any


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen` of a command that SIGINT and SIGTERM end, also if this process ignores them.

    A child ignores what its parent ignores (POSIX, exec). A shell without job control starts ``make test &`` with
    SIGINT ignored, and so do some CI runners. A handler is not inherited: under one, the child begins with the default.
    Call it from the main thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        return subprocess.Popen(words, **options)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
