"""Reads the weights of a VGG from Keras' files, in torch's order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from raypipe.errors import InputError

KERAS = (".h5", ".hdf5")
# Limit per array. The first FC layer has 0.4 GB for pictures of 224 pixels, 2.1 GB for 512.
_MOST_BYTES = 2**32
POOLED_FEATURES = 512 * 7 * 7


def read_keras(path: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of the layers that `path` has, by torchvision's names. `names` maps these to Keras' names.

    Kernels [height, width, in, out] become [out, in, height, width], those of FC layers [out, in]. The inputs of the
    first FC layer are reordered from a flattened height, width, channel map to channel, height, width order. Raises
    InputError if a layer has no kernel or no bias, or is stored in another file. Raises OSError or ValueError if the
    file is not HDF5.
    """
    state = {}
    with h5py.File(path, "r") as file:
        within = next((group for group in ("model_weights", "layers") if group in file), None)
        layers = file if within is None else _own(file, within, f"train.weights: {path}: group {within}")
        for name, keras_name in names.items():
            if keras_name not in layers:
                continue
            where = f"train.weights: {path}: layer {keras_name}"
            kernel, bias = _keras_layer(_own(layers, keras_name, where), where)
            state[f"{name}.weight"] = _keras_kernel(kernel, keras_name)
            state[f"{name}.bias"] = torch.from_numpy(bias)
    return state


def _own(group: Any, name: str, where: str) -> Any:
    """The group `name` in `group`. Raises InputError if it is a link, for example to another file, or not a group."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Group):
        raise InputError(f"{where}: is not a group of this file")
    return group[name]


def _keras_layer(group: Any, where: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    # The names of the data sets differ between versions of Keras. Kernels have more dimensions than biases.
    found: dict[bool, Any] = {}

    def visit(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            _check_stored(item, where)
            found[item.ndim > 1] = item

    group.visititems(visit)
    if len(found) != 2:
        raise InputError(f"{where}: needs a kernel and a bias")
    return np.asarray(found[True], dtype=np.float32), np.asarray(found[False], dtype=np.float32)


def _check_stored(item: h5py.Dataset, where: str) -> None:
    """Raises InputError on data in other files, or on more data than a layer has: even an empty file can declare it."""
    if item.external or item.is_virtual:
        raise InputError(f"{where}: {item.name} is stored in another file")
    if item.dtype.kind not in "fiu" or item.nbytes > _MOST_BYTES:
        raise InputError(f"{where}: {item.name} has {item.size:,} values of {item.dtype}: these are not weights")


def _keras_kernel(kernel: np.ndarray[Any, Any], keras_name: str) -> Tensor:
    tensor = torch.from_numpy(kernel)
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    if keras_name == "fc1" and len(tensor) == POOLED_FEATURES:
        tensor = rows_by_channel(tensor, side=7)
    return tensor.t().contiguous()


def rows_by_channel(kernel: Tensor, side: int) -> Tensor:
    """Reorders the rows of an FC `kernel` [side·side·channels, out] from a flattened height, width, channel map to a
    flattened channel, height, width map."""
    n_out = kernel.shape[1]
    return kernel.reshape(side, side, -1, n_out).permute(2, 0, 1, 3).reshape(-1, n_out)
