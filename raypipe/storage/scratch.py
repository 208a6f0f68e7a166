"""A private folder of this machine for files that can be made again, such as copies of an object store's files.

Only the user can open it (mode 0700). Its size is limited: if room is needed, the least recently used sets of files are
deleted. A set that a process uses is never deleted. Any number of processes may use the folder at the same time.

    NAME/          a set: its files, and
    NAME/.lock     locked (shared) by each process that uses the set; its time is the set's last use
    NAME/.fill     locked by the process that adds files
    NAME/.bytes    the size of the complete set
    .room          locked while a process makes room
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
from raypipe.storage.private_folder import check_can_be_made, check_usable, make_private

Result = TypeVar("Result")

_LOCK, _FILL, _BYTES, _ROOM = ".lock", ".fill", ".bytes", ".room"
_REMOVED, _TEMPORARY, _PART = ".removed-", "temporary-", ".part"
_FREE_SHARE = 0.9  # the share of the free space of a disk that copies may take

FindMissing = Callable[[Path], Mapping[str, int]]
"""Returns the files that are missing in the folder of a set: their bytes by name."""


class NoRoomError(StageError):
    """The limit or the disk leaves no room, and the existing sets are in use by other processes."""


class Lease:
    """Keeps a set of files from being deleted until it is closed or garbage collected, or the process ends."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder = folder
        self._finalizer = weakref.finalize(self, os.close, handle)

    def close(self) -> None:
        """Allow the deletion of the set."""
        self._finalizer()


@dataclass(frozen=True)
class Usage:
    """The number of sets in the folder, their bytes, and the free bytes of its disk."""

    folder: Path
    sets: int
    n_bytes: int
    free: int


@dataclass(frozen=True)
class _FileSet:
    folder: Path
    n_bytes: int
    used_at: float


@dataclass(frozen=True)
class Scratch:
    """The place of the folder and its limit in GB. Picklable, so that each machine of a cluster has its own folder.

    The folder is ``raypipe-UID`` in the directory `place`. If `place` is None, it is ``raypipe`` in the user's cache
    directory (``XDG_CACHE_HOME``, else ``~/.cache``), or ``raypipe-UID`` in the temporary directory if that cannot be
    written.
    """

    place: str | None = None
    max_gb: float = 50.0

    def __getstate__(self) -> dict[str, Any]:
        # The working directory of a worker differs from that of this process.
        place = self.place and str(Path(self.place).expanduser().absolute())
        return {"place": place, "max_gb": self.max_gb}

    @property
    def max_bytes(self) -> int:
        """The limit in bytes."""
        return int(self.max_gb * 1e9)

    def folder(self) -> Path:
        """The private folder. It is made if it does not exist.

        Raises StageError if it cannot be made, is a link, belongs to or is open to another user, or is in a folder
        where another user could replace it.
        """
        return self._use_first(make_private)

    def usage(self) -> Usage:
        """The usage of the folder, without making it. Raises StageError as `folder` does.

        If the folder does not exist, a temporary one is made beside it, to check that this is possible.
        """
        return self._use_first(_folder_usage)

    def _use_first(self, use: Callable[[Path], Result]) -> Result:
        reasons = []
        for path in self._candidates():
            try:
                return use(path)
            except OSError as error:
                reasons.append(f"{path}: {error.strerror or one_line(error)}")
        raise StageError(f"no folder for scratch files: {'; '.join(reasons)}; choose another --storage.scratch DIR")

    def hold(self, name: str, missing: FindMissing, fetch: Callable[[str, Path], None]) -> Lease:
        """A lease of the set `name` with all its files. The set stays until the lease is closed.

        Room is made for the files that `missing` returns, and ``fetch(file, path)`` writes each of them. A file appears
        whole or not at all. If processes begin together, one of them fetches it. Raises NoRoomError if there is no
        room, StageError as `folder` does or if a file name is not allowed, and the errors of `fetch`.
        """
        folder = self.folder()
        lease = _hold(folder / name)
        try:
            if missing(lease.folder):
                # Workers of one machine begin together. One fetches the files and the others wait.
                with _locked(lease.folder / _FILL):
                    self._fill(folder, lease.folder, missing, fetch)
        except BaseException:
            lease.close()
            raise
        return lease

    def _fill(self, folder: Path, own: Path, missing: FindMissing, fetch: Callable[[str, Path], None]) -> None:
        for left in own.glob(f"*{_PART}"):
            left.unlink(missing_ok=True)
        if wanted := missing(own):
            self._make_room(folder, own.name, sum(wanted.values()))
        for file in wanted:
            # Names come from the store, where others may write.
            if Path(file).name != file or file.startswith("."):
                raise StageError(f"{own}: {file!r} is not an allowed file name; check who can write to the store")
            part = own / f"{file}{_PART}"
            try:
                fetch(file, part)
                part.replace(own / file)
            finally:
                part.unlink(missing_ok=True)

    def has_room(self, name: str, missing: FindMissing) -> bool:
        """Whether there is room for the files `missing` in the set `name`. Raises StageError as `folder` does."""
        folder = self.folder()
        return self._to_remove(folder, name, sum(missing(folder / name).values())) is not None

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """An empty folder for the body. It is deleted afterwards, or by the next call if the process was killed."""
        folder = self.folder()
        for left in folder.glob(f"{_TEMPORARY}*"):
            _delete_if_unused(left)
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
        # The XDG Base Directory Specification says to ignore a relative path.
        if Path(cache).is_absolute():
            return [Path(cache) / "raypipe", *found]
        with contextlib.suppress(RuntimeError):
            found.insert(0, Path.home() / ".cache" / "raypipe")
        return found

    def _make_room(self, folder: Path, name: str, n_bytes: int) -> None:
        """Delete sets until there is room for `n_bytes` more of the set `name`. Raises NoRoomError if that fails."""
        with _locked(folder / _ROOM):
            for left in folder.glob(f"{_REMOVED}*"):
                shutil.rmtree(left, ignore_errors=True)
            found = self._to_remove(folder, name, n_bytes)
            while found:
                # If a process has begun to use this set, it is not deleted, and the next search skips it.
                _delete_if_unused(found[0])
                found = self._to_remove(folder, name, n_bytes)
            if found is None:
                raise NoRoomError(
                    f"{folder}: no room for {n_bytes / 1e9:.1f} GB more: storage.scratch_gb is {self.max_gb:g}, "
                    f"its disk has {shutil.disk_usage(folder).free / 1e9:.1f} GB free, and running processes use the "
                    "other files; raise it, choose another --storage.scratch DIR, or use --train.pictures stream"
                )
            # Other processes that make room while this set grows must count its complete size.
            (folder / name / _BYTES).write_text(str(_folder_bytes(folder / name) + n_bytes))

    def _to_remove(self, folder: Path, name: str, n_bytes: int) -> list[Path] | None:
        """Sets to delete so that the set `name` can grow by `n_bytes`, least recently used first. None: impossible."""
        sets = sorted(_sets(folder), key=lambda item: item.used_at)
        others = [item for item in sets if item.folder.name != name]
        total = sum(item.n_bytes for item in others) + _folder_bytes(folder / name) + n_bytes
        free = _FREE_SHARE * shutil.disk_usage(folder).free
        chosen: list[Path] = []
        for item in others:
            if total <= self.max_bytes and n_bytes <= free:
                break
            if not _in_use(item.folder):
                chosen.append(item.folder)
                total -= item.n_bytes
                free += _FREE_SHARE * _folder_bytes(item.folder)
        return chosen if total <= self.max_bytes and n_bytes <= free else None


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _folder_usage(path: Path) -> Usage:
    if os.path.lexists(path):
        check_usable(path)
        sets = _sets(path)
        return Usage(path, len(sets), sum(item.n_bytes for item in sets), shutil.disk_usage(path).free)
    parent = check_can_be_made(path)
    return Usage(path, 0, 0, shutil.disk_usage(parent).free)


def _sets(folder: Path) -> list[_FileSet]:
    found = []
    for path in folder.iterdir():
        # Another process may delete the set in the meantime.
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith(".") and stat.S_ISDIR(path.lstat().st_mode):
                lock = path / _LOCK
                used_at = lock.stat().st_mtime if lock.exists() else path.stat().st_mtime
                found.append(_FileSet(path, max(_folder_bytes(path), _reserved(path)), used_at))
    return found


def _folder_bytes(folder: Path) -> int:
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
            # Another process has deleted the folder in between.
            continue
        _flock(handle, shared=True)
        if _is_same_file(handle, folder / _LOCK):
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


def _delete_if_unused(folder: Path) -> bool:
    """Delete a set unless a process uses it. Returns whether it is gone. A partly deleted set no longer counts."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return True
    try:
        # If the lock file is not at its path, another process has deleted the set and may have made it again.
        if not _flock(handle, wait=False) or not _is_same_file(handle, folder / _LOCK):
            return False
        _delete(folder)
        return True
    finally:
        os.close(handle)


def _delete(folder: Path) -> None:
    gone = folder.with_name(f"{_REMOVED}{uuid.uuid4().hex[:12]}")
    # If two processes delete the same folder, the second does not find it.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _is_same_file(handle: int, path: Path) -> bool:
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
    """Lock an open file. Returns whether that worked. On file systems without locks it fails, so no set is deleted."""
    try:
        import fcntl

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
