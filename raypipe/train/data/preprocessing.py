"""How pixels are normalised for a network, which depends on the weights that it starts from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation: ``(pixel·scale − mean) / std``, pixels 0 to 255, by channel in `channel_order`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def to_json(self) -> str:
        """For a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """What `to_json` wrote. Raises ValueError where it is something else."""
        try:
            found = json.loads(text)
            return cls(tuple(found["mean"]), tuple(found["std"]), float(found["scale"]), found["channel_order"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a normalisation: {text[:80]}") from error


TORCHVISION = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
"""torchvision's own training of VGG-16."""

CAFFE_RGB = Preprocessing((0.48235, 0.45882, 0.40784), (1 / 255,) * 3, 1 / 255)
"""torchvision's conversion of the original weights: the paper's mean alone, channels already in RGB order."""

CAFFE_BGR = Preprocessing((103.939, 116.779, 123.68), channel_order="bgr")
"""Keras' files, which hold the original weights as Caffe had them: the paper's mean alone, channels in BGR order."""
