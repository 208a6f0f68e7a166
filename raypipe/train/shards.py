"""Rows of one shape in ``.npy`` files: mapped into memory where they lie on this machine, read in pieces elsewhere.

Decoded pictures and the features of frozen convolutions are kept this way. A mapped file costs no memory of its own:
processes of one machine share its pages, and the system drops them when it needs the room.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypipe.errors import StageError
from raypipe.storage import Storage

_HEADER_BYTES = 4096
_FILES_AT_ONCE = 16
_SPARE = 0.9


class RowSource(Protocol):
    """Rows of one shape that are picked by number: a Tensor is one, and so is all that this module opens."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Shards:
    """Where rows are: row i is number ``place[i]`` of the file ``names[shard[i]]`` in the folder of a storage.

    `shard`, `place`: int64 [n]; `row_shape` and `dtype` (numpy's name) are those of one row. Picklable.
    """

    storage: Storage
    folder: str
    names: tuple[str, ...]
    shard: NDArray[np.int64]
    place: NDArray[np.int64]
    row_shape: tuple[int, ...]
    dtype: str = "uint8"

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def n_bytes(self) -> int:
        """Bytes of all files, whether their rows are among these or not."""
        sizes = self.storage.sizes(self.folder)
        return sum(sizes.get(name, 0) for name in self.names)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows, [len(rows), *row_shape], each file asked for them alone, some files at a time.

        Raises StageError where one is missing.
        """
        found = np.empty((len(rows), *self.row_shape), self.dtype)
        numbers = np.unique(self.shard[rows])
        if len(numbers):
            # An object store takes its time for each answer, and gives many at once.
            with ThreadPoolExecutor(min(_FILES_AT_ONCE, len(numbers))) as pool:
                list(pool.map(lambda number: self._read_file(number, rows, found), numbers))
        return found

    def _read_file(self, number: int, rows: NDArray[np.int64], found: NDArray[Any]) -> None:
        path, row_bytes = f"{self.folder}/{self.names[number]}", found[:1].nbytes
        with self.storage.errors("read", path), self._open(path) as file:
            start = _data_offset(file.read_at(_HEADER_BYTES, 0))
            for i in np.flatnonzero(self.shard[rows] == number):
                data = file.read_at(row_bytes, start + int(self.place[rows[i]]) * row_bytes)
                found[i] = np.frombuffer(data, self.dtype).reshape(self.row_shape)

    def _open(self, path: str) -> Any:
        return self.storage.filesystem.open_input_file(self.storage.path(path))


def to_npy(rows: NDArray[Any]) -> memoryview:
    """The bytes of a ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, rows, allow_pickle=False)
    return stream.getbuffer()


def _data_offset(head: bytes) -> int:
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    return stream.tell()


class MappedRows:
    """`Shards` whose files are mapped into memory; bfloat16 is kept as uint16."""

    def __init__(self, shards: Shards) -> None:
        folder = local_folder(shards)
        self._shard, self._place = shards.shard, shards.place
        self._as = torch.bfloat16 if shards.dtype == "uint16" else None
        self._row_shape, self._dtype = shards.row_shape, np.dtype(shards.dtype)
        needed = set(np.unique(shards.shard).tolist())
        self._files = {number: _map(folder / shards.names[number], shards) for number in needed}

    @property
    def shape(self) -> torch.Size:
        """[n, *row_shape]."""
        return torch.Size((len(self), *self._row_shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows as they are given."""
        return self._as or torch.from_numpy(np.empty(0, self._dtype)).dtype

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, rows: Any, /) -> Tensor:
        """A copy of the rows of an index tensor or a slice."""
        picked = np.arange(len(self))[rows.numpy() if isinstance(rows, Tensor) else rows]
        found = np.empty((len(picked), *self._row_shape), self._dtype)
        for i, row in enumerate(picked):
            # A plain copy lets other threads go on meanwhile.
            found[i] = self._files[self._shard[row]][self._place[row]]
        tensor = torch.from_numpy(found)
        return tensor.view(self._as) if self._as else tensor


def _map(path: Path, shards: Shards) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise StageError(
            f"{path}: is no file of decoded rows: {error}; delete {shards.storage.uri(shards.folder)}"
        ) from error
    if found.shape[1:] != shards.row_shape or found.dtype != np.dtype(shards.dtype):
        raise StageError(
            f"{path}: holds rows {found.dtype} {list(found.shape[1:])} instead of {shards.dtype} "
            f"{list(shards.row_shape)}; delete {shards.storage.uri(shards.folder)}"
        )
    return found


def local_folder(shards: Shards) -> Path:
    """The folder of this machine that holds the files; those of an object store are copied to it, once a machine."""
    if shards.storage.is_local:
        return Path(shards.storage.path(shards.folder))
    folder = copies_folder(shards)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for name in shards.names:
            target = folder / name
            if not target.exists():
                temporary = target.with_name(f"{name}.{uuid.uuid4().hex[:8]}.tmp")
                _download(shards, name, temporary)
                temporary.replace(target)
    return folder


def _download(shards: Shards, name: str, target: Path) -> None:
    path = f"{shards.folder}/{name}"
    try:
        with shards.storage.errors("read", path):
            source = shards.storage.filesystem.open_input_stream(shards.storage.path(path))
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 2**24)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StageError(f"{target.parent}: cannot keep a copy of {shards.storage.uri(path)}: {error}") from error
        raise


def copies_folder(shards: Shards) -> Path:
    """Where this machine keeps copies of an object store's files: below RAYPIPE_COPIES, or the temporary folder."""
    base = os.environ.get("RAYPIPE_COPIES") or str(Path(tempfile.gettempdir()) / "raypipe-copies")
    name = hashlib.sha256(f"{shards.storage.endpoint} {shards.storage.uri(shards.folder)}".encode()).hexdigest()[:16]
    return Path(base) / name


def fits_here(shards: Shards) -> bool:
    """Whether all files lie on this machine, or there is room for a copy of them."""
    if shards.storage.is_local:
        return True
    folder = copies_folder(shards)
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.glob("*.npy"))
    return shards.n_bytes - there <= _SPARE * shutil.disk_usage(folder).free


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Workers of one machine begin together; one copies, the others wait for it.
    with (folder / "lock").open("w") as handle:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
