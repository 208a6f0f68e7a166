"""The training loop: a plain function over a model, images and a process group.

The same seed gives the same losses, bit for bit on a CPU with the same number of threads. The order of an epoch and
its mirrored pictures depend only on seed and epoch. The number of workers and interruptions do not change them
(dropout draws per worker). An epoch's order is a permutation of all training rows. Validation uses each row once.
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
from raypipe.train.data.mapped_rows import RowSource
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.data.target import BINARY
from raypipe.train.loop.batch_loader import device_of
from raypipe.train.loop.choices import OnChoice
from raypipe.train.loop.feature_cache import FeatureCache
from raypipe.train.loop.inputs import DType, ImageInputs, OnBatch, evaluate
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.loop.trainer import Trainer, divergence_error
from raypipe.train.loop.workers import Workers
from raypipe.train.metrics import figure_of_merit
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.heads import BinaryHead, Head, Predictions


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
    """Trains `model` (images to outputs, see `raypipe.train.networks.heads`) in place. Returns epochs after `start`.

    `head`: what is learned, by default two classes. `on_epoch` gets each epoch; if it returns true on any worker,
    all stop. `on_batch` gets (done, total) pictures of the current epoch, training and validation together; before the
    first epoch it gets those whose features are computed. `on_choice` gets each choice made for speed or memory, and
    its reason. With a `group`, every worker calls `fit` with the same arguments and takes its part of each batch. If
    `options.cache_features` is set, a frozen `Network` trains on features computed once. `cache`, if set, keeps them
    for the next training. Raises InputError on an empty set, only one class, or labels of another head. Raises
    ConfigError if `start` is of another configuration. Raises StageError, naming epoch and batch, if a training loss
    is not finite, and, naming the epoch, if a validation loss is not finite.
    """
    head = head or BinaryHead(BINARY)
    _check(configuration, train, val, head, start)
    device = device_of(options.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        model.load_state_dict(start.model)
        if start.ended:
            return []
    run = Trainer(
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
    # Initial weights may differ in their last bits between machines, but all workers must have the same.
    run.workers.broadcast([*model.state_dict().values(), *(run.average.tensors if run.average else [])])
    results: list[EpochResult] = []
    for epoch in range(first, options.epochs + 1):
        result = run.epoch(epoch)
        if not math.isfinite(result.val_loss):
            # Raised before `on_epoch` can replace good weights by these.
            raise divergence_error(f"the validation loss is {result.val_loss} after epoch {epoch}", options)
        results.append(result)
        merit = figure_of_merit(result.val_accuracy, result.val_loss)
        if best_epoch == 0 or merit > best_merit:
            best_epoch, best_merit = epoch, merit
        stop, ended = False, reached_stop_rule(options, result, best_epoch)
        if on_epoch is not None:
            weights, moments = model.state_dict(), run.optimizer.state_dict()
            average = run.average.state() if run.average else None
            state = LoopState(configuration.name, epoch, weights, moments, best_epoch, best_merit, ended, average)
            stop = on_epoch(result, state)
        if run.workers.any(bool(stop), device) or ended:
            break
    return results


def reached_stop_rule(options: LoopOptions, result: EpochResult, best_epoch: int) -> bool:
    """Whether training ends by the paper's rules (`saturation`, `patience`). All workers get the same answer."""
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
    """Predictions of `head` from `model`'s outputs, float32 [n] or [n, k], for uint8 `images` [n, 3, s, s].

    By default probabilities of label 1, [n]. Moves `model` to `device`."""
    head = head or BinaryHead(BINARY)
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
        raise InputError(f"training: {len(train)} training and {len(val)} validation images: both sets need some")
    head.check(train.labels, val.labels)
    if start is not None and start.configuration != configuration.name:
        raise ConfigError(
            f"training: the checkpoint is of configuration {start.configuration}, not {configuration.name}; "
            "choose another train.name, or --overwrite"
        )
