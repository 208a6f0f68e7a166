"""`NpyRows` as tensors, with their files mapped into memory.

A mapped file needs no memory of its own. Processes of one machine share its pages, and the system drops them when it
needs the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypipe.errors import StageError
from raypipe.storage.scratch import NoRoomError
from raypipe.train.data.npy_rows import NpyRows, local_folder


class RowSource(Protocol):
    """Rows of one shape that are read by number. A Tensor is a RowSource, and so is `MappedRows`."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


class MappedRows:
    """`NpyRows` whose files are mapped into memory. Files of uint16 hold bfloat16."""

    def __init__(self, shards: NpyRows) -> None:
        folder, self._lease = local_folder(shards)
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
        """Type of the returned rows."""
        return self._as or torch.from_numpy(np.empty(0, self._dtype)).dtype

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, rows: Any, /) -> Tensor:
        """A copy of the rows of an index tensor or a slice."""
        picked = np.arange(len(self))[rows.numpy() if isinstance(rows, Tensor) else rows]
        found = np.empty((len(picked), *self._row_shape), self._dtype)
        for i, row in enumerate(picked):
            # Copied one by one: other threads can run during a plain copy.
            found[i] = self._files[self._shard[row]][self._place[row]]
        tensor = torch.from_numpy(found)
        return tensor.view(self._as) if self._as else tensor


def _map(path: Path, shards: NpyRows) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StageError(f"{path}: is not a file of decoded rows: {error}; delete {path.parent}") from error
    if found.shape[1:] != shards.row_shape or found.dtype != np.dtype(shards.dtype):
        raise StageError(
            f"{path}: has rows {found.dtype} {list(found.shape[1:])} instead of {shards.dtype} "
            f"{list(shards.row_shape)}; delete {path.parent}"
        )
    return found


def map_if_room(shards: NpyRows) -> MappedRows | None:
    """The mapped rows. None if another process has taken the room for a copy since `fits_on_machine`."""
    try:
        return MappedRows(shards)
    except NoRoomError:
        return None
