"""Runs trials on Ray Tune. In Tune, a trial is a small function that starts a run of Ray Train and waits for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from raypipe.config import Config
from raypipe.errors import StageError, one_line
from raypipe.progress import print_line
from raypipe.runtime import original_error
from raypipe.tables import TableRun, TableWriter
from raypipe.train.metrics import figure_of_merit
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.weights import LoadedWeights
from raypipe.train.results.trial_result import TrialResult, staged_result
from raypipe.train.trial_plan import PictureTable, Trial, TrialPlan
from raypipe.train.trials.allocation import Allocation, Node, allocate
from raypipe.train.trials.halving import SuccessiveHalving
from raypipe.train.trials.ray_progress import ProgressActor, training_progress
from raypipe.train.trials.ray_train import train_on_ray

_ENVIRONMENT = {
    # Ctrl-C must reach the command. Otherwise Tune ends without an error after only some of the trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Reports wait for the controller's next check. The default of 2 s would be most of an epoch of A.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def allocate_on_cluster(config: Config, trials: Sequence[Trial]) -> Allocation:
    """Hardware that Ray can give to these trials. Raises ConfigError if one trial alone needs more than there is."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(node.get("CPU", 0), node.get("GPU", 0)) for node in found]
    return allocate(config, trials, nodes, is_autoscaling="RAY_ADDRESS" in os.environ)


def tune_trials(
    config: Config, run: TableRun, pictures: PictureTable, weights: LoadedWeights, trials: Sequence[Trial]
) -> None:
    """Run the trials that are not done yet, as many at a time as there is room for.

    Raises StageError that names the first failed trial and the reason. Finished trials stay done.
    """
    import ray
    from ray import tune

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from raypipe.train.trials.ray_event_files import EventFileCallback
    from raypipe.train.trials.ray_mlflow_runs import mlflow_runs

    writer = run.writer
    plans = {trial.name: TrialPlan(trial, trial.options(config.train), pictures, writer) for trial in trials}
    found = {name: staged_result(writer, name) for name in plans}
    done = {name: result for name, result in found.items() if result is not None}
    # The longest trials start first. Short ones fill the gaps, so that no long trial runs alone at the end.
    remaining = sorted((plan for name, plan in plans.items() if name not in done), key=_longest_first)
    if done:
        print_line(f"  {len(done)} of {len(trials)} trials are done already")
    if not remaining:
        return
    allotted = allocate_on_cluster(config, [plan.trial for plan in remaining])
    node = ray.get_runtime_context().get_node_id()
    this_node = {"ray.io/node-id": node}
    address = next(item["NodeManagerAddress"] for item in ray.nodes() if item["NodeID"] == node)
    progress_actor = _start_progress_actor(config, writer, plans, done, this_node)
    reference = ray.put(weights)

    def driver(parameters: dict[str, Any]) -> None:
        name = parameters["trial"]
        train_on_ray(plans[name], allotted.hardware[name], reference, progress_actor)

    parent, _, name = writer.table.rpartition("/")
    with mlflow_runs(config, plans) as loggers:
        tuner = tune.Tuner(
            # The function only waits, so it takes no CPU. It runs here, so the loss of another machine cannot end it.
            tune.with_resources(
                driver,
                tune.PlacementGroupFactory([{f"node:{address}": 0.001}], bundle_label_selector=[this_node]),
            ),
            param_space={"trial": tune.grid_search([plan.trial.name for plan in remaining])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=allotted.concurrent,
                # A new process per trial would take seconds to import torch.
                reuse_actors=True,
                trial_name_creator=lambda trial: str(trial.config["trial"]),
                trial_dirname_creator=lambda trial: str(trial.config["trial"]),
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=writer.storage.path(parent) if parent else writer.storage.path(),
                storage_filesystem=writer.storage.filesystem,
                verbose=0,
                callbacks=[EventFileCallback(config.train, plans), *loggers],
            ),
        )
        with training_progress(progress_actor, sum(plan.epochs for plan in remaining)):
            results = tuner.fit()
    failures = ray.get(progress_actor.failures.remote())
    for result in results:
        if result.error is not None:
            failures.setdefault((result.config or {}).get("trial", "?"), one_line(original_error(result.error)))
    if failures:
        trial, reason = next(iter(failures.items()))
        others = f" (and {len(failures) - 1} more trials)" if len(failures) > 1 else ""
        raise StageError(f"{writer.table}: trial {trial} failed: {reason}{others}; finished trials are kept")


def _start_progress_actor(
    config: Config,
    writer: TableWriter,
    plans: dict[str, TrialPlan],
    done: dict[str, TrialResult],
    this_node: dict[str, str],
) -> Any:
    """The progress actor of a sweep. It runs on this process's node, so that it is not lost with a worker's node."""
    import ray

    epochs = {name: plan.epochs for name, plan in plans.items()}
    # With frozen convolutions only the first epoch is slow: it computes the features. The others train one layer.
    slow_epochs = {name: 1 if _is_frozen(plan) else plan.epochs for name, plan in plans.items() if name not in done}
    halving = None
    if config.sweep.scheduler == "asha" and writer.table == "sweep":
        halving = SuccessiveHalving(
            {name: rival_group(plan.trial, config) for name, plan in plans.items()},
            epochs,
            config.sweep.grace,
            config.sweep.reduction,
        )
        for name in sorted(done):
            rows = done[name].rows
            halving.record(name, [figure_of_merit(row["val_accuracy"], row["val_loss"]) for row in rows])
    return ray.remote(num_cpus=0, label_selector=this_node)(ProgressActor).remote(epochs, halving, writer, slow_epochs)


def rival_group(trial: Trial, config: Config) -> str:
    """The group of trials that a trial is compared with. By default each configuration, form and seed has its own."""
    return "" if config.sweep.rivals == "all" else f"{trial.configuration} {trial.form} {trial.seed}"


def _longest_first(plan: TrialPlan) -> tuple[bool, int]:
    return _is_frozen(plan), -plan.epochs


def _is_frozen(plan: TrialPlan) -> bool:
    return CONFIGURATIONS[plan.trial.configuration].frozen
