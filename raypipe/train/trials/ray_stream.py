"""Reads pictures of an object store with Ray Data, in the order of the loop's batches, without a copy on a disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypipe.train.data.npy_rows import NpyRows
from raypipe.train.loop.workers import RowIndices

_BATCHES_A_TASK = 4
_TASKS = 8


class StreamedRows:
    """`NpyRows` that Ray tasks read batch by batch, some batches ahead. Nothing is stored on a disk."""

    def __init__(self, shards: NpyRows) -> None:
        import ray

        self._shards, self._reference = shards, ray.put(shards)

    @property
    def shape(self) -> torch.Size:
        """[n, *row_shape]."""
        return torch.Size((len(self._shards), *self._shards.row_shape))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the rows."""
        return torch.from_numpy(np.empty(0, self._shards.dtype)).dtype

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, rows: Any, /) -> Tensor:
        """The rows of an index tensor or a slice, read in this process."""
        picked = np.arange(len(self))[rows.numpy() if isinstance(rows, Tensor) else rows]
        return torch.from_numpy(self._shards.read(picked))

    def batches(self, row_batches: Sequence[RowIndices]) -> Iterator[Tensor]:
        """See `raypipe.train.loop.batch_loader.BatchStream`."""
        import ray

        items = [{"batch": number, "rows": rows.tolist()} for number, rows in enumerate(row_batches)]
        n_tasks = -(-len(items) // _BATCHES_A_TASK)
        data = ray.data.from_items(items, override_num_blocks=n_tasks)
        data = data.map(
            _read,
            fn_kwargs={"shards": self._reference},
            # The workers of a trial reserve all CPUs. Reading mostly waits for the store and needs no CPU.
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(_TASKS, n_tasks)),
        )
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False
        for row in data.iter_rows():
            found = np.frombuffer(row["bytes"], self._shards.dtype)
            yield torch.from_numpy(found.reshape(-1, *self._shards.row_shape).copy())


def _read(row: dict[str, Any], shards: Any) -> dict[str, Any]:
    """Reads one batch in a Ray task."""
    import ray

    found = ray.get(shards).read(np.asarray(row["rows"], np.int64))
    return {"batch": row["batch"], "bytes": found.tobytes()}
