"""Trials on Ray Tune and Ray Train: tables, predictions, resuming, and failure messages."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import ConfigError, StageError
from raypipe.statistics.intervals import wilson_interval
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train import sweep
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights, weights_inputs
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.trial_plan import Trial
from tests.training_root import change


@pytest.mark.usefixtures("ray_session")
def test_sweep_writes_all_documented_tables(
    training: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = change(training, sweep={"configs": ["A", "B"], "concurrent": 2}, train={"save": "winner"})
    record = sweep.run(config)
    storage = config.open_storage()
    rows = json.loads(storage.read("sweep/results.json"))
    assert [(row["trial"], row["epoch"]) for row in rows] == [("A-0", 1), ("A-0", 2), ("B-0", 1), ("B-0", 2)]
    assert set(rows[0]) == {
        *("trial", "configuration", "seed", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
        *("images_per_s", "mfu", "data_wait"),
    }
    predictions = pd.read_parquet(f"{config.root}/sweep/predictions")
    assert predictions.groupby(["trial", "split"]).size().to_dict() == {
        (trial, split): 8 for trial in ("A-0", "B-0") for split in ("val", "test")
    }
    table1 = list(csv.DictReader(io.StringIO(storage.read("sweep/table1.csv").decode())))
    for line in table1:
        mine = predictions[predictions.configuration == line["configuration"]]
        right = (mine.probability > 0.5) == (mine.label == "top")
        assert float(line["max_val_accuracy"]) == pytest.approx(right[mine.split == "val"].mean(), abs=1e-6)
        assert float(line["test_accuracy"]) == pytest.approx(right[mine.split == "test"].mean(), abs=1e-6)
        assert line["epochs"] == "2"
    (pair,) = csv.DictReader(io.StringIO(storage.read("sweep/comparisons.csv").decode()))
    asked = predictions[predictions.split == "test"].assign(
        right=lambda rows: (rows.probability > 0.5) == (rows.label == "top")
    )
    right = asked.pivot(index="post_id", columns="configuration", values="right")
    assert (pair["first"], pair["second"], pair["split"], pair["n"]) == ("A", "B", "test", "8")
    assert int(pair["only_first"]) == int((right.A & ~right.B).sum())
    assert int(pair["only_second"]) == int((right.B & ~right.A).sum())
    trials = list(csv.DictReader(io.StringIO(storage.read("sweep/trials.csv").decode())))
    assert [(line["trial"], line["learning_rate"], line["epochs_trained"]) for line in trials] == [
        ("A-0", "0.01", "2"), ("B-0", "0.01", "2"),
    ]  # fmt: skip
    for trial, line in zip(trials, table1, strict=True):
        assert trial["test_accuracy"] == line["test_accuracy"]
        accuracy = float(line["max_val_accuracy"])
        assert [float(trial["val_low"]), float(trial["val_high"])] == pytest.approx(
            wilson_interval(round(8 * accuracy), 8), abs=1e-6
        )
    assert record.rows_in == 44
    assert record.rows_out == 40
    assert record.dropped == {"unlabelled": 4, "no_picture": 0, "undecodable": 0}
    kept = [file.path for file in record.files if file.path.endswith(".safetensors")]
    assert kept == [f"checkpoints/{record.facts['winner']}/best.safetensors"]
    assert any("tfevents" in name for name in storage.files("sweep"))
    # The sweep is complete, so nothing starts. Options without effect on a sweep are reported.
    monkeypatch.setattr(sweep, "ray_session", None)
    assert sweep.run(change(config, train={"config": "C"})).run_id == record.run_id
    assert "train.config and train.name not used: only `raypipe train` uses it" in capsys.readouterr().out
    with pytest.raises(StageError, match=r"epochs was 2, is 3"):
        sweep.run(change(config, train={"epochs": 3}))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.cluster
def test_sweep_trains_both_forms(training: Config) -> None:
    config = change(training, sweep={"configs": ["A"], "forms": ["paper", "modern"]}, train={"save": "none"})
    sweep.run(config)
    storage = config.open_storage()
    rows = json.loads(storage.read("sweep/results.json"))
    assert {(row["trial"], row["configuration"]) for row in rows} == {("A-0", "A"), ("A-modern-0", "A modern")}
    table1 = list(csv.DictReader(io.StringIO(storage.read("sweep/table1.csv").decode())))
    assert [line["configuration"] for line in table1] == ["A", "A modern"]
    (pair,) = csv.DictReader(io.StringIO(storage.read("sweep/comparisons.csv").decode()))
    assert (pair["first"], pair["second"]) == ("A", "A modern")


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def planted_pickle(marker: Path) -> bytes:
    return pickle.dumps(Planted(marker))


def test_only_old_pickles_are_deleted(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    kept = ["sweep/_staging/A-0.json", "sweep/A-0/result.json", "sweep/experiment_state-x.json", "train/A/tuner.pkl"]
    planted = ["sweep/tuner.pkl", "sweep/A-0/error.pkl", "sweep/_staging/x.pkl", "sweep/searcher.pickle"]
    for path in (*kept, *planted):
        storage.write(path, planted_pickle(tmp_path / "marker"))
    sweep.delete_pickles(TableWriter(storage, "sweep", "0"))
    assert all(map(storage.exists, kept))
    assert not any(map(storage.exists, planted))
    assert not (tmp_path / "marker").exists()


@pytest.mark.usefixtures("ray_session")
@pytest.mark.cluster
def test_finished_trial_is_not_repeated(training: Config) -> None:
    config = change(
        training, sweep={"configs": ["A", "B"], "concurrent": 2}, train={"learning_rate": {"A": 0.01, "B": 1e30}}
    )
    with pytest.raises(StageError, match=r"trial B-0 failed: training: the validation loss is nan after epoch 1;"):
        sweep.run(config)
    storage = config.open_storage()
    staged = [name for name in storage.files("sweep/_staging") if name.endswith("A-0.json")]
    assert len(staged) == 1
    before = storage.read(f"sweep/_staging/{staged[0]}")
    planted = [f"sweep/{name}" for name in ("tuner.pkl", "A-0/error.pkl", "B-0/error.pkl", "trainable.pkl")]
    bait = planted_pickle(Path(training.root) / "marker")
    for path in planted:
        storage.write(path, bait)
    with pytest.raises(StageError, match="B-0 failed"):
        sweep.run(config)
    assert storage.read(f"sweep/_staging/{staged[0]}") == before
    assert not (Path(training.root) / "marker").exists()
    assert not any(storage.exists(path) and storage.read(path) == bait for path in planted)
    with pytest.raises(StageError, match=r"learning_rate.B was 1e\+30, is 0.01"):
        sweep.run(change(config, train={"learning_rate": {"A": 0.01, "B": 0.01}}))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.cluster
def test_parallel_seeds_compute_features_once(training: Config, tmp_path: Path) -> None:
    weights = load_weights("random")
    convolutions = build_vgg(CONFIGURATIONS["A"], image_size=32, weights=weights, seed=0).features.state_dict()
    torch.save({f"features.{name}": value for name, value in convolutions.items()}, tmp_path / "vgg.pth")
    config = change(
        training,
        sweep={"configs": ["A"], "seeds": 2, "concurrent": 2},
        train={"weights": str(tmp_path / "vgg.pth"), "save": "none"},
    )
    sweep.run(config)
    storage = config.open_storage()
    told = [TrialResult.from_json(storage.read(f"sweep/_trials/A-{seed}.json")).choices for seed in range(2)]
    for part in ("train", "train-mirrored", "val"):
        origins = [line.split(": ")[1].split(";")[0] for lines in told for line in lines if f"of {part}:" in line]
        assert (origins.count("computed and kept"), origins.count("found on disk")) == (1, 1)


@pytest.mark.usefixtures("ray_session")
def test_too_many_workers_raise_error_before_any_work(training: Config) -> None:
    for run in (sweep.run, sweep.run_train):
        with pytest.raises(
            ConfigError, match=r"^train.workers: 64 workers of a trial need one CPU each, but there are 2; "
        ):
            run(change(training, train={"workers": 64}))
    assert {path.name for path in Path(training.root).iterdir()} == {"images", "labels"}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.cluster
def test_train_with_two_workers_equals_one(training: Config) -> None:
    one = sweep.run_train(change(training, train={"config": "C", "name": "one", "save": "none"}))
    two = sweep.run_train(change(training, train={"config": "C", "name": "two", "workers": 2, "save": "all"}))
    storage = training.open_storage()
    assert (one.table, two.table) == ("train/one", "train/two")
    losses = [
        [row["train_loss"] for row in json.loads(storage.read(f"train/{name}/results.json"))] for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert not [file for file in one.files if file.path.startswith("checkpoints")]
    assert [file.path for file in two.files if file.path.endswith(".safetensors")] == [
        "checkpoints/C-0/best.safetensors"
    ]
    assert tables.get_record(storage, "train/one").facts["weights"] == "random"


def complete(config: Config, inputs: dict[str, str]) -> str:
    """Write a complete `train/A` for these options and inputs, without files. Returns the run id."""
    storage = config.open_storage()
    options = sweep._result_options(config, "train/A", [Trial("A", 0)])
    inputs = {name: tables.get_record(storage, name).run_id for name in ("labels", "images")} | inputs
    with tables.begin(storage, "train/A", command="train", config=options, inputs=inputs) as run:
        return run.commit(rows_in=0).run_id


def test_changed_weights_at_same_path_are_new_input(
    training: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither result needs Ray or valid weights.
    monkeypatch.setattr(sweep, "ray_session", None)
    path = tmp_path / "w.pth"
    path.write_bytes(b"one")
    config = change(training, train={"weights": str(path)})
    run_id = complete(config, weights_inputs(str(path)))
    assert sweep.run_train(config).run_id == run_id
    path.write_bytes(b"two")
    with pytest.raises(StageError, match="input weights has changed; use --overwrite"):
        sweep.run_train(config)
    # A deleted file does not count as changed.
    path.unlink()
    assert sweep.run_train(config).run_id == run_id


def test_choice_of_auto_is_kept(training: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "ray_session", None)
    config = change(training, train={"weights": "auto"})
    run_id = complete(config, {"weights": "imagenet"})
    assert sweep.run_train(config).run_id == run_id


@pytest.mark.usefixtures("ray_session")
def test_interrupted_run_refuses_another_choice_of_auto(training: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config, storage = change(training, train={"weights": "auto"}), training.open_storage()
    # The pretrained weights can no longer be downloaded.
    monkeypatch.setattr(sweep, "load_network_weights", lambda *_: load_weights("random"))
    options = sweep._result_options(config, "train/A", [Trial("A", 0)])
    inputs = {name: tables.get_record(storage, name).run_id for name in ("labels", "images")} | {"weights": "imagenet"}
    with tables.begin(storage, "train/A", command="train", config=options, inputs=inputs) as run:
        run.writer.write_file("x", b"staged")
    with pytest.raises(StageError, match=r"has an unfinished run of another .*: input weights has changed"):
        sweep.run_train(config)
