"""Runs a trial on Ray Train, with data-parallel workers, checkpoints to resume from, and progress reports."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from raypipe.errors import RaypipeError, StageError, one_line
from raypipe.runtime import original_error
from raypipe.train.trial_plan import TrialPlan
from raypipe.train.trials.allocation import Hardware
from raypipe.train.trials.ray_progress import TrialProgress

if TYPE_CHECKING:
    from raypipe.train.data.mapped_rows import RowSource
    from raypipe.train.data.npy_rows import NpyRows
    from raypipe.train.results.checkpoints import TrialState

# Texts of gloo's and NCCL's errors in the remaining workers when another worker is lost.
_LOST_CONNECTION_TEXTS = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError", "ncclSystemError")
# Errors that another attempt would raise again.
_FINAL = (RaypipeError, ValueError, TypeError, LookupError, AttributeError)


def train_on_ray(plan: TrialPlan, hardware: Hardware, weights: Any, progress_actor: Any) -> None:
    """Train one trial. Returns when its results are staged, or when the progress actor has the reason of its failure.

    Called inside a Tune trial. `weights` is a reference to LoadedWeights in Ray's object store. `progress_actor` gets
    the reports. If workers or their nodes are lost, the trial goes on from its last checkpoint. It fails after
    `max_failures` + 1 consecutive losses without a new checkpoint between them.
    """
    import ray
    from ray.train import TrainingFailedError

    name, most = plan.trial.name, plan.options.max_failures
    losses, before = 0, None
    while True:
        try:
            _run_ray_train(plan, hardware, weights, progress_actor)
            return
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {})
            # If one worker has a final error, other workers fail too, because they miss it. Only its error counts.
            final = next((failure for failure in failures.values() if isinstance(failure, _FINAL)), None)
            reason = _error_text(final) if final else _failure_text(failures, error, hardware.workers)
        first_epoch = ray.get(progress_actor.first_epoch.remote(name))
        losses, before = (losses + 1 if first_epoch == before else 1), first_epoch
        if final or losses > most:
            often = "" if final else f" ({losses} times from epoch {first_epoch} on; --train.max_failures is {most})"
            ray.get(progress_actor.report_failure.remote(name, reason + often + _kept(plan)))
            return
        ray.get(progress_actor.add_line.remote(f"  {name}: {reason}; it continues from its last checkpoint"))


def _error_text(final: Exception) -> str:
    found = original_error(final)
    return one_line(found) if isinstance(final, RaypipeError) else f"{type(found).__name__}: {one_line(found)}"


def _failure_text(failures: Mapping[int, Exception], error: Exception, workers: int) -> str:
    """One line that says why workers failed or were lost."""
    from ray.exceptions import RayActorError

    own = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
    lost = sorted(rank for rank, failure in own.items() if isinstance(failure, RayActorError))
    if lost:
        who = f"worker {lost[0]}" if len(lost) == 1 else f"workers {', '.join(map(str, lost))}"
        return f"{who} of {workers} lost: its process was killed, or its machine is gone"
    reason = one_line(original_error(next(iter(own.values()), error)))
    if any(word in reason for word in _LOST_CONNECTION_TEXTS):
        return "a worker lost the connection to another one: its process was killed, or its machine is gone"
    return f"a worker failed: {reason}"


def _kept(plan: TrialPlan) -> str:
    """Text with the address of a failed trial's best weights, which can still be used. Empty if there are none."""
    from raypipe.train.results.checkpoints import newest_best

    path = newest_best(plan)
    return f"; its best epoch so far: --predict.model {path}" if path else ""


def _run_ray_train(plan: TrialPlan, hardware: Hardware, weights: Any, progress_actor: Any) -> None:
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
        train_loop_config={"plan": plan, "hardware": hardware, "weights": weights, "watch": progress_actor},
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

    plan, hardware, progress_actor = loop_config["plan"], loop_config["hardware"], loop_config["watch"]
    weights = ray.get(loop_config["weights"])
    context = ray.train.get_context()
    rank, many = context.get_world_rank(), context.get_world_size() > 1
    if not hardware.gpu:
        # Without this, the number of threads is OMP_NUM_THREADS, which Ray sets from the requested share of a CPU.
        torch.set_num_threads(hardware.cpus_per_worker)
    start = _load(ray.train.get_checkpoint())
    first = start.state.epoch + 1 if start else 1
    trial_progress = TrialProgress(progress_actor, plan.trial.name, first, is_reporter=rank == 0)

    def on_epoch(row: dict[str, Any], trial_state: TrialState) -> bool:
        stop = trial_progress.report_epoch(trial_state.rows)
        # Part of the checkpoint, so that a trial that should end and is killed ends when it is resumed.
        trial_state.state.ended |= stop
        if plan.options.save == "none":
            ray.train.report(row)
            return stop
        with plan.writer.storage.scratch.temporary() as folder:
            checkpoint = None
            if rank == 0:
                trial_state.save(folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(row, checkpoint=checkpoint)
        return stop

    if rank == 0:
        ray.get(progress_actor.report_start.remote(plan.trial.name, first))
    result = _run(
        plan,
        weights,
        device=str(ray.train.torch.get_device()),
        group=torch.distributed.group.WORLD if many else None,
        rank=rank,
        start=start,
        open_rows=partial(_open, plan),
        on_epoch=on_epoch,
        on_batch=trial_progress.report_batch,
        on_choice=trial_progress.report_choice,
        compute_lock=trial_progress,
    )
    if rank == 0:
        ray.get(progress_actor.report_done.remote(plan.trial.name, result.summary))


def _run(plan: TrialPlan, *arguments: Any, **options: Any) -> Any:
    import torch

    from raypipe.train.trials.run_trial import run_trial

    try:
        return run_trial(plan, *arguments, **options)
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"training: the memory of {options['device']} is too small: {one_line(error)}; "
            "lower --train.micro_batch or --train.image_size, or end other programs that use it"
        ) from error


def _open(plan: TrialPlan, shards: NpyRows) -> RowSource:
    from raypipe.train.data.mapped_rows import MappedRows, map_if_room
    from raypipe.train.data.npy_rows import fits_on_machine
    from raypipe.train.trials.ray_stream import StreamedRows

    wanted = plan.options.pictures
    if wanted == "local":
        return MappedRows(shards)
    mapped = map_if_room(shards) if wanted == "auto" and fits_on_machine(shards) else None
    return StreamedRows(shards) if mapped is None else mapped


def _load(checkpoint: Any) -> TrialState | None:
    from raypipe.train.results.checkpoints import TrialState

    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return TrialState.load(folder)
