"""Private folders, which no other user of this machine can read, change or replace."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raypipe.errors import StageError

_MOST_LINKS = 40  # Linux follows as many


def make_private(path: Path) -> Path:
    """Make the private folder at the absolute `path` if it does not exist, and return it.

    Raises OSError if it cannot be made or used, or if it is in a folder where another user could replace it. Raises
    StageError if it is a link or not a folder, or if it belongs to or is open to another user.
    """
    check_ancestors(_nearest(path))
    for parent in reversed(path.parents):
        if not parent.exists():
            with contextlib.suppress(FileExistsError):
                # Other users cannot write to a folder of this mode, with any umask.
                parent.mkdir(mode=0o755)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    check_usable(path)
    return path


def check_can_be_made(path: Path) -> Path:
    """The existing folder in which `make_private` would make `path` and its missing parents.

    Makes a temporary folder there and deletes it, because permissions alone do not say whether that works (for example
    in /proc). Raises OSError as `make_private` does.
    """
    parent = _nearest(path)
    check_ancestors(parent)
    with tempfile.TemporaryDirectory(prefix=".raypipe-", dir=parent):
        return parent


def check_usable(path: Path) -> None:
    """Raise as `make_private` does if the existing `path` cannot be used as a private folder."""
    check_ancestors(path.parent)
    _check_private(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written")


def _nearest(path: Path) -> Path:
    return next(place for place in path.parents if place.exists())


def _check_private(path: Path) -> None:
    seen = path.lstat()
    mode = stat.S_IMODE(seen.st_mode)
    reason = ""
    if stat.S_ISLNK(seen.st_mode):
        reason = "is a link"
    elif not stat.S_ISDIR(seen.st_mode):
        reason = "is not a folder"
    elif hasattr(os, "geteuid") and seen.st_uid != os.geteuid():
        reason = f"belongs to user {seen.st_uid}, not to {os.geteuid()}"
    elif hasattr(os, "geteuid") and mode & 0o077:
        reason = f"is open to other users (mode {mode:04o})"
    if reason:
        raise StageError(f"{path}: {reason}, so it is not safe; delete it, or choose another --storage.scratch DIR")


def check_ancestors(folder: Path) -> None:
    """Raise PermissionError, with the reason in `strerror`, if another user could replace `folder`.

    `folder` is absolute and exists. It, each folder above it and each link on its path must belong to this user or to
    root. None may be writable by everybody, except with the sticky bit: then users can rename only their own files, as
    in /tmp. Raises OSError if the path cannot be followed.
    """
    if not hasattr(os, "geteuid"):
        return
    # In a user namespace, files of root can appear to belong to another user. The owner of / is always root.
    trusted = {os.geteuid(), 0, Path(folder.anchor).stat().st_uid}
    for step in _path_steps(folder):
        seen = step.lstat()
        mode = stat.S_IMODE(seen.st_mode)
        reason = ""
        if seen.st_uid not in trusted:
            reason = f"belongs to user {seen.st_uid}, neither to {os.geteuid()} nor to root"
        elif stat.S_ISDIR(seen.st_mode) and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            reason = f"is writable by every user (mode {mode:04o})"
        if reason:
            raise PermissionError(errno.EPERM, f"{step} {reason}, so it is not safe")


def _path_steps(folder: Path) -> Iterator[Path]:
    """The folders from the root directory to `folder`, which is the last, and the links on the path."""
    at, left, links = Path(folder.anchor), list(folder.parts[:0:-1]), 0
    yield at
    while left:
        part = left.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        yield step
        if not step.is_symlink():
            at = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        target = step.readlink()
        at = Path(target.anchor) if target.is_absolute() else at
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
