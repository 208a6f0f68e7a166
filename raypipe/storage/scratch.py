"""A private folder of this machine for files that can be made again, such as copies of an object store's files.

It is the user's alone (mode 0700), no larger than a bound, and empties itself: what was used longest ago goes first. A
set of files that a process uses is never removed. Any number of processes may use the folder at the same time.

    NAME/          a set: its files, and
    NAME/.lock     locked (shared) by each process that uses the set; its time is the set's last use
    NAME/.fill     locked by the process that adds files
    NAME/.bytes    how large the set will be when it is whole
    .room          locked while room is made
    .removed-…     a set that is being deleted
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raypipe.errors import StageError, one_line
from raypipe.storage.private import check_can_be_made, check_usable, make_private

Result = TypeVar("Result")

_LOCK, _FILL, _BYTES, _ROOM = ".lock", ".fill", ".bytes", ".room"
_REMOVED, _TEMPORARY, _PART = ".removed-", "temporary-", ".part"
_SPARE = 0.9  # of the free space of a disk, which copies may take

Missing = Callable[[Path], Mapping[str, int]]
"""Names of the files that the folder of a set lacks, with their bytes."""


class NoRoomError(StageError):
    """The bound or the disk leaves no room, because other processes use what is there."""


class Lease:
    """A set of files that is in use: it stays until this is closed or garbage, or the process has ended."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder = folder
        self._finalizer = weakref.finalize(self, os.close, handle)

    def close(self) -> None:
        """The set may go."""
        self._finalizer()


@dataclass(frozen=True)
class Usage:
    """What the folder holds: sets, bytes, and the free bytes of its disk."""

    folder: Path
    sets: int
    n_bytes: int
    free: int


@dataclass(frozen=True)
class _Set:
    folder: Path
    n_bytes: int
    used_at: float


@dataclass(frozen=True)
class Scratch:
    """Where the folder is, and its bound in GB; picklable, so that each machine of a cluster has its own.

    `place` is a directory in which ``raypipe-UID`` is made. None: ``raypipe`` in the user's cache directory
    (``XDG_CACHE_HOME``, else ``~/.cache``), or if that cannot be written ``raypipe-UID`` in the temporary directory.
    """

    place: str | None = None
    max_gb: float = 50.0

    def __getstate__(self) -> dict[str, Any]:
        # A worker's working directory is not this process's.
        place = self.place and str(Path(self.place).expanduser().absolute())
        return {"place": place, "max_gb": self.max_gb}

    @property
    def max_bytes(self) -> int:
        """The bound."""
        return int(self.max_gb * 1e9)

    def folder(self) -> Path:
        """The private folder, made if it is not there.

        Raises StageError if it cannot be made, is a link, belongs to or is open to another user, or lies in a folder
        where another user could replace it.
        """
        return self._first(make_private)

    def usage(self) -> Usage:
        """What is there, without making the folder. Raises StageError as `folder` does.

        If the folder is not there, another one is made beside it for a moment, to see that it can be.
        """
        return self._first(_used)

    def _first(self, use: Callable[[Path], Result]) -> Result:
        reasons = []
        for path in self._candidates():
            try:
                return use(path)
            except OSError as error:
                reasons.append(f"{path}: {error.strerror or one_line(error)}")
        raise StageError(f"no folder for scratch files: {'; '.join(reasons)}; choose another --storage.scratch DIR")

    def hold(self, name: str, missing: Missing, fetch: Callable[[str, Path], None]) -> Lease:
        """The set `name` with all its files, in use until the lease is closed.

        Room is made for what is `missing`, and ``fetch(file, path)`` writes each file. A file appears whole or not at
        all; processes that begin together fetch it once. Raises NoRoomError, StageError as `folder` does, and what
        `fetch` raises.
        """
        folder = self.folder()
        lease = _hold(folder / name)
        try:
            if missing(lease.folder):
                # Workers of one machine begin together: one fetches, the others wait for it.
                with _locked(lease.folder / _FILL):
                    self._fill(folder, lease.folder, missing, fetch)
        except BaseException:
            lease.close()
            raise
        return lease

    def _fill(self, folder: Path, own: Path, missing: Missing, fetch: Callable[[str, Path], None]) -> None:
        for left in own.glob(f"*{_PART}"):
            left.unlink(missing_ok=True)
        if wanted := missing(own):
            self._make_room(folder, own.name, sum(wanted.values()))
        for file in wanted:
            # Names come from the store, which others may write to.
            if Path(file).name != file or file.startswith("."):
                raise StageError(f"{own}: {file!r} is no name of a file of its own; who wrote to the store?")
            part = own / f"{file}{_PART}"
            try:
                fetch(file, part)
                part.replace(own / file)
            finally:
                part.unlink(missing_ok=True)

    def has_room(self, name: str, missing: Missing) -> bool:
        """Whether what is `missing` of the set `name` could be added. Raises StageError as `folder` does."""
        folder = self.folder()
        return self._to_remove(folder, name, sum(missing(folder / name).values())) is not None

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """An empty folder for the body, which is deleted after it; of a killed process, by the next call."""
        folder = self.folder()
        for left in folder.glob(f"{_TEMPORARY}*"):
            _remove(left)
        lease = _hold(folder / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}")
        try:
            files = lease.folder / "files"
            files.mkdir(mode=0o700)
            yield files
        finally:
            lease.close()
            _delete(lease.folder)

    def _candidates(self) -> list[Path]:
        own = f"raypipe-{_uid()}"
        if self.place is not None:
            return [Path(self.place).expanduser().absolute() / own]
        found = [Path(tempfile.gettempdir()) / own]
        cache = os.environ.get("XDG_CACHE_HOME", "")
        # A relative one is to be ignored: XDG Base Directory Specification.
        if Path(cache).is_absolute():
            return [Path(cache) / "raypipe", *found]
        with contextlib.suppress(RuntimeError):
            found.insert(0, Path.home() / ".cache" / "raypipe")
        return found

    def _make_room(self, folder: Path, name: str, n_bytes: int) -> None:
        """For `n_bytes` more of the set `name`."""
        with _locked(folder / _ROOM):
            for left in folder.glob(f"{_REMOVED}*"):
                shutil.rmtree(left, ignore_errors=True)
            found = self._to_remove(folder, name, n_bytes)
            while found:
                # A process may have begun to use it since: then it is looked for again.
                _remove(found[0])
                found = self._to_remove(folder, name, n_bytes)
            if found is None:
                raise NoRoomError(
                    f"{folder}: no room for {n_bytes / 1e9:.1f} GB more: storage.scratch_gb is {self.max_gb:g}, "
                    f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free on its disk, and processes that run use "
                    "the rest; raise it, choose another --storage.scratch DIR, or use --train.pictures stream"
                )
            # Others make room for themselves while this set grows.
            (folder / name / _BYTES).write_text(str(_n_bytes(folder / name) + n_bytes))

    def _to_remove(self, folder: Path, name: str, n_bytes: int) -> list[Path] | None:
        """Sets to remove so that the set `name` can grow by `n_bytes`, the least recently used first; None: in vain."""
        sets = sorted(_sets(folder), key=lambda item: item.used_at)
        others = [item for item in sets if item.folder.name != name]
        total = sum(item.n_bytes for item in others) + _n_bytes(folder / name) + n_bytes
        free = _SPARE * shutil.disk_usage(folder).free
        chosen: list[Path] = []
        for item in others:
            if total <= self.max_bytes and n_bytes <= free:
                break
            if not _in_use(item.folder):
                chosen.append(item.folder)
                total -= item.n_bytes
                free += _SPARE * _n_bytes(item.folder)
        return chosen if total <= self.max_bytes and n_bytes <= free else None


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _used(path: Path) -> Usage:
    if os.path.lexists(path):
        check_usable(path)
        sets = _sets(path)
        return Usage(path, len(sets), sum(item.n_bytes for item in sets), shutil.disk_usage(path).free)
    parent = check_can_be_made(path)
    return Usage(path, 0, 0, shutil.disk_usage(parent).free)


def _sets(folder: Path) -> list[_Set]:
    found = []
    for path in folder.iterdir():
        # What others remove meanwhile is not there.
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith(".") and stat.S_ISDIR(path.lstat().st_mode):
                lock = path / _LOCK
                used_at = lock.stat().st_mtime if lock.exists() else path.stat().st_mtime
                found.append(_Set(path, max(_n_bytes(path), _reserved(path)), used_at))
    return found


def _n_bytes(folder: Path) -> int:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(base) / name).lstat().st_size
    return total


def _reserved(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((folder / _BYTES).read_text())
    return 0


def _hold(folder: Path) -> Lease:
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            # Removed in between.
            continue
        _flock(handle, shared=True)
        if _is_at(handle, folder / _LOCK):
            os.utime(folder / _LOCK)
            return Lease(folder, handle)
        os.close(handle)


def _in_use(folder: Path) -> bool:
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _flock(handle, wait=False)
    finally:
        os.close(handle)


def _remove(folder: Path) -> bool:
    """Delete a set unless a process uses it; whether it has gone. Cut off in the middle, it is no set any more."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return True
    try:
        # Locked but elsewhere: another process has removed the set, and it may have been made again since.
        if not _flock(handle, wait=False) or not _is_at(handle, folder / _LOCK):
            return False
        _delete(folder)
        return True
    finally:
        os.close(handle)


def _delete(folder: Path) -> None:
    gone = folder.with_name(f"{_REMOVED}{uuid.uuid4().hex[:12]}")
    # Of two processes that delete the same folder, the second finds none.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _is_at(handle: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _flock(handle)
        yield
    finally:
        os.close(handle)


def _flock(handle: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file; whether that was possible. Some file systems have no locks: there, nothing is removed."""
    try:
        import fcntl

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
