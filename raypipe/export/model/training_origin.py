"""The training that a checkpoint came from, as far as the root's tables show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from raypipe import tables
from raypipe.config.learning_options import TrainOptions
from raypipe.storage import Storage
from raypipe.tables.record import RunRecord
from raypipe.tables.root_tables import RootTables
from raypipe.train.results.checkpoints import BEST_WEIGHTS_FILE, CHECKPOINTS_FOLDER
from raypipe.train.results.trial_result import TRIALS_FOLDER, TrialResult
from raypipe.train.results.trial_tables import hyperparameters
from raypipe.train.trial_plan import Trial


@dataclass(frozen=True)
class TrainingOrigin:
    """A trial of a complete training table. `seeds` are all trials of its configuration, including this one.

    `same_labels`: whether `labels/` are still those that it was trained on.
    """

    record: RunRecord
    trial: TrialResult
    seeds: tuple[TrialResult, ...]
    n_trials: int
    same_labels: bool


def find_origin(root_tables: RootTables, given: str | None, path: str) -> TrainingOrigin | None:
    """The origin of the checkpoint at `path`, named by the option `given`; None if no training of the root made it."""
    # If the option names a file, `path` is that file. Otherwise `path` is below the root.
    inner = _inside(root_tables.storage, path) if path == given else path
    table, _, rest = (inner or "").partition(f"/{CHECKPOINTS_FOLDER}/")
    record = tables.find_record(root_tables.storage, table) if rest.endswith(f"/{BEST_WEIGHTS_FILE}") else None
    if record is None:
        return None
    names = [file.path for file in record.files if file.path.startswith(f"{TRIALS_FOLDER}/")]
    trials = [TrialResult.from_json(root_tables.storage.read(f"{table}/{name}")) for name in names]
    trial = next((trial for trial in trials if trial.trial == rest.removesuffix(f"/{BEST_WEIGHTS_FILE}")), None)
    if trial is None:
        return None
    seeds = sorted((one for one in trials if one.configuration == trial.configuration), key=lambda one: one.seed)
    labels = root_tables.records.get("labels")
    same = labels is not None and record.inputs.get("labels") == labels.run_id
    return TrainingOrigin(record, trial, tuple(seeds), len(trials), same)


def _inside(storage: Storage, path: str) -> str | None:
    """The path relative to the root, or None if it is not below the root."""
    root = storage.root.rstrip("/")
    if storage.is_local:
        path, root = str(Path(path).expanduser().absolute()), storage.path().rstrip("/")
    return path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else None


def training_form(weights_metadata: Mapping[str, str], origin: TrainingOrigin | None) -> str:
    """The form of training, that is, how the weights were updated (`raypipe.train.loop.recipe`)."""
    if "form" in weights_metadata:
        return weights_metadata["form"]
    # Old checkpoints do not keep the form. The trial's configuration names it unless it is the paper's.
    if origin is not None:
        return origin.trial.configuration.partition(" ")[2] or "paper"
    try:
        return str(json.loads(weights_metadata.get("options", "{}")).get("form", "paper"))
    except (ValueError, AttributeError, RecursionError):
        return "paper"


def trial_options(weights_metadata: Mapping[str, str], form: str) -> dict[str, Any]:
    """The trial's own values of `train` options, which a sweep varies. Empty if the checkpoint does not keep them."""
    try:
        kept_options = json.loads(weights_metadata["options"])
        if not isinstance(kept_options, dict):
            return {}
        given = {name: kept_options[name] for name in TrainOptions.model_fields if name in kept_options}
        options = TrainOptions.model_validate(given)
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    found = hyperparameters(Trial(weights_metadata["configuration"], seed=0, form=form), options)
    # Options newer than the checkpoint are left out: their defaults do not describe this training.
    return {name: value for name, value in found.items() if name in given}


def starting_weights(weights_metadata: Mapping[str, str]) -> str:
    """The weights that training started from. For a file, its name without the path on somebody's machine."""
    name = weights_metadata.get("weights", "unknown")
    return name if name.startswith("imagenet of ") else PurePath(name).name
