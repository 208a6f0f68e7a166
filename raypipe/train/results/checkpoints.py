"""State that a trial keeps between epochs, and files that it writes: best weights, predictions, result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables.record import finite
from raypipe.train.data.images import ImageSet
from raypipe.train.loop.choices import Choice, OnChoice
from raypipe.train.loop.fit import predict
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.metrics import figure_of_merit
from raypipe.train.networks.heads import Head, Predictions
from raypipe.train.networks.vgg import Network
from raypipe.train.networks.weights import LoadedWeights
from raypipe.train.results.trial_result import TrialResult, prediction_rows, staged_file
from raypipe.train.trial_plan import TrialPlan

CHECKPOINTS_FOLDER = "checkpoints"
BEST_WEIGHTS_FILE = "best.safetensors"
# Names of staged weights until the trial is done, with the number of their epoch in between.
_PREFIX, _SUFFIX = "epoch-", ".safetensors"
_BESTS_STAGED = 4
_STATE, _SO_FAR = "last.pt", "so_far.pt"


@dataclass
class TrialState:
    """State of a trial after an epoch, as a checkpoint stores it."""

    state: LoopState
    rows: list[dict[str, Any]]
    """Rows of results.json so far."""
    predictions: Predictions | None = None
    """Predictions of the validation pictures at the best epoch."""

    def save(self, folder: str | Path) -> None:
        """Writes two files into `folder`."""
        self.state.save(Path(folder) / _STATE)
        predictions = None if self.predictions is None else torch.from_numpy(self.predictions)
        torch.save({"rows": self.rows, "predictions": predictions}, Path(folder) / _SO_FAR)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Loads what `save` wrote, on the CPU. Executes no code from the files."""
        found = torch.load(Path(folder) / _SO_FAR, weights_only=True)
        predictions = None if found["predictions"] is None else found["predictions"].numpy()
        return cls(LoopState.load(Path(folder) / _STATE), found["rows"], predictions)


OnEpoch = Callable[[dict[str, Any], TrialState], bool]


class CheckpointStore:
    """Collects a trial's epochs, and stages its weights and results. Only the worker of `rank` 0 writes.

    After a resume from a checkpoint, repeated epochs may differ from the lost ones in their last bits, and another
    epoch may be the best. Therefore weights are staged under their epoch's number, for the last few best epochs. A
    checkpoint may be an epoch or two older than the staged weights, and its best epoch is still among them. All other
    files are written at the end.
    """

    def __init__(
        self,
        plan: TrialPlan,
        weights: LoadedWeights,
        head: Head,
        val: ImageSet,
        rank: int,
        start: TrialState | None,
        on_epoch: OnEpoch | None,
        on_choice: OnChoice | None,
    ) -> None:
        self.plan, self.weights, self.head, self.val, self.rank = plan, weights, head, val, rank
        self.on_epoch, self.on_choice = on_epoch, on_choice
        self.choices: list[str] = []
        self.rows = list(start.rows) if start else []
        self.predictions = start.predictions if start else None
        self.best: dict[str, Tensor] | None = None

    @property
    def best_epochs(self) -> list[int]:
        """Epochs that were better than all before them. The last one is the best."""
        found, best = list[int](), -math.inf
        for row in self.rows:
            merit = figure_of_merit(row["val_accuracy"], row["val_loss"])
            if not found or merit > best:
                found.append(row["epoch"])
                best = merit
        return found

    def record_epoch(self, result: EpochResult, state: LoopState) -> bool:
        """Record a finished epoch, and stage its weights if it is the best. Returns whether it is the last."""
        trial = self.plan.trial
        row = {"trial": trial.name, "configuration": trial.label, "seed": trial.seed, **_numbers(result)}
        self.rows.append(row)
        if state.is_best:
            self.predictions = result.val_probabilities
            if self.rank == 0:
                # A copy, because the loop goes on changing these tensors.
                self.best = {
                    name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                    for name, value in state.weights.items()
                }
                if self.plan.options.save != "none":
                    self._stage_best(result.epoch, self.best)
        return self.on_epoch(row, TrialState(state, self.rows, self.predictions)) if self.on_epoch else False

    def record_choice(self, choice: Choice) -> None:
        """Record a choice that was made for speed or memory."""
        self.choices.append(str(choice))
        if self.on_choice:
            self.on_choice(choice)

    def finish(self, model: Network, options: LoopOptions, test: ImageSet | None) -> TrialResult:
        """The trial's result. The worker that has the `test` pictures also stages it."""
        trial, writer = self.plan.trial, self.plan.writer
        result = TrialResult(trial.name, trial.label, trial.seed, self.rows, None)
        if test is None:
            return result
        if self.plan.options.save != "none":
            self._settle_best()
        if self.predictions is not None:
            self._write_predictions("val", self.val, self.predictions)
        accuracy, metrics = None, dict[str, Any]()
        if len(test):
            model.load_state_dict(self.best if self.best is not None else self._read_best())
            # The test split is used only once, with the weights of the epoch that validation chose.
            found = predict(
                model,
                test.images,
                preprocessing=self.weights.preprocessing,
                head=self.head,
                device=options.device,
                dtype=options.dtype,
            )
            truth = test.labels.numpy()
            accuracy, metrics = self.head.accuracy(found, truth), self.head.metrics(found, truth)
            self._write_predictions("test", test, found)
        result = TrialResult(trial.name, trial.label, trial.seed, self.rows, accuracy, finite(metrics), self.choices)
        # Written last: if this file exists, the trial is done, and a resumed sweep skips it.
        writer.write_file(staged_file(trial.name), result.to_json())
        return result

    def _write_predictions(self, split: str, pictures: ImageSet, found: Predictions) -> None:
        trial = self.plan.trial
        rows: pa.Table = prediction_rows(trial, self.best_epochs[-1], split, pictures, self.head.target, found)
        self.plan.writer.write(f"{trial.name}-{split}", rows, folder="predictions")

    def _stage_best(self, epoch: int, best: Mapping[str, Tensor]) -> None:
        metadata = checkpoint_metadata(self.plan, self.weights, self.head) | {"epoch": str(epoch)}
        data = to_safetensors(dict(best), metadata=metadata)
        self.plan.writer.storage.write(f"{_staged(self.plan)}/{_PREFIX}{epoch}{_SUFFIX}", data)
        self._leave_only(self.best_epochs[-_BESTS_STAGED:])

    def _settle_best(self) -> None:
        """Give the best epoch's file its final name, if an interrupted trial has not done so already."""
        storage, folder = self.plan.writer.storage, _staged(self.plan)
        staged = f"{folder}/{_PREFIX}{self.best_epochs[-1]}{_SUFFIX}"
        if storage.exists(staged):
            storage.move(staged, f"{folder}/{BEST_WEIGHTS_FILE}")
        elif not storage.exists(f"{folder}/{BEST_WEIGHTS_FILE}"):
            raise StageError(f"{storage.uri(staged)}: the best epoch's weights are missing; run again with --overwrite")
        self._leave_only([])

    def _leave_only(self, epochs: Sequence[int]) -> None:
        storage, folder = self.plan.writer.storage, _staged(self.plan)
        for epoch, name in _by_epoch(storage, folder).items():
            if epoch not in epochs:
                storage.delete(f"{folder}/{name}")

    def _read_best(self) -> dict[str, Tensor]:
        return from_safetensors(self.plan.writer.storage.read(f"{_staged(self.plan)}/{BEST_WEIGHTS_FILE}"))


def _staged(plan: TrialPlan) -> str:
    """The folder of a trial's weights until its table is complete."""
    return f"{plan.writer.staging}/{CHECKPOINTS_FOLDER}/{plan.trial.name}"


def newest_best(plan: TrialPlan) -> str | None:
    """Address of the staged weights of the newest best epoch of an interrupted trial; None if there are none."""
    storage, folder = plan.writer.storage, _staged(plan)
    found = _by_epoch(storage, folder)
    return storage.uri(folder, found[max(found)]) if found else None


def _by_epoch(storage: Storage, folder: str) -> dict[int, str]:
    names = [name for name in storage.files(folder) if name.startswith(_PREFIX)]
    return {int(name.removeprefix(_PREFIX).removesuffix(_SUFFIX)): name for name in names}


def checkpoint_metadata(plan: TrialPlan, weights: LoadedWeights, head: Head) -> dict[str, str]:
    """Metadata of a checkpoint for safetensors, which stores strings."""
    return {
        "configuration": plan.trial.configuration,
        "form": plan.trial.form,
        "model": plan.options.model,
        "image_size": str(plan.pictures.image_size),
        **head.as_metadata(),
        "preprocessing": weights.preprocessing.to_json(),
        "weights": weights.name,
        "options": plan.options.model_dump_json(),
    }


def _numbers(result: EpochResult) -> dict[str, Any]:
    numbers = {name: value for name, value in vars(result).items() if name not in ("val_probabilities", "metrics")}
    further = {f"val_{name}": value for name, value in result.metrics.items()}
    found: dict[str, Any] = finite({**numbers, **further})
    return found
