"""Ray's own lines go to a log file, and not between those of a command.

Ray's C++ code writes to file descriptor 2 of the process that starts Ray, whatever `ray.init` is told. While Ray runs,
that descriptor is a log file. `sys.stderr`, if it is on the descriptor, goes on writing to where that led before.
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

_of_failure: Path | None = None


def log_of_failure() -> Path | None:
    """The log of the last session that an error ended, if Ray had written anything."""
    return _of_failure


@contextlib.contextmanager
def lines_to_log() -> Iterator[None]:
    """File descriptor 2 is a new log file for the body. Child processes have it too.

    The file is in the directory for temporary files, for this user alone. It stays if an error ends the body and it
    has any line; the oldest go if more than ten have stayed. Does nothing if the descriptor is closed.
    """
    global _of_failure
    try:
        before = os.dup(_STDERR)
    except OSError:  # a daemon may have closed it
        yield
        return
    number, name = tempfile.mkstemp(_SUFFIX, _PREFIX)
    path, wanted = Path(name), False
    try:
        with _python_stays(before):
            os.dup2(number, _STDERR)
            try:
                yield
            finally:
                # Whoever has led it elsewhere meanwhile, as pytest does, has reasons to.
                if os.path.sameopenfile(_STDERR, number):
                    os.dup2(before, _STDERR)
    except Exception:
        wanted = os.fstat(number).st_size > 0
        raise
    finally:
        # The other one stays open: a handler of logging may have taken the `sys.stderr` of the body.
        os.close(number)
        if wanted:
            _of_failure = path
            _drop_old()
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _python_stays(descriptor: int) -> Iterator[None]:
    """`sys.stderr`, and tracebacks of crashes, stay on what file descriptor 2 was: `descriptor` now."""
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
    # In a notebook, or under a test runner, it is something else.
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
