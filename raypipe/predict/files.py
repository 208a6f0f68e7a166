"""Pictures to predict on as files: where each is, whether it is the one that the run began with, and its bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe.errors import StageError, one_line
from raypipe.ingest.decoding import Undecodable
from raypipe.storage import Storage, is_refusal

SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss")
"""Schemes of URIs that are read. A path without one is on this machine."""

_WEB = ("http", "https")
# Of an s3:// URI as pyarrow takes it. Any other question mark is a letter of a name.
_URI_OPTIONS = ("endpoint_override=", "scheme=", "region=")
_MOST_BYTES = 500_000_000
# Reading this much takes about a second; of more, size and time must do.
_HASHED_BYTES = 2**28
_REQUESTS_AT_ONCE = 16
# Of so many pictures in one folder of an object store, listing it (1,000 files per request) costs less than asking.
_WORTH_LISTING = 100
_CHANGED = "changed while predict ran; run it again with --overwrite"


@dataclass(frozen=True)
class Picture:
    """One picture that was named: a row of `predict/NAME/`.

    `path` is as it is shown, `place` a path on this machine (as Python's `os` takes it) or a URI. `reason` says why it
    cannot be read, if that is known. `size` in bytes and `changed` in nanoseconds are those of the file when the run
    began; None if they are not known yet.
    """

    path: str
    place: str = ""
    reason: str | None = None
    size: int | None = None
    changed: int | None = None


def shown(path: str) -> str:
    """A path as text that every file can hold: bytes that are no UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def name_picture(path: str) -> Picture:
    """The picture at a path or URI, with the reason if no file can be there."""
    if "\0" in path:
        return Picture(shown(path.replace("\0", "\\0")), reason="a path cannot hold a NUL character")
    scheme, separator, _ = path.partition("://")
    if not separator:
        return Picture(shown(path), os.path.abspath(path))  # noqa: PTH100 (also of bytes that are no UTF-8)
    if scheme.lower() in _WEB:
        return Picture(shown(path), reason=f"{scheme}:// is not read by predict; fetch it with `raypipe ingest`")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        return Picture(shown(path), reason=f"{shown(scheme)}:// is not read by predict; give a path, or {known}")
    if scheme == "file":
        try:
            return Picture(shown(path), pafs.FileSystem.from_uri(path)[1])
        except (OSError, ValueError) as error:
            return Picture(shown(path), reason=f"is no URI of a file: {one_line(error)}")
    return Picture(shown(path), path)


def open_filesystem(place: str, storage: Storage) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a path or URI, and the path on it; S3 with endpoint, region and profile of `storage`.

    Raises OSError, ValueError or StageError if there is none.
    """
    if "://" not in place:
        return pafs.LocalFileSystem(), place
    if place.startswith("s3://") and not place.rpartition("?")[2].startswith(_URI_OPTIONS):
        bucket, _, key = place.removeprefix("s3://").partition("/")
        opened = _bucket(bucket, storage)
        return opened.filesystem, f"{bucket}/{key}"
    filesystem, path = pafs.FileSystem.from_uri(place)
    return filesystem, path


_BUCKETS: dict[tuple[str, Storage], Storage] = {}


def _bucket(name: str, storage: Storage) -> Storage:
    # Opened once for each process: it may ask for the bucket's region.
    key = (name, storage)
    if key not in _BUCKETS:
        _BUCKETS[key] = Storage(f"s3://{name}", storage.endpoint, storage.region, storage.profile)
    return _BUCKETS[key]


def stamp_pictures(pictures: Sequence[Picture], storage: Storage) -> list[Picture]:
    """The pictures with size and time of their files, or the reason why there is no file that can be read.

    Raises StageError if an object store does not answer.
    """
    found = [_stamp_local(one) if "://" not in one.place else one for one in pictures]
    asked = [i for i, one in enumerate(found) if one.reason is None and one.size is None]
    remote: dict[str, list[int]] = defaultdict(list)
    for i in asked:
        remote[found[i].place.rpartition("/")[0]].append(i)
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        for folder, places in remote.items():
            listed = _list_folder(folder, storage) if len(places) >= _WORTH_LISTING else {}
            alone = [i for i in places if found[i].place not in listed]
            infos = pool.map(lambda i: _ask(found[i], storage), alone)
            for i in places:
                if found[i].place in listed:
                    found[i] = judged(found[i], listed[found[i].place])
            for i, one in zip(alone, infos, strict=True):
                found[i] = one
    return found


def _stamp_local(picture: Picture) -> Picture:
    if picture.reason is not None:
        return picture
    try:
        status = os.stat(picture.place)  # noqa: PTH116
    except (OSError, ValueError) as error:
        return replace(picture, reason=_why(error))
    if stat.S_ISDIR(status.st_mode):
        return replace(picture, reason="is a folder")
    if not stat.S_ISREG(status.st_mode):
        return replace(picture, reason="is no regular file")
    return _sized(replace(picture, size=status.st_size, changed=status.st_mtime_ns))


def _why(error: Exception) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "there is no such file"
    return f"cannot be read: {getattr(error, 'strerror', None) or one_line(error)}"


def _sized(picture: Picture) -> Picture:
    size = picture.size or 0
    if 0 < size <= _MOST_BYTES:
        return picture
    return replace(picture, reason=f"is too large: {size:,} bytes, {_MOST_BYTES:,} are allowed" if size else "is empty")


def judged(picture: Picture, info: pafs.FileInfo) -> Picture:
    """The picture with what a listing says of its file."""
    if info.type == pafs.FileType.NotFound:
        return replace(picture, reason="there is no such file")
    if info.type == pafs.FileType.Directory:
        return replace(picture, reason="is a folder")
    return _sized(replace(picture, size=info.size, changed=info.mtime_ns or 0))


def _list_folder(folder: str, storage: Storage) -> dict[str, pafs.FileInfo]:
    """Files of an object store's folder by their URI; empty if it cannot be listed: then each is asked for."""
    try:
        filesystem, path = open_filesystem(folder, storage)
        infos = filesystem.get_file_info(pafs.FileSelector(path))
    except (OSError, ValueError, StageError):
        return {}
    return {f"{folder}/{info.base_name}": info for info in infos}


def _ask(picture: Picture, storage: Storage) -> Picture:
    try:
        filesystem, path = open_filesystem(picture.place, storage)
        return judged(picture, filesystem.get_file_info(path))
    except (OSError, ValueError, StageError) as error:
        return replace(picture, reason=_refusal(picture, error))


def _refusal(picture: Picture, error: Exception) -> str:
    """Why one file of an object store cannot be read. Raises StageError if that is the store's trouble, not its."""
    reason = one_line(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and not is_refusal(reason):
        raise StageError(
            f"{picture.path}: cannot be read: {reason}; when the store answers again, start the same command again"
        ) from error
    return f"cannot be read: {reason}"


def fingerprint(pictures: Iterable[Picture]) -> str:
    """SHA-256 over the paths in order and what is behind each: a hash of the contents if all pictures are on this
    machine and have less than 256 MiB together, else size and time of the last change; or the reason why it cannot be
    read.
    """
    stamped = list(pictures)
    here = all("://" not in one.place for one in stamped)
    hashed = here and sum(one.size or 0 for one in stamped if one.reason is None) <= _HASHED_BYTES
    digest = hashlib.sha256()
    for one in stamped:
        behind = one.reason or (_content(one) if hashed else f"{one.size} {one.changed}")
        digest.update(f"{len(one.path)} {one.path} {behind}\0".encode())
    return digest.hexdigest()


def _content(picture: Picture) -> str:
    data = _read_local(picture)
    return data.reason if isinstance(data, Undecodable) else hashlib.sha256(data).hexdigest()


def read_picture(picture: Picture, storage: Storage) -> bytes | Undecodable:
    """All bytes of a picture, or why there are none: also if it is no longer the file that the run began with.

    Raises StageError if an object store does not answer.
    """
    if picture.reason is not None:
        return Undecodable(picture.reason)
    if "://" not in picture.place:
        return _read_local(picture)
    try:
        filesystem, path = open_filesystem(picture.place, storage)
        # A stream would ask an object store for 256 KB at a time.
        with filesystem.open_input_file(path) as file:
            data = bytes(file.read())
    except (OSError, ValueError, pa.ArrowException, StageError) as error:
        return Undecodable(_refusal(picture, error))
    return data if len(data) == picture.size else Undecodable(_CHANGED)


def _read_local(picture: Picture) -> bytes | Undecodable:
    try:
        with Path(picture.place).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
            status = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        return Undecodable(_why(error))
    same = (status.st_size, status.st_mtime_ns, len(data)) == (picture.size, picture.changed, picture.size)
    return data if same else Undecodable(_CHANGED)
