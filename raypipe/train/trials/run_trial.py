"""Runs one trial from pictures to results, without Ray. A Ray Train worker calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from raypipe.train.data.images import prepare_batch
from raypipe.train.data.mapped_rows import RowSource
from raypipe.train.data.npy_rows import NpyRows
from raypipe.train.loop.choices import OnChoice, compute_dtype, dtype_choice
from raypipe.train.loop.feature_cache import ComputeLock, FeatureCache
from raypipe.train.loop.fit import fit
from raypipe.train.loop.inputs import OnBatch
from raypipe.train.loop.recipe import RECIPES
from raypipe.train.loop.state import LoopOptions
from raypipe.train.networks.build import build_network
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.heads import make_head
from raypipe.train.networks.initial_weights import unit_variance_init
from raypipe.train.networks.vgg import VGG
from raypipe.train.networks.weights import LoadedWeights
from raypipe.train.results.checkpoints import CheckpointStore, OnEpoch, TrialState
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.trial_plan import TrialPlan, value_for_configuration

# A layer's output for all these pictures is in memory at once. At 224 pixels, the limit is 41 pictures.
_INIT_PICTURES, _INIT_PIXELS = 128, 2**21


def loop_options(plan: TrialPlan, device: str) -> LoopOptions:
    """The loop's options for a trial. Numbers that are set per configuration are looked up."""
    options, recipe = plan.options, RECIPES[plan.trial.form]
    rate = value_for_configuration(options.learning_rate, plan.trial.configuration)
    return LoopOptions(
        epochs=plan.epochs,
        batch_size=options.batch_size,
        learning_rate=recipe.learning_rate if rate is None else rate,
        flips=options.flips,
        seed=plan.trial.seed,
        dtype=compute_dtype(options.dtype, device),
        micro_batch=options.micro_batch,
        compile=options.compile,
        patience=options.patience,
        saturation=options.saturation,
        recipe=recipe,
        device=device,
    )


def _cache(plan: TrialPlan, weights: LoadedWeights, compute_lock: ComputeLock | None) -> FeatureCache | None:
    if not plan.options.keep_features or (weights.convolutions is None and weights.body is None):
        # Each seed has its own random convolutions, so no other trial could use their features.
        return None
    found = plan.pictures.feature_cache
    return replace(found, fingerprint=f"{found.fingerprint} {plan.options.model}", compute_lock=compute_lock)


def run_trial(
    plan: TrialPlan,
    weights: LoadedWeights,
    *,
    device: str,
    group: Any | None = None,
    rank: int = 0,
    start: TrialState | None = None,
    open_rows: Callable[[NpyRows], RowSource] | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
    on_choice: OnChoice | None = None,
    compute_lock: ComputeLock | None = None,
) -> TrialResult:
    """Train one configuration with one seed, and stage its best weights, its predictions and its rows.

    Every worker of `group` calls it; the worker of `rank` 0 writes. `on_epoch` gets each epoch's row of results.json on
    every worker. If it returns true on any worker, the epoch is the last. `on_choice` gets choices made for speed or
    memory, with reasons. `open_rows`: see `PictureTable.load`. `compute_lock`: see `FeatureCache`. Raises the errors of
    `build_vgg` and `fit`."""
    configuration = CONFIGURATIONS[plan.trial.configuration]
    train, val = (plan.pictures.load(split, open_rows) for split in ("train", "val"))
    head = make_head(plan.pictures.target, train.labels)
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
        # The pictures are spread over the whole set, because it may be ordered by class.
        most = min(_INIT_PICTURES, max(1, _INIT_PIXELS // train.image_size**2))
        rows = torch.linspace(0, len(train) - 1, min(len(train), most)).long()
        unit_variance_init(model, prepare_batch(train.images[rows], weights.preprocessing))
    checkpoint_store = CheckpointStore(plan, weights, head, val, rank, start, on_epoch, on_choice)
    options = loop_options(plan, device)
    checkpoint_store.record_choice(dtype_choice(plan.options.dtype, device))
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
        cache=_cache(plan, weights, compute_lock),
        on_epoch=checkpoint_store.record_epoch,
        on_batch=on_batch,
        on_choice=checkpoint_store.record_choice,
    )
    test = plan.pictures.load("test", open_rows) if rank == 0 else None
    return checkpoint_store.finish(model, options, test)
