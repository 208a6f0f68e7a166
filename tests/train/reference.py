"""VGG-16 in plain numpy, height × width × channel as in Keras, for comparison with raypipe's network."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]


def features(picture: Path, weights: Path, size: int) -> Array:
    """The last pooling layer [s/32, s/32, 512] of `picture` squeezed to `size`, in double precision."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)
    map_ = pixels[:, :, ::-1] - np.array([103.939, 116.779, 123.68])
    with h5py.File(weights) as file:
        for block, n in enumerate((2, 2, 3, 3, 3), 1):
            for layer in range(1, n + 1):
                map_ = np.maximum(_convolve(map_, file[f"block{block}_conv{layer}"]), 0)
            height, width, channels = map_.shape
            map_ = map_.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))
    return map_


def _convolve(map_: Array, layer: Any) -> Array:
    kernel, bias = (np.asarray(layer[name], dtype=np.float64) for name in layer.attrs["weight_names"])
    height, width, _ = map_.shape
    padded = np.pad(map_, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((height, width, kernel.shape[3])) + bias
    for row in range(3):
        for column in range(3):
            out += padded[row : row + height, column : column + width] @ kernel[row, column]
    return out
