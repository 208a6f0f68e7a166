"""What a trial is: light enough for the processes that only pass it on, which need neither torch nor torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from raypipe import tables
from raypipe.sections.learning import TrainOptions
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train.target import Target

if TYPE_CHECKING:
    from raypipe.train.images import ImageSet


@dataclass(frozen=True)
class Trial:
    """One configuration in one form (see `raypipe.train.recipe`) with one seed."""

    configuration: str
    seed: int
    form: str = "paper"

    @property
    def label(self) -> str:
        """As tables call the configuration: its letter alone for the paper's form."""
        return self.configuration if self.form == "paper" else f"{self.configuration} {self.form}"

    @property
    def name(self) -> str:
        """As files and logs call it."""
        return f"{self.label.replace(' ', '-')}-{self.seed}"


@dataclass(frozen=True)
class PictureTable:
    """Where the decoded pictures are: a table of `pixels` (uint8, [3, size, size]) by split, and what is learned."""

    storage: Storage
    table: str
    image_size: int
    target: Target

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
        labels = self.target.encode(rows["label"])
        return image_set(images, labels, rows["post_id"].to_pylist(), labels.dtype.type)


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
