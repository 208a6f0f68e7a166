"""The stages ``train`` and ``sweep``: Ray Tune runs trials of the paper's configurations, each on Ray Train."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.config.base import ConfigurationLetter
from raypipe.progress import console, print_line
from raypipe.runtime import ray_session
from raypipe.storage import Storage
from raypipe.tables import TableRun, TableWriter
from raypipe.tables.record import RunRecord
from raypipe.tables.schemas import predictions_schema
from raypipe.train.data.target import Target
from raypipe.train.decode import prepare_pictures
from raypipe.train.networks.build import load_network_weights
from raypipe.train.networks.weights import LoadedWeights, weights_inputs
from raypipe.train.results.checkpoints import CHECKPOINTS_FOLDER
from raypipe.train.results.comparisons import (
    TrialAnswers,
    compare_configurations,
    comparisons_csv,
    pair_summaries,
    pairs_to_show,
    trial_answers,
)
from raypipe.train.results.trial_result import TrialResult, results_json, staged_result, table1_csv
from raypipe.train.results.trial_tables import EvaluationData, TrialOutcome, summary_table, trials_csv
from raypipe.train.trial_plan import ENDED_EARLY_FOLDER, PictureTable, Trial, sweep_trials
from raypipe.train.trials.ray_tune import allocate_on_cluster, tune_trials

_WIDTH_OF_A_FILE = 160
_PICKLES = (".pkl", ".pickle")
# Options of `train` that a sweep does not use.
_TRAIN_ONLY_OPTIONS = ("config", "name")


def run_train(config: Config) -> RunRecord:
    """Train one configuration: ``train/NAME/``."""
    letter: ConfigurationLetter = config.train.config
    trial = Trial(letter, config.seed, config.train.form)
    return _run(config, f"train/{config.train.name or letter}", "train", [trial])


def run(config: Config) -> RunRecord:
    """Train every configuration of the sweep in every form, with every combination of options and seed: ``sweep/``."""
    given = " and ".join(f"train.{name}" for name in _TRAIN_ONLY_OPTIONS if name in config.train.model_fields_set)
    if given:
        print_line(f"  {given} not used: only `raypipe train` uses it; set sweep.configs for a sweep")
    return _run(config, "sweep", "sweep", sweep_trials(config))


def _run(config: Config, table: str, command: str, trials: list[Trial]) -> RunRecord:
    storage = config.open_storage()
    labels, images = tables.get_record(storage, "labels"), tables.get_record(storage, "images")
    options = _result_options(config, table, trials)
    inputs = {"labels": labels.run_id, "images": images.run_id} | weights_inputs(config.train.weights)
    found = tables.find_record(storage, table)
    begin = partial(tables.begin, storage, table, command=command, config=options, overwrite=config.overwrite)
    if found is not None and not config.overwrite:
        # For `auto`, and for a file that is gone, the weights are those in the complete run's record.
        before = {name: value for name, value in found.inputs.items() if name == "weights"}
        # If the table is complete or the run is refused, Ray is not needed.
        with begin(inputs=before | inputs) as run:
            if run.record is not None:
                return run.record
    weights = load_network_weights(config.train.model, config.train.weights)
    if config.train.weights == "auto":
        # A resumed run must start from the same weights.
        inputs["weights"] = weights.name
    with ray_session(config):
        if found is None:
            # Checked before decoding pictures, because trials that need too much could never start.
            allocate_on_cluster(config, trials)
        pictures = prepare_pictures(config)
        with begin(inputs=inputs) as run:
            if run.record is not None:
                return run.record
            for note in filter(None, (weights.note, weights.note_for(pictures.target))):
                print_line(f"  {note}")
            if run.resumed:
                delete_pickles(run.writer)
            else:
                _delete_old_files(run.writer)
            started = time.monotonic()
            tune_trials(config, run, pictures, weights, trials)
            return _commit(config, run, pictures, trials, weights, time.monotonic() - started)


def _result_options(config: Config, table: str, trials: list[Trial]) -> dict[str, Any]:
    """The options on which the table depends."""
    options = {**config.result_options("seed", "train"), "trials": [trial.name for trial in trials]}
    if table != "sweep":
        return options
    options["train"] = {name: value for name, value in options["train"].items() if name not in _TRAIN_ONLY_OPTIONS}
    if config.sweep.scheduler == "asha":
        options["asha"] = {name: getattr(config.sweep, name) for name in ("grace", "reduction", "rivals")}
    return options


def _delete_old_files(writer: TableWriter) -> None:
    """Delete Tune's and Train's files of an earlier run. They do not belong to the new run."""
    storage, table = writer.storage, writer.table
    record = tables.find_record(storage, table)
    kept = {file.path for file in record.files} if record else set()
    for name in storage.files(table):
        if name not in kept and not name.startswith("_"):
            storage.delete(f"{table}/{name}")


def delete_pickles(writer: TableWriter) -> None:
    """Delete the pickles that Tune has left in the table, because loading a pickle can run code.

    Tune loads the error of a failed trial, and a root may come from elsewhere. Trials resume from raypipe's own files
    and checkpoints, which cannot run code.
    """
    for name in writer.storage.files(writer.table):
        if name.endswith(_PICKLES):
            writer.storage.delete(f"{writer.table}/{name}")


def _compare(evaluation: EvaluationData, best: str) -> bytes | None:
    """``comparisons.csv``: which configurations differ by more than noise. None if there are none to compare.

    Uses the test pictures, or if there are none the validation pictures. Prints the comparisons.
    """
    split = "test" if any(own.split == "test" for own in evaluation.trial_answers) else "val"
    compared = compare_configurations([own for own in evaluation.trial_answers if own.split == split], evaluation.users)
    summaries = pair_summaries(compared)
    shown = pairs_to_show(summaries, best)
    for pair in shown:
        print_line(f"  {pair[0]} and {pair[1]}: {summaries[pair]}")
    if len(shown) < len(summaries):
        print_line(f"  all {len(summaries)} pairs of configurations are in comparisons.csv")
    return comparisons_csv(compared) if compared else None


def _answers(writer: TableWriter, results: list[TrialResult], target: Target) -> list[TrialAnswers]:
    """Each trial's answers for the validation pictures and, if there are any, for the test pictures."""
    if target.kind not in ("binary", "classes"):
        return []
    columns, found = predictions_schema(target.kind).names, list[TrialAnswers]()
    for split in ("val",) if results[0].test_accuracy is None else ("val", "test"):
        for result in results:
            rows = tables.read_staged(writer, f"{result.trial}-{split}", columns, folder="predictions")
            found += trial_answers(rows.to_pandas(), target, split)
    return found


def _users(storage: Storage) -> dict[str, str | None]:
    """The users of the validation and test posts, by post_id."""
    rows = tables.read_table(storage, "labels", ["post_id", "user_id"], where=pc.field("split").isin(["val", "test"]))
    return dict(zip(rows["post_id"].to_pylist(), rows["user_id"].to_pylist(), strict=True))


def _pictures(pictures: PictureTable) -> dict[str, int]:
    """Number of pictures per split."""
    rows = tables.read_table(pictures.storage, pictures.table, ["split"], where=pc.field("error").is_null())
    return {row["values"]: row["counts"] for row in rows["split"].value_counts().to_pylist()}


def _commit(
    config: Config,
    run: TableRun,
    pictures: PictureTable,
    trials: list[Trial],
    weights: LoadedWeights,
    seconds: float,
) -> RunRecord:
    writer, storage = run.writer, run.writer.storage
    results = [result for trial in trials if (result := staged_result(writer, trial.name)) is not None]
    outcomes = [
        TrialOutcome(trial, result, storage.exists(f"{writer.staging}/{ENDED_EARLY_FOLDER}/{trial.name}"))
        for trial, result in zip(trials, results, strict=True)
    ]
    given = _answers(writer, results, pictures.target)
    evaluation = EvaluationData(pictures.target, _pictures(pictures), given, _users(storage))
    winner = max(results, key=lambda result: result.merit)
    if config.train.save == "winner":
        for result in results:
            if result is not winner:
                storage.delete_directory(f"{writer.staging}/{CHECKPOINTS_FOLDER}/{result.trial}")
    writer.write_file("results.json", results_json(results))
    writer.write_file("table1.csv", table1_csv(results))
    writer.write_file("trials.csv", trials_csv(outcomes, config.train, evaluation))
    out = console()
    # A file has no width, so the table is wide enough that nothing is folded.
    out.print(summary_table(outcomes, evaluation), width=None if out.is_terminal else _WIDTH_OF_A_FILE)
    ended = sum(outcome.ended_early for outcome in outcomes)
    if ended:
        print_line(f"  asha ended {ended} of {len(trials)} trials early")
    compared = _compare(evaluation, winner.configuration)
    if compared is not None:
        writer.write_file("comparisons.csv", compared)
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
            "choices": winner.choices,
            **({"ended_early": ended} if ended else {}),
        },
    )
    if config.train.save != "all":
        # Ray Train's folder for each run is of no use without checkpoints to resume from.
        for trial in trials:
            storage.delete_directory(f"{writer.table}/train-{writer.run_id}-{trial.name}")
    return record
