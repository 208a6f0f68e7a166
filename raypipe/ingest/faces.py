"""Counting faces with dlib's frontal HOG detector (paper, section 3; King, Dlib-ml, JMLR 2009)."""

from __future__ import annotations

from dataclasses import dataclass

import dlib
import numpy as np
from PIL import Image

from raypipe.config import FaceOptions


@dataclass(frozen=True)
class Face:
    """A face's box in pixels of the upright picture (left and top from 0, right and bottom inclusive, as dlib gives
    them: a box may reach beyond the picture), and the detector's score (above 0; larger is surer).
    """

    left: int
    top: int
    right: int
    bottom: int
    score: float


class FaceDetector:
    """dlib's detector with the options of `faces`; one a process, it takes tenths of a second to make."""

    def __init__(self, options: FaceOptions) -> None:
        self.upsample = options.upsample
        self.max_side = options.max_side
        self._detector = dlib.get_frontal_face_detector()

    def detect(self, pixels: Image.Image, size: tuple[int, int]) -> list[Face]:
        """Faces in `pixels`, an RGB picture, with boxes in pixels of the picture of `size` that it was shrunk from.

        The same faces in the same order as dlib's own call on these pixels.
        """
        boxes, scores, _ = self._detector.run(np.asarray(pixels), self.upsample, 0.0)
        across, down = size[0] / pixels.width, size[1] / pixels.height
        return [
            Face(
                round(box.left() * across),
                round(box.top() * down),
                round((box.right() + 1) * across) - 1,
                round((box.bottom() + 1) * down) - 1,
                float(score),
            )
            for box, score in zip(boxes, scores, strict=True)
        ]
