"""``train`` and ``sweep``: trials of the paper's configurations as Ray Tune runs them, each on Ray Train."""

from __future__ import annotations

import os
import time
from typing import Any

import pyarrow as pa

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import StageError, one_line
from raypipe.progress import say
from raypipe.records import RunRecord
from raypipe.runtime import cause, ray_session
from raypipe.schemas import predictions_schema
from raypipe.sections.base import Letter
from raypipe.tables import TableRun, TableWriter
from raypipe.train.compare import answers, compare, comparisons_csv, verdicts
from raypipe.train.configurations import CONFIGURATIONS
from raypipe.train.networks import load_network_weights
from raypipe.train.pipeline import prepare_pictures
from raypipe.train.plan import PictureTable, Trial, TrialPlan, for_configuration
from raypipe.train.ray_watch import Watch, training_progress
from raypipe.train.results import TRIALS, TrialResult, results_json, table1_csv
from raypipe.train.target import Target
from raypipe.train.trainer import Hardware, train_on_ray
from raypipe.train.trial import CHECKPOINTS
from raypipe.train.weights import LoadedWeights

_ENVIRONMENT = {
    # Let Ctrl-C reach the command instead of ending Tune quietly with half the trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Reports wait for the controller's next look; the default of 2 s would be most of an epoch of A.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def run_one(config: Config) -> RunRecord:
    """Train one configuration: ``train/NAME/``."""
    letter: Letter = config.train.config
    trial = Trial(letter, config.seed, config.train.form)
    return _run(config, f"train/{config.train.name or letter}", "train", [trial])


def run(config: Config) -> RunRecord:
    """Train every configuration of the sweep in every form with every seed: ``sweep/``."""
    seeds = range(config.seed, config.seed + config.sweep.seeds)
    forms = config.sweep.forms or [config.train.form]
    trials = [Trial(letter, seed, form) for form in forms for letter in config.sweep.configs for seed in seeds]
    return _run(config, "sweep", "sweep", trials)


def _run(config: Config, table: str, command: str, trials: list[Trial]) -> RunRecord:
    storage = config.open_storage()
    labels, images = tables.get_record(storage, "labels"), tables.get_record(storage, "images")
    options = {**config.result_options("seed", "train"), "trials": [trial.name for trial in trials]}
    inputs = {"labels": labels.run_id, "images": images.run_id}
    found = tables.find_record(storage, table)
    weights = None if found is not None else load_network_weights(config.train.model, config.train.weights)
    with ray_session(config):
        pictures = prepare_pictures(config)
        with tables.begin(
            storage, table, command=command, config=options, inputs=inputs, overwrite=config.overwrite
        ) as run:
            if run.record is not None:
                return run.record
            weights = weights or load_network_weights(config.train.model, config.train.weights)
            for note in filter(None, (weights.note, weights.note_for(pictures.target))):
                say(f"  {note}")
            if not run.resumed:
                _clear(run.writer)
            started = time.monotonic()
            _tune(config, run, pictures, weights, trials)
            return _commit(config, run, pictures, trials, weights, time.monotonic() - started)


def _clear(writer: TableWriter) -> None:
    """Tune's and Train's files of an earlier run go: none of them belongs to the one that begins."""
    storage, table = writer.storage, writer.table
    record = tables.find_record(storage, table)
    kept = {file.path for file in record.files} if record else set()
    for name in storage.files(table):
        if name not in kept and not name.startswith("_"):
            storage.delete(f"{table}/{name}")


def _tune(config: Config, run: TableRun, pictures: PictureTable, weights: LoadedWeights, trials: list[Trial]) -> None:
    import ray
    from ray import tune

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    writer = run.writer
    done = {trial.name for trial in trials if writer.storage.exists(f"{writer.staging}/{TRIALS}/{trial.name}.json")}
    # The longest first: what is short fills the gaps, and no long one runs alone at the end.
    left = sorted((trial for trial in trials if trial.name not in done), key=lambda trial: _shortness(trial, config))
    if done:
        say(f"  {len(done)} of {len(trials)} trials are done already")
    if not left:
        return
    hardware, concurrent = _hardware(config)
    node = ray.get_runtime_context().get_node_id()
    here = {"ray.io/node-id": node}
    address = next(item["NodeManagerAddress"] for item in ray.nodes() if item["NodeID"] == node)
    watch = ray.remote(num_cpus=0, label_selector=here)(Watch).remote()
    reference = ray.put(weights)
    plans = {trial.name: TrialPlan(trial, config.train, pictures, writer) for trial in left}

    def driver(parameters: dict[str, Any]) -> None:
        train_on_ray(plans[parameters["trial"]], hardware, reference, watch)

    parent, _, name = writer.table.rpartition("/")
    tuner = tune.Tuner(
        # What only follows a trial stays on this machine, so that no other one's loss ends it, and takes no CPU of it.
        tune.with_resources(
            driver,
            tune.PlacementGroupFactory([{f"node:{address}": 0.001}], bundle_label_selector=[here]),
        ),
        param_space={"trial": tune.grid_search([trial.name for trial in left])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            # A new process for every trial would spend seconds on importing torch.
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=writer.storage.path(parent) if parent else writer.storage.path(),
            storage_filesystem=writer.storage.filesystem,
            verbose=0,
        ),
    )
    epochs = sum(plan.epochs for plan in plans.values())
    with training_progress(watch, epochs):
        results = tuner.fit()
    failures = ray.get(watch.failures.remote())
    for result in results:
        if result.error is not None:
            failures.setdefault((result.config or {}).get("trial", "?"), one_line(cause(result.error)))
    if failures:
        trial, reason = next(iter(failures.items()))
        others = f" (and {len(failures) - 1} more trials)" if len(failures) > 1 else ""
        raise StageError(f"{writer.table}: trial {trial} failed: {reason}{others}; finished trials are kept")


def _compare(writer: TableWriter, results: list[TrialResult], target: Target) -> None:
    """``comparisons.csv``: which configurations differ by more than noise; where there are several to compare."""
    split = "val" if results[0].test_accuracy is None else "test"
    columns = predictions_schema(target.kind).names
    rows = [tables.read_staged(writer, f"{result.trial}-{split}", columns, folder="predictions") for result in results]
    found = compare(answers(pa.concat_tables(rows), target))
    if found:
        writer.write_file("comparisons.csv", comparisons_csv(found))
        for (first, second), said in verdicts(found).items():
            say(f"  {first} and {second}: {said}")


def _shortness(trial: Trial, config: Config) -> tuple[bool, int]:
    epochs = int(for_configuration(config.train.epochs, trial.configuration))
    return CONFIGURATIONS[trial.configuration].frozen, -epochs


def _hardware(config: Config) -> tuple[Hardware, int]:
    """What a trial gets, and how many run at a time."""
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    workers = config.train.workers
    use_gpu = gpus > 0 if config.train.gpu is None else config.train.gpu
    if use_gpu:
        concurrent = config.sweep.concurrent or max(1, gpus // workers)
        return Hardware(workers, True, max(1, min(8, cpus // max(1, gpus)))), concurrent
    concurrent = config.sweep.concurrent or 1
    return Hardware(workers, False, max(1, cpus // (workers * concurrent))), concurrent


def _commit(
    config: Config,
    run: TableRun,
    pictures: PictureTable,
    trials: list[Trial],
    weights: LoadedWeights,
    seconds: float,
) -> RunRecord:
    writer, storage = run.writer, run.writer.storage
    results = [TrialResult.from_json(storage.read(f"{writer.staging}/{TRIALS}/{trial.name}.json")) for trial in trials]
    winner = max(results, key=lambda result: result.merit)
    if config.train.save == "winner":
        for result in results:
            if result is not winner:
                storage.delete_directory(f"{writer.staging}/{CHECKPOINTS}/{result.trial}")
    writer.write_file("results.json", results_json(results))
    writer.write_file("table1.csv", table1_csv(results))
    _compare(writer, results, pictures.target)
    prepared = tables.get_record(storage, pictures.table)
    undecodable = int(prepared.facts["undecodable"])
    record = run.commit(
        rows_in=prepared.rows_in,
        rows_out=prepared.rows_out - undecodable,
        dropped={**prepared.dropped, "undecodable": undecodable},
        seconds={"decode": prepared.seconds.get("decode", 0.0), "train": seconds},
        facts={
            "weights": weights.name,
            "head": pictures.target.kind,
            "classes": list(pictures.target.names),
            "image_size": pictures.image_size,
            "winner": winner.trial,
        },
    )
    if config.train.save != "all":
        # Ray Train keeps a folder of bookkeeping for each run, of no use without checkpoints to resume from.
        for trial in trials:
            storage.delete_directory(f"{writer.table}/train-{writer.run_id}-{trial.name}")
    return record
