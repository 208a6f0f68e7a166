"""Commands that run as child processes and are ended by a signal."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

RAYPIPE = (sys.executable, "-m", "raypipe")
_ON_RAY = """
import raypipe.runtime
raypipe.runtime.should_use_ray = lambda config: True
from raypipe.cli import main
raise SystemExit(main())
"""
RAYPIPE_ON_RAY = (sys.executable, "-c", _ON_RAY)
"""`raypipe` on Ray. On one machine a stage would not use Ray, and the dashboard would start many processes."""


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen` for a command that SIGINT and SIGTERM can end, even if this process ignores them.

    A child process ignores the signals that its parent ignores (POSIX, exec). A shell without job control starts
    ``make test &`` with SIGINT ignored, and so do some CI runners. A handler is not inherited, so while one is set, the
    child starts with the default action. Call it only from the main thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        return subprocess.Popen(words, **options)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
