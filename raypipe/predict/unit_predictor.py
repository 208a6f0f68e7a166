"""One unit of work of `predict`: reads and decodes its pictures, applies the model, and stages the rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from raypipe.pictures.decoding import DecoderPool, Undecodable, decode_square
from raypipe.predict.model import TrainedModel
from raypipe.predict.picture_files import InputPicture, read_picture
from raypipe.predict.rows import prediction_rows
from raypipe.tables import TableWriter


class UnitPredictor:
    """A model on one device, with `workers` child processes that decode pictures until the ``with`` body ends."""

    def __init__(self, model: TrainedModel, writer: TableWriter, device: str, workers: int) -> None:
        self._model, self._writer, self._device = model, writer, device
        decode = partial(decode_square, side=model.image_size)
        self._decoders: DecoderPool[NDArray[np.uint8]] = DecoderPool(decode, workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders.__exit__(kind, error, trace)

    def predict(self, unit: str, pictures: Sequence[InputPicture]) -> None:
        """Stage one row per picture: the model's prediction, or the reason why the picture cannot be read."""
        size = self._model.image_size
        read = partial(read_picture, storage=self._writer.storage)
        pixels = np.empty((len(pictures), 3, size, size), np.uint8)
        errors: list[str | None] = []
        n_decoded = 0
        for found in self._decoders(pictures, read):
            if isinstance(found, Undecodable):
                errors.append(found.reason)
                continue
            pixels[n_decoded] = found
            n_decoded += 1
            errors.append(None)
        predictions = self._model.predictions(pixels[:n_decoded], self._device)
        paths = [picture.path for picture in pictures]
        self._writer.write(unit, prediction_rows(self._model.head.target, paths, errors, predictions))
