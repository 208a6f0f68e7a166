"""Commands as child processes that a signal ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

RAYPIPE = (sys.executable, "-m", "raypipe")
_ON_RAY = """
import raypipe.runtime
raypipe.runtime.session.wants_ray = lambda config: True
from raypipe.cli import main
raise SystemExit(main())
"""
RAYPIPE_ON_RAY = (sys.executable, "-c", _ON_RAY)
"""The same on Ray, which a stage leaves alone on one machine, and without the dashboard's many processes."""


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
