"""A trial on Ray Train: data-parallel workers, checkpoints to resume from, word of each epoch to whoever watches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypipe.errors import RaypipeError, one_line
from raypipe.train.allocation import Hardware
from raypipe.train.plan import TrialPlan
from raypipe.train.ray_watch import Word

if TYPE_CHECKING:
    from raypipe.train.trial import Progressed

_STATE, _ROWS = "last.pt", "rows.pt"


def train_on_ray(plan: TrialPlan, hardware: Hardware, weights: Any, watch: Any) -> None:
    """Train one trial and return when its results are staged; called inside a Tune trial.

    `weights` is a reference to LoadedWeights in Ray's object store, `watch` the actor that is told of progress.
    Raises RaypipeError with the cause where the trial itself failed, ray.train's error where workers were lost.
    """
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    storage, options = plan.writer.storage, plan.options
    # A little less than whole CPUs: the trial's driver holds a hundredth of one.
    resources: dict[str, float] = {"CPU": hardware.cpus_per_worker - 0.05}
    if hardware.gpu:
        resources["GPU"] = hardware.gpus_per_worker
    TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "hardware": hardware, "weights": weights, "watch": watch},
        scaling_config=ray.train.ScalingConfig(
            num_workers=hardware.workers, use_gpu=hardware.gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # Stable from attempt to attempt, so that the latest checkpoint is found; the run's id keeps runs apart.
            name=f"train-{plan.writer.run_id}-{plan.trial.name}",
            storage_path=storage.path(plan.writer.table),
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=options.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _worker(loop_config: dict[str, Any]) -> None:
    """What every worker of a trial runs. Torch is imported here, where it is used, not in the processes on the way."""
    import ray
    import ray.train
    import ray.train.torch
    import torch

    from raypipe.train.trial import run_trial

    plan, hardware, watch = loop_config["plan"], loop_config["hardware"], loop_config["watch"]
    weights = ray.get(loop_config["weights"])
    context = ray.train.get_context()
    rank, many = context.get_world_rank(), context.get_world_size() > 1
    if not hardware.gpu:
        # Ray sets OMP_NUM_THREADS from the fraction of a CPU it was asked for.
        torch.set_num_threads(hardware.cpus_per_worker)
    word = Word(watch, plan.trial.name, speaks=rank == 0)

    def on_epoch(row: dict[str, Any], progressed: Progressed) -> bool:
        stop = word.epoch(progressed.rows)
        # Kept with the checkpoint: a trial that was told to end and then killed ends when it is taken up again.
        progressed.state.ended |= stop
        if plan.options.save != "all":
            ray.train.report(row)
            return stop
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                progressed.state.save(Path(folder) / _STATE)
                torch.save(progressed.rows, Path(folder) / _ROWS)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(row, checkpoint=checkpoint)
        return stop

    try:
        result = run_trial(
            plan,
            weights,
            device=str(ray.train.torch.get_device()),
            group=torch.distributed.group.WORLD if many else None,
            rank=rank,
            start=_load(ray.train.get_checkpoint()),
            on_epoch=on_epoch,
            on_batch=word.batch,
        )
    except RaypipeError as error:
        # Trying again would only meet it again: the trial ends here, and the sweep says why.
        ray.get(watch.fail.remote(plan.trial.name, one_line(error)))
        return
    if rank == 0:
        ray.get(watch.finish.remote(plan.trial.name, result.summary))


def _load(checkpoint: Any) -> Progressed | None:
    import torch

    from raypipe.train.state import LoopState
    from raypipe.train.trial import Progressed

    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        rows = torch.load(Path(folder) / _ROWS, weights_only=True)
        return Progressed(LoopState.load(Path(folder) / _STATE), rows)
