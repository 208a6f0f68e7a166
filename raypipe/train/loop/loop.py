"""The training loop: a plain function over a model, images and a process group.

The same seed gives the same losses, bit for bit on a CPU with the same number of threads. The order of an epoch, and
which pictures are mirrored in it, depend on seed and epoch alone, so that the number of workers and an interruption
change nothing (dropout draws per worker). An epoch's order is a permutation of all training rows; validation sees
each row once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from raypipe.errors import ConfigError, InputError
from raypipe.train.data.images import ImageSet
from raypipe.train.data.mapped import RowSource
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.data.target import BINARY
from raypipe.train.loop.choices import OnChoice
from raypipe.train.loop.feature_cache import FeatureCache
from raypipe.train.loop.features import DType, ImageInputs, OnBatch, evaluate
from raypipe.train.loop.feed import device_of
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.loop.training import Training, diverged
from raypipe.train.loop.workers import Workers
from raypipe.train.metrics import figure_of_merit
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.heads import Head, Predictions, TwoClasses


def fit(
    model: nn.Module,
    configuration: Configuration,
    train: ImageSet,
    val: ImageSet,
    options: LoopOptions,
    *,
    preprocessing: Preprocessing,
    head: Head | None = None,
    group: Any | None = None,
    start: LoopState | None = None,
    cache: FeatureCache | None = None,
    on_epoch: Callable[[EpochResult, LoopState], bool] | None = None,
    on_batch: OnBatch | None = None,
    on_choice: OnChoice | None = None,
) -> list[EpochResult]:
    """Trains `model` (images to outputs, see `raypipe.train.networks.heads`) in place and returns the epochs that ran,
    those before `start` left out. `head` says what is learned: by default two classes.

    `on_epoch` sees each epoch; where it returns true on any worker, all stop. `on_batch` gets (done, total) pictures of
    the epoch at hand, trained on and judged, or before the first epoch of those whose features are computed;
    `on_choice` what was chosen for speed or for want of memory, and why. With a `group`, every worker calls `fit` with
    the same arguments and takes its part of each batch. A frozen `Network` trains on features computed once, if
    `options.cache_features`, and kept in `cache` for the next training, if there is one.
    Raises InputError on an empty set, one class only, or labels of another head, ConfigError where `start` is another
    configuration's, StageError naming epoch and batch where the loss is not finite, or the epoch after which that
    of the validation set is not.
    """
    head = head or TwoClasses(BINARY)
    _check(configuration, train, val, head, start)
    device = device_of(options.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        model.load_state_dict(start.model)
        if start.ended:
            return []
    run = Training(
        model,
        configuration,
        train,
        val,
        options,
        preprocessing=preprocessing,
        head=head,
        workers=Workers(group),
        cache=cache,
        on_batch=on_batch,
        on_choice=on_choice,
    )
    best_epoch, best_merit, first = 0, -math.inf, 1
    if start is not None:
        run.optimizer.load_state_dict(start.optimizer)
        if run.average is not None and start.average is not None:
            run.average.load(start.average)
        best_epoch, best_merit, first = start.best_epoch, start.best_merit, start.epoch + 1
    # The first weights may differ in their last bits between machines; the workers' must not.
    run.workers.broadcast([*model.state_dict().values(), *(run.average.tensors if run.average else [])])
    results: list[EpochResult] = []
    for epoch in range(first, options.epochs + 1):
        result = run.epoch(epoch)
        if not math.isfinite(result.val_loss):
            # Before anybody keeps such weights in the place of good ones.
            raise diverged(f"the validation loss is {result.val_loss} after epoch {epoch}", options)
        results.append(result)
        merit = figure_of_merit(result.val_accuracy, result.val_loss)
        if best_epoch == 0 or merit > best_merit:
            best_epoch, best_merit = epoch, merit
        stop, ended = False, is_saturated(options, result, best_epoch)
        if on_epoch is not None:
            weights, moments = model.state_dict(), run.optimizer.state_dict()
            average = run.average.state() if run.average else None
            state = LoopState(configuration.name, epoch, weights, moments, best_epoch, best_merit, ended, average)
            stop = on_epoch(result, state)
        if run.workers.any(bool(stop), device) or ended:
            break
    return results


def is_saturated(options: LoopOptions, result: EpochResult, best_epoch: int) -> bool:
    """Whether training goes no further by the paper's rules; the same on all workers, as the numbers are."""
    overfits = options.saturation is not None and (result.train_accuracy or 0.0) >= options.saturation
    return overfits or (options.patience is not None and result.epoch - best_epoch >= options.patience)


def predict(
    model: nn.Module,
    images: RowSource,
    *,
    preprocessing: Preprocessing,
    head: Head | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    on_batch: OnBatch | None = None,
) -> Predictions:
    """What `head` makes of `model`'s outputs, float32 [n] or [n, k], for uint8 `images` [n, 3, s, s]; by default
    probabilities of label 1, [n]. Moves `model` to `device`."""
    head = head or TwoClasses(BINARY)
    target = device_of(device)
    model.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = ImageInputs(images, preprocessing, target)
    outputs = evaluate(
        model,
        model,
        inputs,
        np.arange(len(images)),
        device=target,
        dtype=dtype,
        n_outputs=head.target.n_outputs,
        on_batch=on_batch,
    )
    return head.predictions(outputs)


def _check(configuration: Configuration, train: ImageSet, val: ImageSet, head: Head, start: LoopState | None) -> None:
    if len(train) == 0 or len(val) == 0:
        raise InputError(f"training: {len(train)} training and {len(val)} validation images: both must have some")
    head.check(train.labels, val.labels)
    if start is not None and start.configuration != configuration.name:
        raise ConfigError(
            f"training: the checkpoint is of configuration {start.configuration}, not {configuration.name}: "
            "choose another train.name, or --overwrite"
        )
