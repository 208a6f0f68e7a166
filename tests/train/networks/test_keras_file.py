"""Weights from Keras files of both layouts. Files that such a file points to are not read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from raypipe.errors import InputError
from raypipe.train.data.preprocessing import CAFFE_BGR
from raypipe.train.networks import weights as module
from raypipe.train.networks.keras_file import rows_by_channel
from raypipe.train.networks.weights import load_weights
from tests.train.networks.test_weights import CONVOLUTIONS


def test_keras_convolutions_have_own_normalisation_and_no_fc(shared_data: Path) -> None:
    loaded = load_weights(str(shared_data / "vgg16_notop.h5"))
    assert loaded.preprocessing == CAFFE_BGR
    assert loaded.fc is None
    assert loaded.convolutions is not None
    assert sum(value.numel() for value in loaded.convolutions.values()) == 14_714_688


def write_keras(path: Path, layout: str, *, fc: bool) -> np.ndarray:
    """Write a Keras file in the `old` or `new` layout. Returns the only columns of fc1's kernel that are not zero."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(25_088, 3)).astype(np.float32)
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if layout == "new" else file
        names = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]
        shapes = [module._expected()[f"features.{number}.weight"] for number in CONVOLUTIONS]
        for name, (n_out, n_in, height, width) in zip(names, shapes, strict=True):
            kernel, bias = (
                (f"{name}/kernel:0", f"{name}/bias:0") if layout == "new" else (f"{name}_W_1:0", f"{name}_b_1:0")
            )
            root.create_dataset(f"{name}/{kernel}", (height, width, n_in, n_out), "f4", fillvalue=0.25)
            root.create_dataset(f"{name}/{bias}", (n_out,), "f4", fillvalue=0.125)
        if fc:
            first = root.create_dataset("fc1/fc1_W_1:0", (25_088, 4096), "f4", chunks=(25_088, 1))
            first[:, :3] = columns
            root.create_dataset("fc1/fc1_b_1:0", (4096,), "f4")
            root.create_dataset("fc2/fc2_W_1:0", (4096, 4096), "f4", fillvalue=0.5)
            root.create_dataset("fc2/fc2_b_1:0", (4096,), "f4")
            root.create_dataset("predictions/predictions_W_1:0", (4096, 1000), "f4")
    return columns


def test_keras_fc1_is_reordered_from_height_width_channel(tmp_path: Path) -> None:
    columns = write_keras(tmp_path / "full.h5", "old", fc=True)
    loaded = load_weights(str(tmp_path / "full.h5"))
    assert loaded.fc is not None
    assert loaded.fc["classifier.0.weight"].shape == (4096, 25_088)
    map_ = np.random.default_rng(1).normal(size=(7, 7, 512)).astype(np.float32)
    theirs = map_.ravel() @ columns
    ours = loaded.fc["classifier.0.weight"][:3] @ torch.from_numpy(map_.transpose(2, 0, 1).ravel().copy())
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-2)
    assert float(loaded.fc["classifier.3.weight"][17, 4]) == 0.5


def test_newer_keras_layout_is_read(tmp_path: Path) -> None:
    write_keras(tmp_path / "new.h5", "new", fc=False)
    loaded = load_weights(str(tmp_path / "new.h5"))
    assert loaded.fc is None
    assert loaded.convolutions is not None
    assert float(loaded.convolutions["features.28.bias"][3]) == 0.125


def test_fc1_reordering_equals_manual_reordering() -> None:
    kernel = torch.arange(2 * 2 * 3).view(-1, 1)  # height, width, channel
    assert rows_by_channel(kernel, side=2).flatten().tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


@pytest.mark.parametrize("planted", ["link", "soft", "group", "storage", "virtual", "shape", "objects"])
def test_keras_file_cannot_read_other_files_or_oversized_data(tmp_path: Path, planted: str) -> None:
    secret, name = tmp_path / "secret.h5", "block1_conv1"
    with h5py.File(secret, "w") as file:
        file.create_dataset(f"{name}/kernel", data=np.ones((3, 3, 3, 64), np.float32))
        file.create_dataset(f"{name}/bias", data=np.ones(64, np.float32))
    (tmp_path / "secret.txt").write_bytes(b"secret" * 4_000)
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        if planted == "group":
            file["model_weights"] = h5py.ExternalLink(str(secret), "/")
        elif planted in ("link", "soft"):
            file[name] = h5py.ExternalLink(str(secret), name) if planted == "link" else h5py.SoftLink("/other")
        else:
            file.create_dataset(f"{name}/bias", (64,), "f4")
        if planted == "storage":
            outside = [(str(tmp_path / "secret.txt"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(f"{name}/kernel", (3, 3, 3, 64), "f4", external=outside)
        if planted == "virtual":
            layout = h5py.VirtualLayout((3, 3, 3, 64), "f4")
            layout[...] = h5py.VirtualSource(str(secret), f"{name}/kernel", (3, 3, 3, 64))
            file.create_virtual_dataset(f"{name}/kernel", layout)
        if planted == "shape":
            file.create_dataset(f"{name}/kernel", (10**6, 10**6), "f4", chunks=(1, 10))
        if planted == "objects":
            file.create_dataset(f"{name}/kernel", (3, 3), h5py.string_dtype())
    expected = "is not a group of this file|is stored in another file|these are not weights"
    with pytest.raises(InputError, match=expected):
        load_weights(str(tmp_path / "odd.h5"))


def test_keras_layer_without_bias_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file.create_dataset("block1_conv1/kernel:0", (3, 3, 3, 64), "f4")
    with pytest.raises(InputError, match="layer block1_conv1: needs a kernel and a bias"):
        load_weights(str(tmp_path / "odd.h5"))
