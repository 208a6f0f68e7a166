"""Where a run lives: a local directory or an object store, behind one small interface over pyarrow's filesystems."""

from __future__ import annotations

import contextlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from raypipe.errors import StageError, one_line


@dataclass(frozen=True)
class Storage:
    """A root directory or URI; picklable, so Ray workers open the same place themselves.

    `endpoint` (URL), `region` and `profile` apply to ``s3://`` roots. Paths given to the methods are
    relative to the root and use ``/``.
    """

    root: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker's working directory is not this process's.
        root = self.root if "://" in self.root else str(Path(self.root).expanduser().absolute())
        return {"root": root, "endpoint": self.endpoint, "region": self.region, "profile": self.profile}

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

    def _open_s3(self) -> tuple[pafs.FileSystem, str]:
        options: dict[str, Any] = {
            "region": self.region,
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=5),
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

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem of the root."""
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        """True for a directory on this machine (or one mounted on it)."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """The path that `filesystem` understands for a path relative to the root."""
        return posixpath.join(self._opened[1], *parts)

    def uri(self, *parts: str) -> str:
        """The path as a person would type it."""
        return posixpath.join(self.root, *parts)

    def exists(self, path: str) -> bool:
        """Whether a file or a directory stands at `path`."""
        with self._errors("look for", path):
            return bool(self.filesystem.get_file_info(self.path(path)).type != pafs.FileType.NotFound)

    def read(self, path: str) -> bytes:
        """All bytes of a file; FileNotFoundError where there is none."""
        with self.filesystem.open_input_stream(self.path(path)) as stream:
            return bytes(stream.read())

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Put a file that appears whole or not at all.

        Local: a hidden temporary name beside it, flushed to disk, then renamed. Object stores: one put of
        bytes that are complete before the request starts (a stream left half-written by an exception would
        be published by pyarrow on close).
        """
        with self._errors("write", path):
            if not self.is_local:
                with self.filesystem.open_output_stream(self.path(path)) as stream:
                    stream.write(data)
                return
            target = Path(self.path(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def files(self, directory: str) -> list[str]:
        """Paths relative to `directory` of all files below it, sorted; empty where it does not exist."""
        base = self.path(directory)
        selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
        with self._errors("list", directory):
            found = self.filesystem.get_file_info(selector)
        return sorted(posixpath.relpath(item.path, base) for item in found if item.type == pafs.FileType.File)

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return int(self.filesystem.get_file_info(self.path(path)).size)

    def move(self, source: str, target: str) -> None:
        """Rename a file; on object stores, copy on the server and delete the source."""
        with self._errors("write", target):
            if self.is_local:
                Path(self.path(target)).parent.mkdir(parents=True, exist_ok=True)
                Path(self.path(source)).replace(self.path(target))
                return
            self.filesystem.copy_file(self.path(source), self.path(target))
            self.filesystem.delete_file(self.path(source))

    def delete(self, path: str) -> None:
        """Delete a file; nothing happens where there is none."""
        with self._errors("delete", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.filesystem.delete_file(self.path(path))

    def delete_directory(self, path: str) -> None:
        """Delete a directory and all below it; nothing happens where there is none."""
        with self._errors("delete", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.filesystem.delete_dir(self.path(path))

    def delete_temporaries(self, directory: str) -> None:
        """Delete what killed local writes have left directly in `directory`; object stores keep no such thing."""
        if self.is_local:
            for leftover in Path(self.path(directory)).glob("_*.tmp"):
                leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or one_line(error)
            hint = (
                "free space or choose another --root"
                if error.errno == 28
                else "choose another --root or mend its permissions"
            )
            raise StageError(f"{self.uri(path)}: cannot {verb}: {reason}; {hint}") from error
