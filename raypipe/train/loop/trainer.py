"""One worker's part of a training: the setup that all epochs share, and the steps and validation of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raypipe.errors import ConfigError, StageError
from raypipe.train.data.images import ImageSet
from raypipe.train.data.mapped_rows import RowSource
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.loop.batch_loader import device_of, memory_for_rows, split_rows, to_gpu_if_room
from raypipe.train.loop.choices import (
    Choice,
    OnChoice,
    compile_choice,
    memory_format_choice,
    memory_format_for,
    micro_batch_choice,
    optimizer_choice,
    row_location_choice,
)
from raypipe.train.loop.feature_cache import FeatureCache
from raypipe.train.loop.inputs import (
    FeatureInputs,
    ImageInputs,
    Inputs,
    OnBatch,
    evaluate,
    extract_features,
    mixed_precision,
    split_into_batches,
)
from raypipe.train.loop.random_draws import dropout_seed, epoch_crops, epoch_flips, epoch_order
from raypipe.train.loop.recipe import WeightAverage
from raypipe.train.loop.state import EpochResult, LoopOptions
from raypipe.train.loop.workers import Workers
from raypipe.train.metrics import forward_flops, peak_flops, training_flops
from raypipe.train.networks.configurations import Configuration
from raypipe.train.networks.heads import Head
from raypipe.train.networks.vgg import Network

# Reading a loss from a GPU makes the host wait until the GPU has computed it.
_BATCHES_BETWEEN_CHECKS_ON_GPU = 50


@dataclass
class _PreparationCost:
    """Cost of work done before an epoch that its figures include: computing features of frozen convolutions."""

    seconds: float = 0.0
    waited: float = 0.0
    flops: float = 0.0

    def wait(self, seconds: float) -> None:
        """Add seconds in which no picture was ready."""
        self.waited += seconds


class Trainer:
    """A model with its optimizer and data on the device of one worker; see `raypipe.train.loop.fit.fit`."""

    def __init__(
        self,
        model: nn.Module,
        configuration: Configuration,
        train: ImageSet,
        val: ImageSet,
        options: LoopOptions,
        *,
        preprocessing: Preprocessing,
        head: Head,
        workers: Workers,
        cache: FeatureCache | None = None,
        on_batch: OnBatch | None = None,
        on_choice: OnChoice | None = None,
    ) -> None:
        self.model, self.options, self.workers = model, options, workers
        self.on_batch, self.on_choice = on_batch, on_choice
        self.device, self.recipe = device_of(options.device), options.recipe
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = self.recipe.optimizer(model, configuration, options.learning_rate, fused)
        self.report(optimizer_choice(self.optimizer, fused))
        self.average = WeightAverage(model, self.recipe.average) if self.recipe.average is not None else None
        self.parameters = [parameter for g in self.optimizer.param_groups for parameter in g["params"]]
        self.head, self.n_train, self.val_labels = head, len(train), val.labels
        self.targets = head.targets(train.labels).to(self.device)
        self.micro = options.micro_batch or options.batch_size
        self._reject_graphs_in_pieces()
        self.preparation = _PreparationCost()
        self.flops_per_s = peak_flops(self.device, options.dtype)
        self.forward: Callable[[Tensor], Tensor] = model
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            self.report(Choice("convolutions", "cuDNN tries its algorithms, uses the fastest", "batches have one size"))
        self.train_inputs: Inputs
        self.val_inputs: Inputs
        frozen = configuration.frozen and options.cache_features and isinstance(model, Network)
        if frozen and isinstance(model, Network):
            self.forward = model.classify
            self._take_features(model, train, val, preprocessing, cache)
        else:
            layout = memory_format_for(self.device, options.dtype)
            model.to(memory_format=layout)  # type: ignore[call-overload]
            self.train_inputs = self._pictures("training pictures", train, preprocessing, layout)
            self.val_inputs = self._pictures("validation pictures", val, preprocessing)
            self.report(memory_format_choice(self.device, options.dtype))
        self.report(compile_choice(options.compile, frozen))
        self.flops = 0.0
        if self.flops_per_s:
            (one,) = self.train_inputs.batches([np.arange(1)])
            self.flops = training_flops(model, one, self.forward)
        if options.compile != "none" and not frozen:
            self.forward = torch.compile(model, mode=options.compile)

    def _reject_graphs_in_pieces(self, why: str = "") -> None:
        # The next run of a CUDA graph overwrites the memory that holds its gradients.
        if self.options.compile == "reduce-overhead" and self.micro < self.options.batch_size:
            raise ConfigError(
                f"train.compile: {why}reduce-overhead does not work with batches in pieces (of {self.micro} pictures); "
                "set default or none"
            )

    def report(self, choice: Choice) -> None:
        """Pass one choice to `on_choice`, if it is set."""
        if self.on_choice:
            self.on_choice(choice)

    def _placed(self, what: str, source: RowSource, origin: str = "") -> RowSource:
        memory_limit = memory_for_rows(self.device)
        placed = to_gpu_if_room(source, self.device, memory_limit)
        choice = row_location_choice(what, placed, memory_limit)
        self.report(replace(choice, value=f"{origin}; {choice.value}") if origin else choice)
        return placed

    def _pictures(
        self,
        what: str,
        pictures: ImageSet,
        preprocessing: Preprocessing,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> ImageInputs:
        return ImageInputs(self._placed(what, pictures.images), preprocessing, self.device, memory_format)

    def _take_features(
        self,
        model: Network,
        train: ImageSet,
        val: ImageSet,
        preprocessing: Preprocessing,
        cache: FeatureCache | None,
    ) -> None:
        """Sets the inputs to features of the training set (also mirrored, if `flips` is set) and the validation set."""
        started, dtype = time.perf_counter(), self.options.dtype
        key = cache.key(model, preprocessing, self.device, dtype) if cache else ""
        passes = len(train) * (2 if self.options.flips else 1) + len(val)
        done = 0

        def features(name: str, images: RowSource, flip: bool) -> RowSource:
            nonlocal done

            def compute() -> Tensor:
                self._count_pass(model, preprocessing, images)
                return extract_features(
                    model,
                    images,
                    preprocessing,
                    device=self.device,
                    dtype=dtype,
                    flip=flip,
                    workers=self.workers,
                    on_batch=self._progress_callback(passes, done, len(images)),
                    on_wait=self.preparation.wait,
                )

            found: RowSource
            if cache is None:
                found, origin = compute(), "computed"
            else:
                shape = (len(images), model.n_features)
                found, origin, waited = cache.get(
                    f"{key}-{name}", shape, dtype, workers=self.workers, device=self.device, compute=compute
                )
                self.preparation.seconds -= waited
            done += len(images)
            return self._placed(f"features of {name}", found, origin)

        mirrored = features("train-mirrored", train.images, True) if self.options.flips else None
        self.train_inputs = FeatureInputs(features("train", train.images, False), mirrored, self.device)
        self.val_inputs = FeatureInputs(features("val", val.images, False), None, self.device)
        self.preparation.seconds += time.perf_counter() - started

    def _count_pass(self, model: Network, preprocessing: Preprocessing, images: RowSource) -> None:
        if self.flops_per_s and len(images):
            (one,) = ImageInputs(images, preprocessing, self.device).batches([np.arange(1)])
            each = forward_flops(model.extract, one)
            self.preparation.flops += each * len(self.workers.own_part(np.arange(len(images))))

    def _progress_callback(self, whole: int, start: int, n: int) -> OnBatch | None:
        """A callback for a pass over `n` pictures that reports it as part of a `whole`, from `start` on."""
        report = self.on_batch
        if report is None:
            return None
        return lambda done, total: report(start + n * done // max(total, 1), whole)

    def epoch(self, epoch: int) -> EpochResult:
        """Train one epoch, then compute its measures on the validation set."""
        started = time.perf_counter()
        loss, accuracy, waited = self._train(epoch)
        preparation, self.preparation = self.preparation, _PreparationCost()
        seconds = time.perf_counter() - started + preparation.seconds
        rate = self.n_train / seconds
        flops = preparation.flops + self.n_train * self.flops / self.workers.size
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
            data_wait=(waited + preparation.waited) / seconds,
            mfu=flops / seconds / self.flops_per_s if self.flops_per_s else None,
            val_probabilities=predictions,
            metrics=self.head.metrics(predictions, labels),
        )

    def _validate(self) -> Tensor:
        """Outputs for the validation set, on the CPU, float64."""
        # Each worker has its own running statistics of batch normalisation. All use those of the first worker.
        self.workers.broadcast(self.model.buffers())
        n_outputs, dtype = self.head.target.n_outputs, self.options.dtype
        rows = self.workers.own_part(np.arange(len(self.val_labels)))
        n = len(self.val_labels)
        part = evaluate(
            self.model,
            self.forward,
            self.val_inputs,
            rows,
            device=self.device,
            dtype=dtype,
            n_outputs=n_outputs,
            on_batch=self._progress_callback(self.n_train + n, self.n_train, n),
        )
        return self.workers.gather(part, n).double().cpu()

    def _train(self, epoch: int) -> tuple[float, float | None, float]:
        """Mean loss, accuracy (None if the head has none) and seconds of waiting for data."""
        options, n = self.options, self.n_train
        flips = epoch_flips(n, options.seed, epoch) if options.flips else None
        crop = self.recipe.crop
        crops = None if crop is None else epoch_crops(n, options.seed, epoch, crop)
        batches = split_into_batches(epoch_order(n, options.seed, epoch), options.batch_size)
        row_batches = [self.workers.own_part(rows) for rows in batches]
        mine = torch.from_numpy(np.concatenate(row_batches)).to(self.device)
        targets = split_rows(self.targets[mine], [len(rows) for rows in row_batches])
        every = 1 if self.device.type == "cpu" else _BATCHES_BETWEEN_CHECKS_ON_GPU
        waited, sums, pending = self.train_inputs.waited, np.zeros(2), list[Tensor]()
        self.model.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(dropout_seed(options.seed, epoch, self.workers.rank))
            for batch, inputs in enumerate(self.train_inputs.batches(row_batches, flips, crops), 1):
                self._set_rate((epoch - 1) * len(row_batches) + batch - 1, options.epochs * len(row_batches))
                pending.append(self._step(inputs, targets[batch - 1], len(batches[batch - 1])))
                if len(pending) == every or batch == len(row_batches):
                    sums += self._collect(pending, epoch, batch, len(row_batches))
                    pending = []
                if self.on_batch:
                    self.on_batch(min(batch * options.batch_size, n), n + len(self.val_labels))
        waited = self.train_inputs.waited - waited
        return float(sums[0] / n), float(sums[1] / n) if self.head.has_accuracy else None, waited

    def _step(self, inputs: Tensor, targets: Tensor, n_batch: int) -> Tensor:
        """One step on this worker's part of `n_batch` pictures. Returns their summed loss and correct answers."""
        totals = self._gradients(inputs, targets, n_batch)
        self.workers.sum([*(p.grad for p in self.parameters if p.grad is not None), totals])
        if self.head.max_gradient is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.head.max_gradient)
        self.optimizer.step()
        if self.average:
            self.average.update()
        return totals

    def _gradients(self, inputs: Tensor, targets: Tensor, n_batch: int) -> Tensor:
        """Gradients of this worker's part, in pieces that fit its memory. Returns summed loss and correct answers."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                parts = zip(split_rows(inputs, self.micro), split_rows(targets, self.micro), strict=True)
                return torch.stack([self._piece(part, wanted, n_batch) for part, wanted in parts]).sum(0)
            except torch.OutOfMemoryError as error:
                if self.micro == 1:
                    raise StageError(
                        f"training: one picture of {tuple(inputs.shape[2:])} pixels does not fit into the memory of "
                        f"{self.device}; lower --train.image_size, or end other programs that use it"
                    ) from error
            self.micro = (min(self.micro, len(inputs)) + 1) // 2
            self._reject_graphs_in_pieces(f"a batch of {n_batch} does not fit into the memory of {self.device}, and ")
            self.report(micro_batch_choice(self.micro, n_batch))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _piece(self, inputs: Tensor, targets: Tensor, n_batch: int) -> Tensor:
        if self.options.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with mixed_precision(self.device, self.options.dtype):
            outputs = self.forward(inputs)
        # The sum is divided by the whole batch's size: gradients of all pieces and workers add up to that of the mean.
        soft = self.head.smooth_targets(targets, self.recipe.smoothing)
        loss = self.head.losses(outputs.float(), soft).sum()
        torch.autograd.backward(loss / n_batch)
        correct = self.head.correct(outputs.detach(), targets).sum()
        return torch.stack([loss.detach(), correct.to(loss.dtype)])

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
            raise divergence_error(loss, self.options)
        total: NDArray[np.float64] = found.sum(axis=0)
        return total


def divergence_error(what: str, options: LoopOptions) -> StageError:
    """The error that ends a training whose loss is not finite; `what` says which loss, and when."""
    return StageError(f"training: {what}; lower --train.learning_rate (now {options.learning_rate:g})")
