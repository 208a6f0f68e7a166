"""Sends Ray's own log lines to a file, so that they do not mix with the lines of a command.

Ray's C++ code writes to file descriptor 2 of the process that starts Ray, with any options of `ray.init`. While Ray
runs, that descriptor is a log file. If `sys.stderr` uses the descriptor, it still writes to the old target.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _SUFFIX = "raypipe-ray-", ".log"
_KEPT = 10
_STDERR = 2

_last_failure_log: Path | None = None


def last_failure_log() -> Path | None:
    """The log of the last session that ended with an error and to which Ray wrote something, or None."""
    return _last_failure_log


@contextlib.contextmanager
def stderr_to_log() -> Iterator[None]:
    """Make file descriptor 2 a new log file for the body, also in child processes. No-op if the descriptor is closed.

    The file is in the directory for temporary files, and only this user can read it. It is kept if an error ends the
    body and the file is not empty. If more than ten are kept, the oldest are deleted.
    """
    global _last_failure_log
    try:
        before = os.dup(_STDERR)
    except OSError:  # a daemon may have closed it
        yield
        return
    number, name = tempfile.mkstemp(_SUFFIX, _PREFIX)
    path, wanted = Path(name), False
    try:
        with _keep_python_stderr(before):
            os.dup2(number, _STDERR)
            try:
                yield
            finally:
                # If other code (such as pytest) has redirected it in the meantime, it stays redirected.
                if os.path.sameopenfile(_STDERR, number):
                    os.dup2(before, _STDERR)
    except Exception:
        wanted = os.fstat(number).st_size > 0
        raise
    finally:
        # `before` stays open, because a logging handler may still hold the `sys.stderr` of the body.
        os.close(number)
        if wanted:
            _last_failure_log = path
            _drop_old()
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _keep_python_stderr(descriptor: int) -> Iterator[None]:
    """Let `sys.stderr` and faulthandler write to `descriptor`, a copy of the old file descriptor 2, during the body."""
    old = sys.stderr
    if not _is_on_descriptor(old):
        yield
        return
    old.flush()
    raw = io.FileIO(descriptor, "w", closefd=False)
    new = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=old.encoding, errors=old.errors, line_buffering=True, write_through=True
    )
    crashes = faulthandler.is_enabled()
    sys.stderr = new
    if crashes:
        faulthandler.enable(new)
    try:
        yield
    finally:
        new.flush()
        if sys.stderr is new:
            sys.stderr = old
        if crashes:
            faulthandler.enable(old)


def _is_on_descriptor(stream: object) -> bool:
    # In a notebook or under a test runner, `sys.stderr` is another kind of object.
    try:
        return bool(isinstance(stream, io.TextIOWrapper) and stream.fileno() == _STDERR)
    except (OSError, ValueError):
        return False


def _drop_old() -> None:
    user = os.getuid() if hasattr(os, "getuid") else None
    mine = []
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            seen = path.lstat()
            if user is None or seen.st_uid == user:
                mine.append((seen.st_mtime, path))
    for _, path in sorted(mine)[:-_KEPT]:
        with contextlib.suppress(OSError):
            path.unlink()
