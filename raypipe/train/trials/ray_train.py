"""Runs a trial on Ray Train, with data-parallel workers, checkpoints to resume from, and reports to the watch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from raypipe.errors import RaypipeError, StageError, one_line
from raypipe.runtime import cause
from raypipe.train.plan import TrialPlan
from raypipe.train.trials.allocation import Hardware
from raypipe.train.trials.ray_watch import Word

if TYPE_CHECKING:
    from raypipe.train.data.mapped import RowSource
    from raypipe.train.data.shards import Shards
    from raypipe.train.results.checkpoints import Progressed

# Texts of gloo's and NCCL's errors in the remaining workers when another worker is lost.
_CUT_OFF = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError", "ncclSystemError")
# Errors that another attempt would meet again.
_FINAL = (RaypipeError, ValueError, TypeError, LookupError, AttributeError)


def train_on_ray(plan: TrialPlan, hardware: Hardware, weights: Any, watch: Any) -> None:
    """Train one trial. Returns when its results are staged, or when the watch has the reason of its failure.

    Called inside a Tune trial. `weights` is a reference to LoadedWeights in Ray's object store. `watch` is the actor
    that gets reports. If workers or their nodes are lost, the trial goes on from its last checkpoint. It fails after
    `max_failures` + 1 consecutive losses without a new checkpoint between them.
    """
    import ray
    from ray.train import TrainingFailedError

    name, most = plan.trial.name, plan.options.max_failures
    losses, before = 0, None
    while True:
        try:
            _attempt(plan, hardware, weights, watch)
            return
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {})
            # If one worker meets a final error, other workers fail too, because they miss it. Only its error counts.
            final = next((failure for failure in failures.values() if isinstance(failure, _FINAL)), None)
            reason = _said(final) if final else _loss(failures, error, hardware.workers)
        begun = ray.get(watch.begun.remote(name))
        losses, before = (losses + 1 if begun == before else 1), begun
        if final or losses > most:
            often = "" if final else f" ({losses} times from epoch {begun} on; --train.max_failures is {most})"
            ray.get(watch.fail.remote(name, reason + often + _kept(plan)))
            return
        ray.get(watch.tell.remote(f"  {name}: {reason}; it goes on from its last checkpoint"))


def _said(final: Exception) -> str:
    found = cause(final)
    return one_line(found) if isinstance(final, RaypipeError) else f"{type(found).__name__}: {one_line(found)}"


def _loss(failures: Mapping[int, Exception], error: Exception, workers: int) -> str:
    """One line that says why workers failed or were lost."""
    from ray.exceptions import RayActorError

    own = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
    lost = sorted(rank for rank, failure in own.items() if isinstance(failure, RayActorError))
    if lost:
        who = f"worker {lost[0]}" if len(lost) == 1 else f"workers {', '.join(map(str, lost))}"
        return f"{who} of {workers} lost: its process was killed, or its machine is gone"
    reason = one_line(cause(next(iter(own.values()), error)))
    if any(word in reason for word in _CUT_OFF):
        return "a worker lost the connection to another one: its process was killed, or its machine is gone"
    return f"a worker failed: {reason}"


def _kept(plan: TrialPlan) -> str:
    """Text with the address of a failed trial's best weights, which can still be used. Empty if there are none."""
    from raypipe.train.results.checkpoints import newest_best

    path = newest_best(plan)
    return f"; its best epoch so far: --predict.model {path}" if path else ""


def _attempt(plan: TrialPlan, hardware: Hardware, weights: Any, watch: Any) -> None:
    """Run Ray Train once, from the trial's last checkpoint. Raises ray.train.TrainingFailedError."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    storage = plan.writer.storage
    resources: dict[str, float] = {"CPU": hardware.cpus_per_worker}
    if hardware.gpu:
        resources["GPU"] = hardware.gpus_per_worker
    TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "hardware": hardware, "weights": weights, "watch": watch},
        scaling_config=ray.train.ScalingConfig(
            num_workers=hardware.workers, use_gpu=hardware.gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # The same in each attempt, so that the latest checkpoint is found. The run's id keeps runs apart.
            name=f"train-{plan.writer.run_id}-{plan.trial.name}",
            storage_path=storage.path(plan.writer.table),
            storage_filesystem=storage.filesystem,
            # Ray itself replaces nodes that announce their end. `train_on_ray` handles other losses, because Ray
            # would count them over the whole training, however long it is.
            failure_config=ray.train.FailureConfig(max_failures=0),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _worker(loop_config: dict[str, Any]) -> None:
    """Runs on every worker of a trial. Imports torch here, because the processes that start workers do not need it."""
    import ray
    import ray.train
    import ray.train.torch
    import torch

    plan, hardware, watch = loop_config["plan"], loop_config["hardware"], loop_config["watch"]
    weights = ray.get(loop_config["weights"])
    context = ray.train.get_context()
    rank, many = context.get_world_rank(), context.get_world_size() > 1
    if not hardware.gpu:
        # Without this, the number of threads is OMP_NUM_THREADS, which Ray sets from the requested share of a CPU.
        torch.set_num_threads(hardware.cpus_per_worker)
    start = _load(ray.train.get_checkpoint())
    first = start.state.epoch + 1 if start else 1
    word = Word(watch, plan.trial.name, first, speaks=rank == 0)

    def on_epoch(row: dict[str, Any], progressed: Progressed) -> bool:
        stop = word.epoch(progressed.rows)
        # Part of the checkpoint, so that a trial that should end and is killed ends when it is resumed.
        progressed.state.ended |= stop
        if plan.options.save == "none":
            ray.train.report(row)
            return stop
        with plan.writer.storage.scratch.temporary() as folder:
            checkpoint = None
            if rank == 0:
                progressed.save(folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(row, checkpoint=checkpoint)
        return stop

    if rank == 0:
        ray.get(watch.begin.remote(plan.trial.name, first))
    result = _run(
        plan,
        weights,
        device=str(ray.train.torch.get_device()),
        group=torch.distributed.group.WORLD if many else None,
        rank=rank,
        start=start,
        open_shards=partial(_open, plan),
        on_epoch=on_epoch,
        on_batch=word.batch,
        on_choice=word.choice,
        turns=word,
    )
    if rank == 0:
        ray.get(watch.finish.remote(plan.trial.name, result.summary))


def _run(plan: TrialPlan, *arguments: Any, **options: Any) -> Any:
    import torch

    from raypipe.train.trials.trial import run_trial

    try:
        return run_trial(plan, *arguments, **options)
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"training: the memory of {options['device']} does not suffice: {one_line(error)}; "
            "lower --train.micro_batch or --train.image_size, or end what else uses it"
        ) from error


def _open(plan: TrialPlan, shards: Shards) -> RowSource:
    from raypipe.train.data.mapped import MappedRows, map_if_room
    from raypipe.train.data.shards import fits_here
    from raypipe.train.trials.ray_stream import StreamedRows

    wanted = plan.options.pictures
    if wanted == "local":
        return MappedRows(shards)
    mapped = map_if_room(shards) if wanted == "auto" and fits_here(shards) else None
    return StreamedRows(shards) if mapped is None else mapped


def _load(checkpoint: Any) -> Progressed | None:
    from raypipe.train.results.checkpoints import Progressed

    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Progressed.load(folder)
