"""One trial from pictures to its results, without Ray: a plain function that a Ray Train worker calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from raypipe.train.choices import Choice, OnChoice, arithmetic_choice, arithmetic_for
from raypipe.train.configurations import CONFIGURATIONS
from raypipe.train.features import OnBatch
from raypipe.train.heads import Head, Predictions, head_of
from raypipe.train.images import ImageSet, prepare_batch
from raypipe.train.init import unit_variance_init
from raypipe.train.loop import fit, predict
from raypipe.train.model import VGG, Network
from raypipe.train.networks import build_network
from raypipe.train.plan import TrialPlan, for_configuration
from raypipe.train.recipe import RECIPES
from raypipe.train.results import TrialResult, prediction_rows, staged_file
from raypipe.train.shards import RowSource, Shards
from raypipe.train.state import EpochResult, LoopOptions, LoopState
from raypipe.train.weights import LoadedWeights

CHECKPOINTS = "checkpoints"
BEST = "best.safetensors"
_INIT_PICTURES = 128


def loop_options(plan: TrialPlan, device: str) -> LoopOptions:
    """The loop's options of a trial: numbers given by configuration are looked up."""
    options, recipe = plan.options, RECIPES[plan.trial.form]
    rate = for_configuration(options.learning_rate, plan.trial.configuration)
    return LoopOptions(
        epochs=plan.epochs,
        batch_size=options.batch_size,
        learning_rate=recipe.learning_rate if rate is None else rate,
        flips=options.flips,
        seed=plan.trial.seed,
        dtype=arithmetic_for(options.dtype, device),
        micro_batch=options.micro_batch,
        compile=options.compile,
        patience=options.patience,
        saturation=options.saturation,
        recipe=recipe,
        device=device,
    )


@dataclass
class Progressed:
    """What a checkpoint keeps beside the loop's state: the rows so far."""

    state: LoopState
    rows: list[dict[str, Any]]


def run_trial(
    plan: TrialPlan,
    weights: LoadedWeights,
    *,
    device: str,
    group: Any | None = None,
    rank: int = 0,
    start: Progressed | None = None,
    open_shards: Callable[[Shards], RowSource] | None = None,
    on_epoch: Callable[[dict[str, Any], Progressed], bool] | None = None,
    on_batch: OnBatch | None = None,
    on_choice: OnChoice | None = None,
) -> TrialResult:
    """Train one configuration with one seed, and stage its best weights, its predictions and its rows.

    Every worker of `group` calls it; the one of `rank` 0 writes. `on_epoch` sees each epoch's row of results.json on
    every worker; where it returns true on any, the epoch is the last. `on_choice` sees what was chosen for speed, and
    why. `open_shards`: see `PictureTable.load`. Raises what `build_model` and `fit` raise.
    """
    configuration = CONFIGURATIONS[plan.trial.configuration]
    train, val = (plan.pictures.load(split, open_shards) for split in ("train", "val"))
    head = head_of(plan.pictures.target, train.labels)
    model = build_network(
        plan.options.model,
        configuration,
        image_size=plan.pictures.image_size,
        weights=weights,
        seed=plan.trial.seed,
        fresh_fc=plan.options.fresh_fc or weights.convolutions is None,
        init=plan.options.init,
        target=head.target,
    )
    scaled = isinstance(model, VGG) and weights.convolutions is None and plan.options.init == "lsuv"
    if scaled and start is None:
        # Spread over the whole set, which may be ordered by class.
        rows = torch.linspace(0, len(train) - 1, min(len(train), _INIT_PICTURES)).long()
        unit_variance_init(model, prepare_batch(train.images[rows], weights.preprocessing))
    keeper = _Keeper(plan, weights, head, val, rank, start, on_epoch, on_choice)
    options = loop_options(plan, device)
    keeper.choose(arithmetic_choice(plan.options.dtype, device))
    fit(
        model,
        configuration,
        train,
        val,
        options,
        preprocessing=weights.preprocessing,
        head=head,
        group=group,
        start=start.state if start else None,
        cache=plan.pictures.features if plan.options.keep_features else None,
        on_epoch=keeper.see,
        on_batch=on_batch,
        on_choice=keeper.choose,
    )
    test = plan.pictures.load("test", open_shards) if rank == 0 else None
    return keeper.finish(model, options, weights, test)


class _Keeper:
    """Follows a trial from epoch to epoch and keeps what its results are made of."""

    def __init__(
        self,
        plan: TrialPlan,
        weights: LoadedWeights,
        head: Head,
        val: ImageSet,
        rank: int,
        start: Progressed | None,
        on_epoch: Callable[[dict[str, Any], Progressed], bool] | None,
        on_choice: OnChoice | None,
    ) -> None:
        self.plan, self.head, self.val, self.rank = plan, head, val, rank
        self.on_epoch, self.on_choice = on_epoch, on_choice
        self.choices: list[str] = []
        self.metadata = checkpoint_metadata(plan, weights, head)
        self.rows = list(start.rows) if start else []
        self.best: dict[str, Tensor] | None = None

    def see(self, result: EpochResult, state: LoopState) -> bool:
        trial, writer = self.plan.trial, self.plan.writer
        row = {"trial": trial.name, "configuration": trial.label, "seed": trial.seed, **_numbers(result)}
        self.rows.append(row)
        if state.is_best and self.rank == 0:
            # A copy: the loop goes on changing these tensors.
            self.best = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in state.weights.items()
            }
            predictions = self._predictions(result.epoch, "val", self.val, result.val_probabilities)
            writer.write(f"{trial.name}-val", predictions, folder="predictions")
            if self.plan.options.save != "none":
                self._write_best()
        return self.on_epoch(row, Progressed(state, self.rows)) if self.on_epoch else False

    def choose(self, choice: Choice) -> None:
        self.choices.append(str(choice))
        if self.on_choice:
            self.on_choice(choice)

    def finish(
        self, model: Network, options: LoopOptions, weights: LoadedWeights, test: ImageSet | None
    ) -> TrialResult:
        trial, writer = self.plan.trial, self.plan.writer
        result = TrialResult(trial.name, trial.label, trial.seed, self.rows, None)
        if test is None:
            return result
        accuracy, metrics = None, dict[str, Any]()
        if len(test):
            model.load_state_dict(self.best if self.best is not None else self._read_best())
            # The one look at the test split, with the epoch that validation chose.
            found = predict(
                model,
                test.images,
                preprocessing=weights.preprocessing,
                head=self.head,
                device=options.device,
                dtype=options.dtype,
            )
            truth = test.labels.numpy()
            accuracy, metrics = self.head.accuracy(found, truth), self.head.metrics(found, truth)
            rows = self._predictions(result.best["epoch"], "test", test, found)
            writer.write(f"{trial.name}-test", rows, folder="predictions")
        result = TrialResult(trial.name, trial.label, trial.seed, self.rows, accuracy, _finite(metrics), self.choices)
        # Last: a trial whose file is there is done, and a resumed sweep leaves it out.
        writer.write_file(staged_file(trial.name), result.to_json())
        return result

    def _predictions(self, epoch: int, split: str, pictures: ImageSet, found: Predictions) -> pa.Table:
        return prediction_rows(self.plan.trial, epoch, split, pictures, self.head.target, found)

    @property
    def _best_file(self) -> str:
        return f"{CHECKPOINTS}/{self.plan.trial.name}/{BEST}"

    def _write_best(self) -> None:
        if self.best is not None:
            self.plan.writer.write_file(self._best_file, to_safetensors(self.best, metadata=self.metadata))

    def _read_best(self) -> dict[str, Tensor]:
        from safetensors.torch import load

        return load(self.plan.writer.storage.read(f"{self.plan.writer.staging}/{self._best_file}"))


def checkpoint_metadata(plan: TrialPlan, weights: LoadedWeights, head: Head) -> dict[str, str]:
    """What a checkpoint says of itself, as safetensors keeps it: strings."""
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
    found: dict[str, Any] = _finite({**numbers, **further})
    return found


def _finite(value: Any) -> Any:
    # JSON has no NaN, which a diverged validation loss can be.
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
