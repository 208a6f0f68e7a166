"""Rows of one shape in ``.npy`` files: their places, copies of the files on this machine, and reading parts of them.

Decoded pictures and features of frozen convolutions are stored this way. Imports no torch, because decoding needs none.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.storage.scratch import FindMissing, Lease

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.npy")
_HEADER_BYTES = 4096
_FILES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class NpyRows:
    """Places of rows: row i is row ``place[i]`` of the file ``names[shard[i]]`` in a folder of a storage.

    `shard`, `place`: int64 [n]. `row_shape` and `dtype` (numpy's name) are those of one row. Picklable. Raises
    StageError if a name is not a plain file name; names may come with a root from elsewhere.
    """

    storage: Storage
    folder: str
    names: tuple[str, ...]
    shard: NDArray[np.int64]
    place: NDArray[np.int64]
    row_shape: tuple[int, ...]
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        for name in self.names:
            # Files of an object store are copied under their names into a folder of this machine.
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise StageError(
                    f"{self.storage.uri(self.folder)}: {name!r} is not a name of a file of rows; delete it"
                )

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows, [len(rows), *row_shape]. Reads only these rows of each file, several files at a time.

        Raises StageError if a file is missing.
        """
        found = np.empty((len(rows), *self.row_shape), self.dtype)
        numbers = np.unique(self.shard[rows])
        if len(numbers):
            # An object store is slow to answer a request, but answers many requests at once.
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


def local_folder(shards: NpyRows) -> tuple[Path, Lease | None]:
    """The folder of this machine that holds the files. Files of an object store are copied to it, once per machine.

    Copies stay while the lease is open, and afterwards as long as there is room. Raises NoRoomError if there is none.
    """
    if shards.storage.is_local:
        return Path(shards.storage.path(shards.folder)), None
    lease = shards.storage.scratch.hold(
        _copy_name(shards), _missing(shards), lambda name, target: _download(shards, name, target)
    )
    return lease.folder, lease


def _missing(shards: NpyRows) -> FindMissing:
    sizes = shards.storage.sizes(shards.folder)

    def missing(folder: Path) -> dict[str, int]:
        found = {name: _size_of(folder / name) for name in shards.names}
        # After a power cut, a file may have its name but not its content. It is copied again if its size is wrong.
        return {name: sizes.get(name, 0) for name, size in found.items() if size < 0 or size != sizes.get(name, size)}

    return missing


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _download(shards: NpyRows, name: str, target: Path) -> None:
    path = f"{shards.folder}/{name}"
    try:
        with shards.storage.errors("read", path):
            source = shards.storage.filesystem.open_input_stream(shards.storage.path(path))
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 2**24)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StageError(f"{target.parent}: cannot store a copy of {shards.storage.uri(path)}: {error}") from error


def _copy_name(shards: NpyRows) -> str:
    place = f"{shards.storage.endpoint} {shards.storage.uri(shards.folder)}"
    return f"copy-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def fits_on_machine(shards: NpyRows) -> bool:
    """Whether all files are on this machine, or its scratch folder has room for a copy of them."""
    return shards.storage.is_local or shards.storage.scratch.has_room(_copy_name(shards), _missing(shards))
