"""A sweep over hyperparameters with ASHA: its trials, its tables, and its logs in TensorBoard and MLflow."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from raypipe.config import Config
from raypipe.train import sweep
from raypipe.train.board import tensorboard
from tests.train.test_board import ask, wait_for_runs
from tests.training_root import change


def table(config: Config, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(config.open_storage().read(f"sweep/{name}").decode())))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_asha_search_is_logged_to_tables_tensorboard_mlflow(
    training: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = change(
        training,
        train={"epochs": 4},
        sweep={
            "configs": ["A"], "space": {"learning_rate": [0.01, 1e-6, 1e-7]}, "scheduler": "asha", "grace": 2,
            "mlflow": str(tmp_path / "runs"),
        },
    )  # fmt: skip
    record = sweep.run(config)
    names = ["A-learning_rate-0.01-0", "A-learning_rate-1e-06-0", "A-learning_rate-1e-07-0"]
    rows = json.loads(config.open_storage().read("sweep/results.json"))
    best = {
        name: max(row["val_accuracy"] for row in rows if row["trial"] == name and row["epoch"] <= 2) for name in names
    }
    # Trials run one after the other. Each is compared with the earlier ones.
    lasts = {name: max(row["epoch"] for row in rows if row["trial"] == name) for name in names}
    goes_on = {name: all(best[name] >= best[other] for other in names[: i + 1]) for i, name in enumerate(names)}
    assert lasts == {name: 4 if goes_on[name] else 2 for name in names}
    ended = [name for name in names if not goes_on[name]]
    assert record.facts.get("ended_early", 0) == len(ended)
    assert ended
    assert f"asha ended {len(ended)} of 3 trials early" in capsys.readouterr().out

    trials = {line["trial"]: line for line in table(config, "trials.csv")}
    assert {name: float(line["learning_rate"]) for name, line in trials.items()} == dict(
        zip(names, (0.01, 1e-6, 1e-7), strict=True)
    )
    assert [name for name, line in trials.items() if line["ended_early"] == "true"] == ended
    for line in trials.values():
        assert float(line["val_low"]) <= float(line["val_accuracy"]) <= float(line["val_high"])
    assert len(table(config, "table1.csv")) == 3

    with tensorboard(Path(config.root), 0) as (url, _):
        tags = wait_for_runs(url, 3)
        assert set(tags) == {f"sweep/{name}" for name in names}
        assert {"val_accuracy", "train_loss", "best/val_accuracy", "test/accuracy"} <= set(tags[f"sweep/{names[0]}"])
        points: Any = ask(f"{url}data/plugin/scalars/scalars?tag=val_accuracy&run=sweep/{names[0]}")
        assert [step for _, step, _ in points] == [1, 2, 3, 4]

    client = tracking.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    (experiment,) = (found for found in client.search_experiments() if found.name == "raypipe")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(names)
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert float(run.data.params["learning_rate"]) == float(trials[name]["learning_rate"])
        history = client.get_metric_history(run.info.run_id, "val_accuracy")
        wanted = [row["val_accuracy"] for row in rows if row["trial"] == name]
        assert [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)] == list(
            enumerate(wanted, 1)
        )
