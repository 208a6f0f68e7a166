"""Files of the pictures to predict on: their paths, whether they changed since the run began, and their bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe.errors import StageError, one_line
from raypipe.pictures.decoding import Undecodable
from raypipe.predict.object_stores import (
    STORE_SCHEMES,
    open_store,
    refusal_reason,
    scheme_of,
    service_of,
    split_options,
    store_of,
)
from raypipe.storage import Storage, is_access_error

SCHEMES = ("file", *STORE_SCHEMES)
"""Schemes of URIs that are read. A path without a scheme is on this machine."""

_WEB = ("http", "https")
_MOST_BYTES = 500_000_000
# Reading this much takes about a second. For more, sizes and times of change are used instead of contents.
_HASHED_BYTES = 2**28
_REQUESTS_AT_ONCE = 16
# From this many pictures on, listing a folder of an object store (1,000 files per request) needs fewer requests.
_WORTH_LISTING = 100
# A service gets no more requests after this many without any answer: each of them takes half a minute.
_MAX_FAILURES = 3
_CHANGED = "changed while predict ran; run it again with --overwrite"

# Errors that pyarrow raises if a file or a store cannot be read. Some errors of Azure are only ArrowExceptions.
STORE_ERRORS = (OSError, ValueError, pa.ArrowException, StageError)


@dataclass(frozen=True)
class InputPicture:
    """One picture that an input names: a row of `predict/NAME/`.

    `path` is the path as shown. `location` is a path on this machine, as Python's `os` takes it, or a URI.
    `reason` says why the picture cannot be read, if known. `size` (bytes) and `modified_ns` (nanoseconds) are those
    of the file when the run began, or None if they are not known yet. `options` are those of the URI, as the user wrote
    them. `is_in_user_store`: the user named the picture's store. The command ends if that store does not answer.
    """

    path: str
    location: str = ""
    reason: str | None = None
    size: int | None = None
    modified_ns: int | None = None
    options: str = ""
    is_in_user_store: bool = False


def printable_path(path: str) -> str:
    """A path as valid Unicode text. Bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def parse_user_path(item: str) -> InputPicture:
    """The picture at a path or URI from the user. The URI may have options. `reason` is as in `parse_path`."""
    location, options = split_options(item)
    return replace(parse_path(location, {store_of(location)}, options), path=printable_path(item))


def parse_path(path: str, user_stores: Collection[str] = (), options: str = "") -> InputPicture:
    """The picture at a path or URI from a manifest. `reason` says why it cannot name a file or may not be opened.

    `user_stores` are the stores that the user named (`object_stores.store_of`). `options` are used for these.
    """
    if "\0" in path:
        return InputPicture(printable_path(path.replace("\0", "\\0")), reason="a path cannot hold a NUL character")
    scheme, separator, _ = path.partition("://")
    if not separator:
        return InputPicture(printable_path(path), os.path.abspath(path))  # noqa: PTH100 (also of bytes that are no UTF-8)
    if scheme.lower() in _WEB:
        return InputPicture(
            printable_path(path), reason=f"{scheme}:// is not read by predict; fetch it with `raypipe ingest`"
        )
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        return InputPicture(
            printable_path(path), reason=f"{printable_path(scheme)}:// is not read by predict; give a path, or {known}"
        )
    if scheme == "file":
        try:
            return InputPicture(printable_path(path), pafs.FileSystem.from_uri(path)[1])
        except (OSError, ValueError) as error:
            return InputPicture(printable_path(path), reason=f"is no URI of a file: {one_line(error)}")
    if store_of(path) in user_stores and not split_options(path)[1]:
        return InputPicture(printable_path(path), path, options=options, is_in_user_store=True)
    return InputPicture(printable_path(path), path, reason=refusal_reason(path))


def add_file_info(pictures: Sequence[InputPicture], storage: Storage) -> list[InputPicture]:
    """The pictures with the size of their files and the time of change, or the reason why a file cannot be read.

    Raises StageError if an object store that the user named does not answer.
    """
    found = [_add_local_info(one) if "://" not in one.location else one for one in pictures]
    asked = [i for i, one in enumerate(found) if one.reason is None and one.size is None]
    remote: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in asked:
        remote[found[i].location.rpartition("/")[0], found[i].options].append(i)
    stores = _StoreClient(storage)
    alone: list[int] = []
    for (folder, options), places in remote.items():
        listed = stores.list_folder(folder, options) if len(places) >= _WORTH_LISTING else {}
        for i in places:
            if found[i].location in listed:
                found[i] = with_file_info(found[i], listed[found[i].location])
            else:
                alone.append(i)
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        for i, one in zip(alone, pool.map(stores.request_info, [found[i] for i in alone]), strict=True):
            found[i] = one
    return found


def _add_local_info(picture: InputPicture) -> InputPicture:
    if picture.reason is not None:
        return picture
    try:
        status = os.stat(picture.location)  # noqa: PTH116
    except (OSError, ValueError) as error:
        return replace(picture, reason=_read_error_text(error))
    if stat.S_ISDIR(status.st_mode):
        return replace(picture, reason="is a folder")
    if not stat.S_ISREG(status.st_mode):
        return replace(picture, reason="is no regular file")
    return _check_size(replace(picture, size=status.st_size, modified_ns=status.st_mtime_ns))


def _read_error_text(error: Exception) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "there is no such file"
    return f"cannot be read: {getattr(error, 'strerror', None) or one_line(error)}"


def _check_size(picture: InputPicture) -> InputPicture:
    size = picture.size or 0
    if 0 < size <= _MOST_BYTES:
        return picture
    return replace(picture, reason=f"is too large: {size:,} bytes, {_MOST_BYTES:,} are allowed" if size else "is empty")


def with_file_info(picture: InputPicture, info: pafs.FileInfo) -> InputPicture:
    """The picture with size and time from a listing of its file, or the reason why it cannot be read."""
    if info.type == pafs.FileType.NotFound:
        return replace(picture, reason="there is no such file")
    if info.type == pafs.FileType.Directory:
        return replace(picture, reason="is a folder")
    return _check_size(replace(picture, size=info.size, modified_ns=info.mtime_ns or 0))


@dataclass
class _StoreClient:
    """Requests facts about files from object stores, and remembers which services answer."""

    storage: Storage
    answered: set[str] = field(default_factory=set)
    failures_by_service: Counter[str] = field(default_factory=Counter)

    def list_folder(self, folder: str, options: str) -> dict[str, pafs.FileInfo]:
        """Files of a folder by URI. Empty if it cannot be listed: each picture then needs a request of its own."""
        if self._is_unavailable(folder):
            return {}
        try:
            filesystem, path = open_store(folder, options, self.storage)
            infos = filesystem.get_file_info(pafs.FileSelector(path))
        except STORE_ERRORS as error:
            self._count_failure(folder, error)
            return {}
        self.answered.add(service_of(folder))
        return {f"{folder}/{info.base_name}": info for info in infos}

    def request_info(self, picture: InputPicture) -> InputPicture:
        """The picture with its file info. Raises StageError if a store that the user named does not answer."""
        if self._is_unavailable(picture.location):
            return replace(picture, reason=f"cannot be read: {service_of(picture.location)} has not answered")
        try:
            filesystem, path = open_store(picture.location, picture.options, self.storage)
            found = with_file_info(picture, filesystem.get_file_info(path))
        except STORE_ERRORS as error:
            self._count_failure(picture.location, error)
            return replace(picture, reason=_store_error_text(picture, error, self.storage))
        self.answered.add(service_of(picture.location))
        return found

    def _is_unavailable(self, location: str) -> bool:
        service = service_of(location)
        return service not in self.answered and self.failures_by_service[service] >= _MAX_FAILURES

    def _count_failure(self, location: str, error: Exception) -> None:
        if _is_store_failure(error):
            self.failures_by_service[service_of(location)] += 1


def _is_store_failure(error: Exception) -> bool:
    """Whether an error is about the store, not about the file: it cannot be reached or is out of order."""
    is_about_file = isinstance(error, (FileNotFoundError, ValueError, StageError))
    return not is_about_file and not is_access_error(one_line(error))


def _store_error_text(picture: InputPicture, error: Exception, storage: Storage) -> str:
    """Why a file of an object store cannot be read. Raises StageError if a store named by the user does not answer."""
    reason = one_line(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if _is_store_failure(error) and _is_user_store(picture, storage):
        raise StageError(
            f"{picture.path}: cannot be read: {reason}; when the store answers again, run the same command again "
            "to continue"
        ) from error
    return f"cannot be read: {reason}"


def _is_user_store(picture: InputPicture, storage: Storage) -> bool:
    """Whether the user named the store of a picture: as an input, as the root, or as `storage.endpoint`."""
    own_server = storage.endpoint is not None and scheme_of(picture.location) == "s3"
    return picture.is_in_user_store or own_server or store_of(picture.location) == store_of(storage.root)


def pictures_fingerprint(pictures: Iterable[InputPicture]) -> str:
    """SHA-256 over the paths, in order, with one text per path. If a picture cannot be read, the text is the reason.
    Otherwise it is a hash of the content if all pictures are on this machine and have at most 256 MiB together, or
    else size and time of the last change.
    """
    stamped = list(pictures)
    all_local = all("://" not in one.location for one in stamped)
    hashed = all_local and sum(one.size or 0 for one in stamped if one.reason is None) <= _HASHED_BYTES
    digest = hashlib.sha256()
    for one in stamped:
        identity = one.reason or (_content(one) if hashed else f"{one.size} {one.modified_ns}")
        digest.update(f"{len(one.path)} {one.path} {identity}\0".encode())
    return digest.hexdigest()


def _content(picture: InputPicture) -> str:
    data = _read_local(picture)
    return data.reason if isinstance(data, Undecodable) else hashlib.sha256(data).hexdigest()


def read_picture(picture: InputPicture, storage: Storage) -> bytes | Undecodable:
    """All bytes of a picture, or the reason why there are none, for example that it changed since the run began.

    Raises StageError if an object store that the user named does not answer.
    """
    if picture.reason is not None:
        return Undecodable(picture.reason)
    if "://" not in picture.location:
        return _read_local(picture)
    try:
        filesystem, path = open_store(picture.location, picture.options, storage)
        # An input stream would request 256 KB at a time from an object store.
        with filesystem.open_input_file(path) as file:
            data = bytes(file.read())
    except STORE_ERRORS as error:
        return Undecodable(_store_error_text(picture, error, storage))
    return data if len(data) == picture.size else Undecodable(_CHANGED)


def _read_local(picture: InputPicture) -> bytes | Undecodable:
    try:
        with Path(picture.location).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
            status = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        return Undecodable(_read_error_text(error))
    same = (status.st_size, status.st_mtime_ns, len(data)) == (picture.size, picture.modified_ns, picture.size)
    return data if same else Undecodable(_CHANGED)
