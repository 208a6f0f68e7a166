"""The training that a checkpoint came from, as far as the root knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from raypipe import tables
from raypipe.config.learning import TrainOptions
from raypipe.storage import Storage
from raypipe.tables.record import RunRecord
from raypipe.tables.root import Sources
from raypipe.train.plan import Trial
from raypipe.train.results.checkpoints import BEST, CHECKPOINTS
from raypipe.train.results.outcome import hyperparameters
from raypipe.train.results.results import TRIALS, TrialResult


@dataclass(frozen=True)
class Origin:
    """A trial of a complete training table; `seeds` are all trials of its configuration, itself among them.

    `same_labels`: whether `labels/` still are those that it was trained on.
    """

    record: RunRecord
    trial: TrialResult
    seeds: tuple[TrialResult, ...]
    n_trials: int
    same_labels: bool


def find_origin(sources: Sources, given: str | None, path: str) -> Origin | None:
    """Of the checkpoint at `path` that the option `given` named; None for a file of another root, or of no training."""
    # A file is read from where it is; all else that the option can name is a path below the root.
    inner = _inside(sources.storage, path) if path == given else path
    table, _, rest = (inner or "").partition(f"/{CHECKPOINTS}/")
    record = tables.find_record(sources.storage, table) if rest.endswith(f"/{BEST}") else None
    if record is None:
        return None
    names = [file.path for file in record.files if file.path.startswith(f"{TRIALS}/")]
    trials = [TrialResult.from_json(sources.storage.read(f"{table}/{name}")) for name in names]
    trial = next((trial for trial in trials if trial.trial == rest.removesuffix(f"/{BEST}")), None)
    if trial is None:
        return None
    seeds = sorted((one for one in trials if one.configuration == trial.configuration), key=lambda one: one.seed)
    labels = sources.records.get("labels")
    same = labels is not None and record.inputs.get("labels") == labels.run_id
    return Origin(record, trial, tuple(seeds), len(trials), same)


def _inside(storage: Storage, path: str) -> str | None:
    """The path relative to the root; None where it lies elsewhere."""
    root = storage.root.rstrip("/")
    if storage.is_local:
        path, root = str(Path(path).expanduser().absolute()), storage.path().rstrip("/")
    return path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else None


def form_of(kept: Mapping[str, str], origin: Origin | None) -> str:
    """How its weights were moved (`raypipe.train.loop.recipe`)."""
    if "form" in kept:
        return kept["form"]
    # Checkpoints from before it was kept: a trial's configuration names every form but the paper's.
    if origin is not None:
        return origin.trial.configuration.partition(" ")[2] or "paper"
    try:
        return str(json.loads(kept.get("options", "{}")).get("form", "paper"))
    except (ValueError, AttributeError, RecursionError):
        return "paper"


def options_of(kept: Mapping[str, str], form: str) -> dict[str, Any]:
    """What it was trained with, by option of `train`: the trial's own, which a sweep varies. Empty where not kept."""
    try:
        kept_options = json.loads(kept["options"])
        if not isinstance(kept_options, dict):
            return {}
        given = {name: kept_options[name] for name in TrainOptions.model_fields if name in kept_options}
        options = TrainOptions.model_validate(given)
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    found = hyperparameters(Trial(kept["configuration"], seed=0, form=form), options)
    # Of options that are newer than the checkpoint, today's defaults say nothing.
    return {name: value for name, value in found.items() if name in given}


def weights_of(kept: Mapping[str, str]) -> str:
    """The weights that training started from; of a file its name, not where it lies on somebody's machine."""
    name = kept.get("weights", "unknown")
    return name if name.startswith("imagenet of ") else PurePath(name).name
