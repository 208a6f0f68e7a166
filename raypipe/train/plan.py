"""What a trial is: light enough for the processes that only pass it on, which need neither torch nor torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import TrainOptions
from raypipe.storage import Storage
from raypipe.tables import TableWriter

if TYPE_CHECKING:
    from raypipe.train.images import ImageSet


@dataclass(frozen=True)
class Trial:
    """One configuration with one seed."""

    configuration: str
    seed: int

    @property
    def name(self) -> str:
        """As files and logs call it."""
        return f"{self.configuration}-{self.seed}"


@dataclass(frozen=True)
class PictureTable:
    """Where the decoded pictures are: a table of `pixels` (uint8, [3, size, size]) by split, and the two classes."""

    storage: Storage
    table: str
    image_size: int
    classes: tuple[str, str]
    """The negative class and the positive one, whose probability the model gives."""

    def load(self, split: str) -> ImageSet:
        """The pictures of a split, ordered by post_id so that no partitioning shows; shape [n, 3, size, size]."""
        import numpy as np

        from raypipe.train.images import image_set

        columns = ["post_id", "label", "pixels"]
        where = (pc.field("split") == split) & pc.field("error").is_null()
        rows = tables.read_table(self.storage, self.table, columns, where=where).sort_by("post_id")
        images = np.empty((len(rows), 3, self.image_size, self.image_size), np.uint8)
        flat = images.reshape(len(rows), 3 * self.image_size**2)
        for i, pixels in enumerate(rows["pixels"]):
            flat[i] = np.frombuffer(pixels.as_buffer(), np.uint8)
        positive = pc.equal(rows["label"], self.classes[1]).to_numpy(zero_copy_only=False)
        return image_set(images, positive, rows["post_id"].to_pylist())


@dataclass(frozen=True)
class TrialPlan:
    """All that a worker needs to know of its trial besides the weights."""

    trial: Trial
    options: TrainOptions
    pictures: PictureTable
    writer: TableWriter

    @property
    def epochs(self) -> int:
        """Epochs at most."""
        return int(for_configuration(self.options.epochs, self.trial.configuration))


def for_configuration(value: Any, letter: str) -> Any:
    """One number for all configurations, or the one given for `letter`."""
    return value[letter] if isinstance(value, dict) else value
