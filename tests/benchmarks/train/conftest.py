"""Small generated photographs and weights with the layout of the real ones."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.training_root import jpeg

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@pytest.fixture(scope="session")
def insects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders {train,val}/{ants,bees}/*.jpg with 12 and 8 pictures. Ants are dark and bees are bright."""
    folder, rng = tmp_path_factory.mktemp("insects"), np.random.default_rng(0)
    for part, n in (("train", 6), ("val", 4)):
        for insect, brightness in (("ants", 70), ("bees", 190)):
            (folder / part / insect).mkdir(parents=True)
            for i in range(n):
                (folder / part / insect / f"{part}-{insect}-{i}.jpg").write_bytes(jpeg(rng, brightness))
    return folder


@pytest.fixture(scope="session")
def keras_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras file with random convolutions of VGG-16, in the layout of `vgg16_notop.h5`."""
    path, rng = tmp_path_factory.mktemp("weights") / "vgg16.h5", np.random.default_rng(0)
    n_in = 3
    with h5py.File(path, "w") as file:
        for block, widths in enumerate(BLOCKS, 1):
            for place, n_out in enumerate(widths, 1):
                name = f"block{block}_conv{place}"
                kernel = rng.standard_normal((3, 3, n_in, n_out), np.float32) * np.float32((2 / (9 * n_in)) ** 0.5)
                file[f"{name}/{name}_W_1:0"] = kernel
                file[f"{name}/{name}_b_1:0"] = np.zeros(n_out, np.float32)
                n_in = n_out
    return path
