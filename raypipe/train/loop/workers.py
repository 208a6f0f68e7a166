"""The data-parallel workers of one training: how they share rows and exchange tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

RowIndices = NDArray[np.int64]


class Workers:
    """The workers of a torch.distributed `group`, seen from this process. Only one worker if `group` is None."""

    def __init__(self, group: Any | None = None) -> None:
        self.group = group
        self.rank = dist.get_rank(group) if group is not None else 0
        self.size = dist.get_world_size(group) if group is not None else 1

    def own_part(self, rows: RowIndices) -> RowIndices:
        """This worker's contiguous part of `rows`. The parts cover all rows, and their sizes differ by at most one."""
        return np.array_split(rows, self.size)[self.rank]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over the workers."""
        if self.size > 1:
            pending = [dist.all_reduce(tensor, group=self.group, async_op=True) for tensor in tensors]
            for work in pending:
                work.wait()

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by the first worker's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.group, group_src=0)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """All `n` rows in order. Each worker passes as `part` the rows of its `own_part` of range(n)."""
        if self.size == 1:
            return part
        sizes = [len(rows) for rows in np.array_split(np.arange(n), self.size)]
        padded = part.new_zeros((max(sizes), *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is true on any worker. All workers get the same answer."""
        votes = torch.tensor([float(flag)], device=device)
        self.sum([votes])
        return bool(votes.item() > 0)
