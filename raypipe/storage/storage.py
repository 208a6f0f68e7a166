"""The storage of a run: a local directory or an object store, behind one small interface over pyarrow's filesystems."""

from __future__ import annotations

import contextlib
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe.errors import StageError, one_line
from raypipe.storage.scratch import Scratch

_DISK_FULL = 28
_ATTEMPTS = 5
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 60.0
# Half the size of the parts in which pyarrow uploads.
_ONE_PUT_BYTES = 5 * 2**20


@dataclass(frozen=True)
class Storage:
    """A root directory or URI. Picklable, so that Ray workers open the same root themselves.

    `endpoint` (URL), `region` and `profile` apply to ``s3://`` roots. Paths given to the methods are relative to the
    root and use ``/``. `scratch` is the folder in which a machine keeps copies of its files.
    """

    root: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    scratch: Scratch = field(default_factory=Scratch)

    def __getstate__(self) -> dict[str, Any]:
        # The working directory of a worker differs from that of this process.
        root = self.root if "://" in self.root else str(Path(self.root).expanduser().absolute())
        kept = {"root": root, "endpoint": self.endpoint, "region": self.region, "profile": self.profile}
        return {**kept, "scratch": self.scratch}

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if self.root.startswith("s3://"):
            return self._open_s3()
        if "://" in self.root:
            try:
                filesystem, base = pafs.FileSystem.from_uri(self.root)
            except Exception as error:
                raise StageError(f"root {self.root}: cannot be opened: {one_line(error)}") from error
            return filesystem, base.rstrip("/")
        return pafs.LocalFileSystem(), str(Path(self.root).expanduser().absolute())

    def _open_s3(self, **more: Any) -> tuple[pafs.FileSystem, str]:
        options: dict[str, Any] = {
            "region": self.region,
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            "request_timeout": _ANSWER_SECONDS,
            "connect_timeout": _CONNECT_SECONDS,
            **more,
        }
        if self.endpoint:
            scheme, _, host = self.endpoint.partition("://")
            options.update(endpoint_override=host or scheme, scheme=scheme if host else "https")
        if self.profile:
            import boto3
            from botocore.exceptions import BotoCoreError

            try:
                session = boto3.Session(profile_name=self.profile)
                credentials = session.get_credentials()
            except BotoCoreError as error:
                raise StageError(
                    f"storage.profile {self.profile}: {one_line(error)}; see `aws configure list`"
                ) from error
            if credentials is None:
                raise StageError(
                    f"storage.profile {self.profile}: has no credentials; run `aws configure --profile {self.profile}`"
                )
            frozen = credentials.get_frozen_credentials()
            options.update(access_key=frozen.access_key, secret_key=frozen.secret_key, session_token=frozen.token)
            options["region"] = self.region or session.region_name
        try:
            return pafs.S3FileSystem(**options), self.root.removeprefix("s3://").rstrip("/")
        except (OSError, ValueError) as error:
            raise StageError(f"root {self.root}: cannot be opened: {one_line(error)}") from error

    @cached_property
    def _one_put(self) -> pafs.FileSystem:
        # One request per file instead of three. Not for files of several parts: if an upload cannot begin, pyarrow puts
        # an empty object on close.
        return self._open_s3(allow_delayed_open=True)[0] if self.root.startswith("s3://") else self.filesystem

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem of the root."""
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        """Whether the root is a directory on this machine (or mounted on it)."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """The path for `filesystem` of a path relative to the root.

        Raises StageError if it would be outside of the root. Names may come from files that others wrote.
        """
        for part in parts:
            if part.startswith("/") or ".." in part.replace("\\", "/").split("/"):
                raise StageError(f"{self.root}: the path {posixpath.join('', *parts)!r} is outside of this root")
        return posixpath.join(self._opened[1], *parts)

    def uri(self, *parts: str) -> str:
        """The path as a user would type it."""
        return posixpath.join(self.root, *parts)

    def exists(self, path: str) -> bool:
        """Whether there is a file or a directory at `path`."""
        with self.errors("find", path):
            return bool(self.filesystem.get_file_info(self.path(path)).type != pafs.FileType.NotFound)

    def read(self, path: str) -> bytes:
        """All bytes of a file. Raises FileNotFoundError if there is none."""
        try:
            # A stream would request 256 KB at a time from an object store.
            with self.filesystem.open_input_file(self.path(path)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._stage_error("read", path, error) from error

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write a file that appears whole or not at all.

        Local: the data go to a temporary file in the same directory, are flushed to disk, and the file is renamed.
        Object stores: one put of complete bytes, because pyarrow would publish a half-written stream on close after an
        exception.
        """
        with self.errors("write", path):
            if self.is_local:
                self._write_local(path, lambda stream: stream.write(data))
            else:
                self._put(path, data)

    def write_with(self, path: str, fill: Callable[[pa.NativeFile], object]) -> None:
        """Write a file whose data `fill` writes into an open stream. The file appears whole or not at all.

        Local: `fill` writes into the temporary file. Object stores: it writes into memory, then one put follows.
        """
        with self.errors("write", path):
            if self.is_local:
                self._write_local(path, fill)
                return
            with pa.BufferOutputStream() as stream:
                fill(stream)
                data = stream.getvalue()
            self._put(path, data)

    def _put(self, path: str, data: bytes | memoryview | pa.Buffer) -> None:
        n_bytes = data.size if isinstance(data, pa.Buffer) else len(data)
        filesystem = self._one_put if n_bytes <= _ONE_PUT_BYTES else self.filesystem
        with filesystem.open_output_stream(self.path(path)) as stream:
            stream.write(data)

    def _write_local(self, path: str, fill: Callable[[pa.NativeFile], object]) -> None:
        target = Path(self.path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with pa.OSFile(str(temporary), "wb") as stream:
                fill(stream)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def files(self, directory: str) -> list[str]:
        """Sorted paths, relative to `directory`, of all files below it. Empty if it does not exist."""
        return sorted(self.sizes(directory))

    def sizes(self, directory: str) -> dict[str, int]:
        """Bytes of all files below `directory`, by relative path. Leftovers of killed local writes are not included."""
        base = self.path(directory)
        selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
        with self.errors("list", directory):
            found = self.filesystem.get_file_info(selector)
        return {
            posixpath.relpath(item.path, base): item.size
            for item in found
            if item.type == pafs.FileType.File and not (self.is_local and _is_temporary(item.base_name))
        }

    def size(self, path: str) -> int:
        """Bytes of a file."""
        with self.errors("find", path):
            return int(self.filesystem.get_file_info(self.path(path)).size)

    def move(self, source: str, target: str) -> None:
        """Rename a file. On object stores, copy it on the server and delete the source."""
        with self.errors("write", target):
            if self.is_local:
                Path(self.path(target)).parent.mkdir(parents=True, exist_ok=True)
                Path(self.path(source)).replace(self.path(target))
                return
            self.filesystem.copy_file(self.path(source), self.path(target))
            self.filesystem.delete_file(self.path(source))

    def delete(self, path: str) -> None:
        """Delete a file. No error if there is none."""
        with self.errors("delete", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.filesystem.delete_file(self.path(path))

    def delete_directory(self, path: str) -> None:
        """Delete a directory and everything below it. No error if there is none."""
        with self.errors("delete", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.filesystem.delete_dir(self.path(path))

    def delete_temporaries(self, directory: str) -> None:
        """Delete the temporary files of killed local writes directly in `directory`. Object stores have none."""
        if self.is_local:
            for leftover in Path(self.path(directory)).glob("_*.tmp"):
                leftover.unlink(missing_ok=True)

    def prune(self, directory: str) -> None:
        """Delete the empty folders below a local `directory`, and then `directory` itself if it is empty."""
        if self.is_local:
            for folder, _, _ in os.walk(self.path(directory), topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    @contextlib.contextmanager
    def errors(self, verb: str, path: str) -> Iterator[None]:
        """Turn an OSError of the body into a one-line StageError: what failed on `path`, why, and what to do."""
        try:
            yield
        except OSError as error:
            raise self._stage_error(verb, path, error) from error

    def _stage_error(self, verb: str, path: str, error: OSError) -> StageError:
        if isinstance(error, FileNotFoundError):
            return StageError(
                f"{self.uri(path)}: cannot {verb}: it does not exist; run its stage again with --overwrite"
            )
        if not self.is_local:
            return StageError(explain(self, verb, path, one_line(error)))
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        full = error.errno == _DISK_FULL
        hint = "free space or choose another --root" if full else "choose another --root or fix its permissions"
        return StageError(f"{self.uri(path)}: cannot {verb}: {reason}; {hint}")


def explain(storage: Storage, verb: str, path: str, reason: str) -> str:
    """One line about an error of an object store: the path, the operation, the reason and what to do."""
    if any(word in reason for word in _REFUSED):
        hint = "give these credentials access to it, or choose another --root"
    elif any(word in reason for word in _NO_BUCKET):
        hint = "create the bucket, or choose another --root"
    else:
        where = f"the store at {storage.endpoint}" if storage.endpoint else "the store"
        hint = f"when {where} answers again, run the same command again to continue"
    return f"{storage.uri(path)}: cannot {verb}: {reason}; {hint}"


def is_access_error(reason: str) -> bool:
    """Whether an object store's error is about credentials or the bucket. Then a retry gives the same error."""
    return any(word in reason for word in (*_REFUSED, *_NO_BUCKET))


_REFUSED = ("ACCESS_DENIED", "AccessDenied", "Forbidden", "SignatureDoesNotMatch", "InvalidAccessKeyId")
_NO_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket")


def _is_temporary(name: str) -> bool:
    return name.startswith("_") and name.endswith(".tmp")
