"""Trials and their plans. Imports neither torch nor torchvision: some processes only pass trials on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.config.learning_options import TrainOptions, parse_hyperparameter, sweepable_options
from raypipe.config.search_space import combinations, text_of
from raypipe.errors import ConfigError
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train.data.target import Target

if TYPE_CHECKING:
    from raypipe.train.data.images import ImageSet
    from raypipe.train.data.mapped_rows import RowSource
    from raypipe.train.data.npy_rows import NpyRows
    from raypipe.train.loop.feature_cache import FeatureCache

ENDED_EARLY_FOLDER = "_ended"
"""Folder with one file per trial that the sweep ended early."""


@dataclass(frozen=True)
class Trial:
    """One configuration in one form (see `raypipe.train.loop.recipe`) with one seed, and with options of its own."""

    configuration: str
    seed: int
    form: str = "paper"
    values: tuple[tuple[str, Any], ...] = ()
    """Options of `train` that differ from the sweep's, in the order of the options."""

    @property
    def label(self) -> str:
        """The configuration's name in tables: only its letter for the paper's form and the sweep's options."""
        form = () if self.form == "paper" else (self.form,)
        return " ".join((self.configuration, *form, *(f"{name}={text_of(value)}" for name, value in self.values)))

    @property
    def name(self) -> str:
        """The trial's name in files and logs."""
        return f"{re.sub(r'[^A-Za-z0-9_.+-]', '-', self.label)}-{self.seed}"

    def options(self, train: TrainOptions) -> TrainOptions:
        """The options of `train`, with the trial's own values."""
        return train.model_copy(update=dict(self.values))


def sweep_trials(config: Config) -> list[Trial]:
    """All trials of a sweep: forms × configurations × combinations of `sweep.space` × seeds.

    Raises ConfigError if the option does not allow a value that was drawn from a distribution.
    """
    sweep, found = config.sweep, dict[str, Trial]()
    for form in sweep.forms or [config.train.form]:
        for letter in sweep.configs:
            for combination in combinations(sweep.space, letter, sweep.samples, config.seed):
                values = tuple(
                    (name, _allowed(name, combination[name])) for name in sweepable_options() if name in combination
                )
                for seed in range(config.seed, config.seed + sweep.seeds):
                    trial = Trial(letter, seed, form, values)
                    found.setdefault(trial.name, trial)
    return list(found.values())


def _allowed(name: str, value: Any) -> Any:
    try:
        return parse_hyperparameter(name, value)
    except ValueError as error:
        raise ConfigError(f"sweep.space: {error} (from a distribution); change its range") from error


@dataclass(frozen=True)
class PictureTable:
    """A table of decoded pictures, with each picture's `shard` (the ``.npy`` file), `place` in it and split, and the
    target."""

    storage: Storage
    table: str
    image_size: int
    target: Target

    @property
    def feature_cache(self) -> FeatureCache:
        """The cache for features of these pictures."""
        from raypipe.train.loop.feature_cache import FeatureCache

        inputs = tables.get_record(self.storage, self.table).inputs
        return FeatureCache(self.storage, self.table, f"{self.image_size} {sorted(inputs.items())}")

    def load(self, split: str, open_rows: Callable[[NpyRows], RowSource] | None = None) -> ImageSet:
        """The pictures of a split, ordered by post_id, so that the order does not depend on partitioning.

        Mapped into memory by default; `open_rows` can open them in another way."""
        import numpy as np

        from raypipe.train.data.images import image_set
        from raypipe.train.data.mapped_rows import MappedRows
        from raypipe.train.data.npy_rows import NpyRows

        columns = ["post_id", "label", "shard", "place"]
        where = (pc.field("split") == split) & pc.field("error").is_null()
        rows = tables.read_table(self.storage, self.table, columns, where=where).sort_by("post_id")
        names = pc.unique(rows["shard"]).sort()
        shards = NpyRows(
            self.storage,
            self.table,
            tuple(names.to_pylist()),
            np.asarray(pc.index_in(rows["shard"], value_set=names).to_numpy(), np.int64),
            np.asarray(rows["place"].to_numpy(), np.int64),
            (3, self.image_size, self.image_size),
        )
        labels = self.target.encode(rows["label"])
        images = (open_rows or MappedRows)(shards)
        return image_set(images, labels, rows["post_id"].to_pylist(), labels.dtype.type)


@dataclass(frozen=True)
class TrialPlan:
    """All that a worker needs for its trial, except the weights."""

    trial: Trial
    options: TrainOptions
    pictures: PictureTable
    writer: TableWriter

    @property
    def epochs(self) -> int:
        """The largest number of epochs."""
        return int(value_for_configuration(self.options.epochs, self.trial.configuration))


def value_for_configuration(value: Any, letter: str) -> Any:
    """`value` itself, or if it is a dictionary by configuration, the one for `letter` (None if there is none)."""
    return value.get(letter) if isinstance(value, dict) else value
