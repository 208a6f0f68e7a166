"""Normalisation of pixels for a network. It depends on the weights from which the network starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation: ``(pixel·scale − mean) / std`` per channel, for pixels from 0 to 255 in `channel_order`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def to_json(self) -> str:
        """JSON for a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """The normalisation that `to_json` wrote. Raises ValueError on other text."""
        try:
            found = json.loads(text)
            return cls(tuple(found["mean"]), tuple(found["std"]), float(found["scale"]), found["channel_order"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a normalisation: {text[:80]}") from error


TORCHVISION = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
"""Normalisation of torchvision's own training of VGG-16."""

CAFFE_RGB = Preprocessing((0.48235, 0.45882, 0.40784), (1 / 255,) * 3, 1 / 255)
"""For torchvision's conversion of the original weights: only the paper's mean, channels already in RGB order."""

CAFFE_BGR = Preprocessing((103.939, 116.779, 123.68), channel_order="bgr")
"""For Keras' files, which hold the original Caffe weights: only the paper's mean, channels in BGR order."""
