"""The training loop: a plain function over a model, images and a process group.

The same seed gives the same losses, bit for bit on a CPU with the same number of threads. The order of an epoch, and
which pictures are mirrored in it, depend on seed and epoch alone, so that the number of workers and an interruption
change nothing (dropout draws per worker). An epoch's order is a permutation of all training rows; validation sees
each row once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raypipe.errors import ConfigError, InputError, StageError
from raypipe.train.configurations import Configuration
from raypipe.train.features import DType, ImageInputs, Inputs, OnBatch, arithmetic, cache_features, evaluate
from raypipe.train.heads import Head, Predictions, TwoClasses
from raypipe.train.images import ImageSet
from raypipe.train.metrics import figure_of_merit, peak_flops, training_flops
from raypipe.train.model import Network
from raypipe.train.recipe import Average, epoch_crops
from raypipe.train.state import EpochResult, LoopOptions, LoopState
from raypipe.train.target import BINARY
from raypipe.train.weights import Preprocessing
from raypipe.train.workers import Rows, Workers

_ORDER, _FLIPS, _DROPOUT = range(3)
_BATCHES_BETWEEN_CHECKS = {"cpu": 1}
_BATCHES_BETWEEN_CHECKS_ON_GPU = 50


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
    on_epoch: Callable[[EpochResult, LoopState], bool] | None = None,
    on_batch: OnBatch | None = None,
) -> list[EpochResult]:
    """Trains `model` (images to outputs, see `raypipe.train.heads`) in place and returns the epochs that ran, those
    before `start` left out. `head` says what is learned: by default two classes.

    `on_epoch` sees each epoch; where it returns true on any worker, all stop. `on_batch` gets (done, total) pictures
    of the pass at hand. With a `group`, every worker calls `fit` with the same arguments and takes its part of each
    batch. A frozen `Network` trains on features computed once, if `options.cache_features`.
    Raises InputError on an empty set, one class only, or labels of another head, ConfigError where `start` is another
    configuration's, StageError naming epoch and batch where the loss is not finite, or the epoch after which that
    of the validation set is not.
    """
    head = head or TwoClasses(BINARY)
    _check(configuration, train, val, head, start)
    device = torch.device(options.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        model.load_state_dict(start.model)
        if start.ended:
            return []
    run = _Run(model, configuration, train, val, options, preprocessing, head, Workers(group), on_batch)
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
            raise _diverged(f"the validation loss is {result.val_loss} after epoch {epoch}", options)
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
    images: Tensor,
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
    target = torch.device(device)
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


def epoch_order(n: int, seed: int, epoch: int) -> Rows:
    """The order of `n` training rows in `epoch`."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(n)


def epoch_flips(n: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which of `n` training rows are mirrored in `epoch`, by row."""
    return np.random.default_rng([seed, epoch, _FLIPS]).random(n) < 0.5


def _check(configuration: Configuration, train: ImageSet, val: ImageSet, head: Head, start: LoopState | None) -> None:
    if len(train) == 0 or len(val) == 0:
        raise InputError(f"training: {len(train)} training and {len(val)} validation images: both must have some")
    head.check(train.labels, val.labels)
    if start is not None and start.configuration != configuration.name:
        raise ConfigError(
            f"training: the checkpoint is of configuration {start.configuration}, not {configuration.name}: "
            "choose another train.name, or --overwrite"
        )


class _Run:
    """What stays the same from epoch to epoch."""

    def __init__(
        self,
        model: nn.Module,
        configuration: Configuration,
        train: ImageSet,
        val: ImageSet,
        options: LoopOptions,
        preprocessing: Preprocessing,
        head: Head,
        workers: Workers,
        on_batch: OnBatch | None,
    ) -> None:
        self.model, self.options, self.workers, self.on_batch = model, options, workers, on_batch
        self.device = torch.device(options.device)
        self.recipe = options.recipe
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = self.recipe.optimizer(model, configuration, options.learning_rate, fused)
        self.average = Average(model, self.recipe.average) if self.recipe.average is not None else None
        self.parameters = [parameter for g in self.optimizer.param_groups for parameter in g["params"]]
        self.head, self.n_train, self.val_labels = head, len(train), val.labels
        self.targets = head.targets(train.labels).to(self.device)
        self.forward: Callable[[Tensor], Tensor] = model
        self.train_inputs: Inputs = ImageInputs(train.images, preprocessing, self.device)
        self.val_inputs: Inputs = ImageInputs(val.images, preprocessing, self.device)
        self.flops_per_s = peak_flops(self.device, options.dtype)
        self.seconds_before = 0.0
        if configuration.frozen and options.cache_features and isinstance(model, Network):
            started = time.perf_counter()
            self.forward, self.flops_per_s = model.classify, None
            self.train_inputs, self.val_inputs = cache_features(
                model,
                train,
                val,
                preprocessing,
                device=self.device,
                dtype=options.dtype,
                flips=options.flips,
                workers=workers,
                on_batch=on_batch,
            )
            self.seconds_before = time.perf_counter() - started
        self.flops = training_flops(model, self.train_inputs(np.arange(1))) if self.flops_per_s else 0.0

    def epoch(self, epoch: int) -> EpochResult:
        started = time.perf_counter()
        loss, accuracy, waited = self._train(epoch)
        seconds = time.perf_counter() - started + self.seconds_before
        self.seconds_before = 0.0
        rate = self.n_train / seconds
        if self.average:
            self.average.swap()
        outputs = self._validate()
        if self.average:
            self.average.swap()
        predictions, labels = self.head.predictions(outputs), self.val_labels.numpy()
        return EpochResult(
            epoch=epoch,
            train_loss=loss,
            train_accuracy=accuracy,
            val_loss=float(self.head.losses(outputs, self.head.targets(self.val_labels)).mean()),
            val_accuracy=self.head.accuracy(predictions, labels),
            images_per_s=rate,
            data_wait=waited / seconds,
            mfu=rate * self.flops / self.workers.size / self.flops_per_s if self.flops_per_s else None,
            val_probabilities=predictions,
            metrics=self.head.metrics(predictions, labels),
        )

    def _validate(self) -> Tensor:
        """Outputs for the validation set on the CPU, in double precision."""
        # Running means of normalised batches are each worker's own.
        self.workers.broadcast(self.model.buffers())
        n_outputs, dtype = self.head.target.n_outputs, self.options.dtype
        rows = self.workers.share(np.arange(len(self.val_labels)))
        part = evaluate(
            self.model, self.forward, self.val_inputs, rows, device=self.device, dtype=dtype, n_outputs=n_outputs
        )
        return self.workers.gather(part, len(self.val_labels)).double().cpu()

    def _train(self, epoch: int) -> tuple[float, float | None, float]:
        """Mean loss, accuracy and seconds of waiting for data."""
        options, n = self.options, self.n_train
        order = epoch_order(n, options.seed, epoch)
        flips = epoch_flips(n, options.seed, epoch) if options.flips else None
        crop = self.recipe.crop
        crops = None if crop is None else epoch_crops(n, options.seed, epoch, crop)
        every = _BATCHES_BETWEEN_CHECKS.get(self.device.type, _BATCHES_BETWEEN_CHECKS_ON_GPU)
        waited, sums, pending = 0.0, np.zeros(2), list[Tensor]()
        self.model.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_dropout_seed(options.seed, epoch, self.workers.rank))
            starts = range(0, n, options.batch_size)
            for batch, begin in enumerate(starts, 1):
                self._set_rate((epoch - 1) * len(starts) + batch - 1, options.epochs * len(starts))
                rows = order[begin : begin + options.batch_size]
                mine = self.workers.share(rows)
                asked = time.perf_counter()
                inputs = self.train_inputs(
                    mine, None if flips is None else flips[mine], None if crops is None else crops[mine]
                )
                waited += time.perf_counter() - asked
                pending.append(self._step(inputs, mine, len(rows)))
                if len(pending) == every or batch == len(starts):
                    sums += self._collect(pending, epoch, batch, len(starts))
                    pending = []
                if self.on_batch:
                    self.on_batch(min(begin + options.batch_size, n), n)
        return float(sums[0] / n), float(sums[1] / n) if self.head.has_accuracy else None, waited

    def _step(self, inputs: Tensor, rows: Rows, n_batch: int) -> Tensor:
        """One step on this worker's `rows` of a batch of `n_batch`; the whole batch's summed loss and hits."""
        targets = self.targets[torch.from_numpy(rows).to(self.device)]
        with arithmetic(self.device, self.options.dtype):
            outputs = self.forward(inputs)
        # Summed and divided by the whole batch: the workers' gradients add up to that of its mean, however it is cut.
        soft = self.head.smoothed(targets, self.recipe.smoothing)
        loss = self.head.losses(outputs.float(), soft).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss / n_batch)
        hits = self.head.hits(outputs.detach(), targets).sum()
        totals = torch.stack([loss.detach(), hits.to(loss.dtype)])
        self.workers.sum([*(p.grad for p in self.parameters if p.grad is not None), totals])
        if self.head.max_gradient is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.head.max_gradient)
        self.optimizer.step()
        if self.average:
            self.average.follow()
        return totals

    def _set_rate(self, step: int, steps: int) -> None:
        rate = self.options.learning_rate * self.recipe.rate(step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _collect(self, pending: list[Tensor], epoch: int, batch: int, n_batches: int) -> NDArray[np.float64]:
        found = torch.stack(pending).double().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(found[:, 0]))
        if len(bad):
            where = batch - len(pending) + 1 + int(bad[0])
            loss = f"the loss is {found[bad[0], 0]} in epoch {epoch}, batch {where} of {n_batches}"
            raise _diverged(loss, self.options)
        total: NDArray[np.float64] = found.sum(axis=0)
        return total


def _diverged(what: str, options: LoopOptions) -> StageError:
    return StageError(f"training: {what}; lower --train.learning_rate (now {options.learning_rate:g})")


def _dropout_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, _DROPOUT, rank]).generate_state(1, np.uint64)[0] >> 1)
