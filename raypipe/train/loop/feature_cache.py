"""Cache of features of frozen convolutions, next to the decoded pictures: a second seed of A starts in seconds.

Their key covers network and weights, normalisation, pictures and their order, mirroring, and arithmetic.
Each file is written whole, and the list of files last. If there is no list, the features are computed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.train.data.mapped_rows import MappedRows, RowSource, map_if_room
from raypipe.train.data.npy_rows import NpyRows, fits_on_machine, to_npy
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.loop.inputs import DType
from raypipe.train.loop.workers import Workers
from raypipe.train.networks.vgg import Network

FEATURES_FOLDER = "_features"
_FILE_BYTES = 2**28
_STORED = {"float32": "float32", "bfloat16": "uint16"}
_POLL_SECONDS = 1.0


class ComputeLock(Protocol):
    """Decides which of several trainings computes features that all of them need."""

    def acquire(self, name: str) -> bool:
        """Whether this training may compute them now. If not, another one is computing them."""

    def release(self, name: str) -> None:
        """Let another training compute features."""


@dataclass(frozen=True)
class FeatureCache:
    """Features in a folder of decoded pictures; `fingerprint` identifies the pictures.

    With `compute_lock`, a training waits for features that another one is computing.
    """

    storage: Storage
    folder: str
    fingerprint: str
    compute_lock: ComputeLock | None = None

    def key(self, model: Network, preprocessing: Preprocessing, device: torch.device, dtype: DType) -> str:
        """Hash of everything that features of these pictures depend on, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        # The device's type is part of the key because the last bits differ between types.
        for text in (_FILE_BYTES, self.fingerprint, type(model).__name__, preprocessing.to_json(), device.type, dtype):
            digest.update(f"{text}\0".encode())
        for name, value in sorted(model.frozen_part.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def get(
        self,
        name: str,
        shape: tuple[int, int],
        dtype: DType,
        *,
        workers: Workers,
        device: torch.device,
        compute: Callable[[], Tensor],
    ) -> tuple[RowSource, str, float]:
        """Features of `shape` [n, d] called `name` (key and part), a short text about their origin, and seconds waited.

        If no features are stored, every worker calls `compute`, and the first worker stores them if there is room. The
        seconds are those of waiting for another training that computes them.
        """
        find = partial(self._find, name, dtype, shape, workers, device)
        began, found = time.monotonic(), find()
        while found is None and not self._acquire_lock(name, workers, device):
            time.sleep(_POLL_SECONDS)
            found = find()
        waited = time.monotonic() - began
        if found is not None:
            return found, "found on disk", waited
        try:
            # The training that had the lock before may have stored them since the last check.
            found = find() if self.compute_lock is not None else None
            source, origin = (found, "found on disk") if found is not None else self._computed(name, compute, workers)
            return source, origin, waited
        finally:
            if self.compute_lock is not None and workers.rank == 0:
                self.compute_lock.release(name)

    def _acquire_lock(self, name: str, workers: Workers, device: torch.device) -> bool:
        """Whether this training gets the lock.

        The first worker requests it, often enough that the other workers do not time out while they wait."""
        return not workers.any(
            workers.rank == 0 and self.compute_lock is not None and not self.compute_lock.acquire(name), device
        )

    def _computed(self, name: str, compute: Callable[[], Tensor], workers: Workers) -> tuple[Tensor, str]:
        features = compute()
        if workers.rank == 0:
            try:
                self._store(name, features)
            except StageError as error:
                # The training can go on: features that are not stored can be computed again.
                return features, f"computed, not kept: {error}"
        return features, "computed and kept"

    def _find(
        self, name: str, dtype: DType, shape: tuple[int, int], workers: Workers, device: torch.device
    ) -> MappedRows | None:
        """The stored features, if every worker finds them and has room for a copy. Else None, so that all compute."""
        shards = self._listed(name, dtype, shape)
        if workers.any(shards is None or not fits_on_machine(shards), device) or shards is None:
            return None
        found = map_if_room(shards)
        return None if workers.any(found is None, device) else found

    def _listed(self, name: str, dtype: DType, shape: tuple[int, int]) -> NpyRows | None:
        if not self.storage.exists(self._list(name)):
            return None
        names = tuple(json.loads(self.storage.read(self._list(name))))
        return self._shards(name, names, dtype, shape)

    def _list(self, name: str) -> str:
        return f"{self.folder}/{FEATURES_FOLDER}/{name}/_files.json"

    def _shards(self, name: str, names: tuple[str, ...], dtype: DType, shape: tuple[int, int]) -> NpyRows:
        rows, each = np.arange(shape[0]), _rows_a_file(shape[1], dtype)
        folder = f"{self.folder}/{FEATURES_FOLDER}/{name}"
        return NpyRows(self.storage, folder, names, rows // each, rows % each, (shape[1],), _STORED[dtype])

    def _store(self, name: str, features: Tensor) -> None:
        dtype: DType = "bfloat16" if features.dtype == torch.bfloat16 else "float32"
        each = _rows_a_file(features.shape[1], dtype)
        names = []
        for start in range(0, len(features), each):
            part = features[start : start + each].cpu()
            stored = part.view(torch.uint16).numpy() if dtype == "bfloat16" else part.numpy()
            names.append(f"{start // each:04d}.npy")
            self.storage.write(f"{self.folder}/{FEATURES_FOLDER}/{name}/{names[-1]}", to_npy(stored))
        self.storage.write(self._list(name), json.dumps(names).encode())


def _rows_a_file(n_features: int, dtype: DType) -> int:
    return max(1, _FILE_BYTES // (n_features * (2 if dtype == "bfloat16" else 4)))
