"""Trials as MLflow runs, in a folder that MLflow's own client reads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.config.load import load_config
from raypipe.errors import ConfigError, StageError
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train.results.trial_result import TRIALS_FOLDER, TrialResult
from raypipe.train.trial_plan import PictureTable, Trial, TrialPlan
from raypipe.train.trials.ray_mlflow_runs import mlflow_runs
from tests.train.small import TARGETS

TRIAL = Trial("B", 3, values=(("learning_rate", 0.5),))
ROWS = [
    {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.5, "val_loss": 0.5, "val_accuracy": 0.75,
     "images_per_s": 9.0, "data_wait": 0.125, "mfu": 0.25},
    {"epoch": 2, "train_loss": 0.25, "train_accuracy": 0.75, "val_loss": 0.5, "val_accuracy": 0.5,
     "images_per_s": 9.0, "data_wait": 0.125, "mfu": None},
]  # fmt: skip
TUNED: Any = SimpleNamespace(config={"trial": TRIAL.name})


@pytest.fixture
def plans(tmp_path: Path) -> dict[str, TrialPlan]:
    storage = Storage(str(tmp_path / "root"))
    pictures = PictureTable(storage, "_tensors/x", 32, TARGETS["binary"])
    train = load_config(train={"epochs": 2}).train
    return {TRIAL.name: TrialPlan(TRIAL, TRIAL.options(train), pictures, TableWriter(storage, "sweep", "run"))}


def finish(plans: dict[str, TrialPlan]) -> None:
    result = TrialResult(TRIAL.name, TRIAL.label, TRIAL.seed, ROWS, 0.625)
    plans[TRIAL.name].writer.write_file(f"{TRIALS_FOLDER}/{TRIAL.name}.json", result.to_json())


def test_resumed_trial_is_one_mlflow_run(
    tmp_path: Path, plans: dict[str, TrialPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = load_config(sweep={"mlflow": str(tmp_path / "runs")})
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())

    def runs() -> list[Any]:
        (experiment,) = (found for found in client.search_experiments() if found.name == "raypipe")
        return list(client.search_runs([experiment.experiment_id]))

    with pytest.raises(KeyboardInterrupt), mlflow_runs(config, plans) as (callback,):
        callback.log_trial_start(TUNED)
        callback.log_trial_result(1, TUNED, ROWS[0])
        assert runs()[0].info.status == "RUNNING"
        raise KeyboardInterrupt
    assert runs()[0].info.status == "KILLED"
    with mlflow_runs(config, plans) as (callback,):
        callback.log_trial_start(TUNED)
        callback.log_trial_result(1, TUNED, ROWS[1])
        finish(plans)
        callback.log_trial_end(TUNED)
    (run,) = runs()
    assert (run.info.run_name, run.info.status) == (TRIAL.name, "FINISHED")
    assert (run.data.params["configuration"], run.data.params["seed"], run.data.params["learning_rate"]) == (
        "B",
        "3",
        "0.5",
    )
    steps = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "val_accuracy")}
    assert steps == {1: 0.75, 2: 0.5}
    assert {name: run.data.metrics[name] for name in ("images_per_s", "data_wait", "mfu")} == {
        "images_per_s": 9.0,
        "data_wait": 0.125,
        "mfu": 0.25,
    }
    assert (run.data.metrics["best/val_accuracy"], run.data.metrics["test/accuracy"]) == (0.75, 0.625)


def test_unfinished_trial_is_marked_failed(
    tmp_path: Path, plans: dict[str, TrialPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with mlflow_runs(load_config(sweep={"mlflow": str(tmp_path / "runs")}), plans) as (callback,):
        callback.log_trial_start(TUNED)
        callback.log_trial_end(TUNED)
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    experiment = client.get_experiment_by_name("mine")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_lost_mlflow_store_gives_warning_not_failure(
    tmp_path: Path, plans: dict[str, TrialPlan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with mlflow_runs(load_config(sweep={"mlflow": str(tmp_path / "runs")}), plans) as (callback,):
        callback.log_trial_start(TUNED)
        (tmp_path / "runs").rename(tmp_path / "gone")
        (tmp_path / "runs").write_text("no folder")
        for found in ROWS:
            callback.log_trial_result(1, TUNED, found)
        callback.log_trial_end(TUNED)
    assert capsys.readouterr().out.count("fails, training continues without it: ") == 1


def test_unreachable_mlflow_server_raises_error_before_training(plans: dict[str, TrialPlan], free_port: int) -> None:
    pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    where = f"http://127.0.0.1:{free_port}"
    with (
        pytest.raises(StageError, match=rf"sweep.mlflow: {where} cannot be used: "),
        mlflow_runs(load_config(sweep={"mlflow": where}), plans),
    ):
        pass


def test_missing_mlflow_package_error_names_package(
    plans: dict[str, TrialPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with (
        pytest.raises(
            ConfigError, match=r"sweep.mlflow: the package mlflow is not installed; pip install 'raypipe\[mlflow\]'"
        ),
        mlflow_runs(load_config(sweep={"mlflow": "runs"}), plans),
    ):
        pass
    with mlflow_runs(load_config(), plans) as none:
        assert none == []
