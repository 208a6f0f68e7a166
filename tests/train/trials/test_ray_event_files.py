"""TensorBoard's files of trials, read by a real TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import pytest

from raypipe.config.load import load_config
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train.board import tensorboard
from raypipe.train.results.trial_result import TRIALS_FOLDER, TrialResult
from raypipe.train.trial_plan import PictureTable, Trial, TrialPlan
from raypipe.train.trials.ray_event_files import EventFileCallback, described
from tests.train.small import TARGETS
from tests.train.test_board import ask, wait_for_runs

TRAIN = load_config(train={"learning_rate": 0.01, "epochs": 3}).train
TRIALS_OF_TEST = (Trial("A", 0), Trial("D", 1, "modern", (("learning_rate", 0.5), ("patience", 2))))


def row(trial: Trial, epoch: int, val: float) -> dict[str, Any]:
    return {
        "trial": trial.name, "configuration": trial.label, "seed": trial.seed, "epoch": epoch, "train_loss": 1 / epoch,
        "train_accuracy": 0.5, "val_loss": 0.5, "val_accuracy": val, "images_per_s": 100.0, "mfu": None,
        "data_wait": 0.1,
    }  # fmt: skip


class Sweep:
    """Calls the callback as Tune does: trials start, report, end, and are resumed by another process."""

    def __init__(self, root: Path) -> None:
        self.root, self.storage = root, Storage(str(root))
        self.writer = TableWriter(self.storage, "sweep", "run")
        pictures = PictureTable(self.storage, "_tensors/x", 32, TARGETS["binary"])
        self.plans = {t.name: TrialPlan(t, t.options(TRAIN), pictures, self.writer) for t in TRIALS_OF_TEST}

    def attempt(self, trial: Trial, epochs: list[tuple[int, float]], test: float | None) -> None:
        """Run some epochs of a trial. If there is a `test` accuracy, the trial finishes after them."""
        folder = self.root / "sweep" / trial.name
        tuned: Any = SimpleNamespace(
            config={"trial": trial.name},
            local_path=str(folder),
            init_local_path=lambda: folder.mkdir(parents=True, exist_ok=True),
        )
        files = EventFileCallback(TRAIN, self.plans)
        files.log_trial_start(tuned)
        for epoch, val in epochs:
            files.log_trial_result(1, tuned, {**row(trial, epoch, val), "training_iteration": 1, "time_total_s": 3.0})
        if test is not None:
            rows = [row(trial, epoch, val) for epoch, val in ((1, 0.5), (2, 0.75), (3, 0.625))]
            result = TrialResult(trial.name, trial.label, trial.seed, rows, test, {"roc_auc": 0.8125})
            self.writer.write_file(f"{TRIALS_FOLDER}/{trial.name}.json", result.to_json())
        files.log_trial_end(tuned, failed=test is None)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A TensorBoard for an interrupted and resumed trial, and for an unfinished one."""
    root = tmp_path_factory.mktemp("root")
    sweep = Sweep(root)
    first, second = TRIALS_OF_TEST
    sweep.attempt(first, [(1, 0.5), (2, 0.75)], None)
    # Names of event files have a resolution of one second.
    time.sleep(1.1)
    sweep.attempt(first, [(3, 0.625)], 0.875)
    sweep.attempt(second, [(1, 0.25)], None)
    with tensorboard(root, 0) as (url, _):
        wait_for_runs(url, 2)
        yield url


def points(url: str, trial: Trial, tag: str) -> list[tuple[int, float]]:
    found = ask(f"{url}data/plugin/scalars/scalars?tag={tag}&run=sweep/{trial.name}")
    assert isinstance(found, list)
    return [(step, value) for _, step, value in found]


def test_steps_are_epochs_despite_interruption(board: str) -> None:
    first, second = TRIALS_OF_TEST
    assert points(board, first, "val_accuracy") == [(1, 0.5), (2, 0.75), (3, 0.625)]
    assert points(board, first, "images_per_s") == [(1, 100.0), (2, 100.0), (3, 100.0)]
    assert points(board, first, "test/accuracy") == [(3, 0.875)]
    assert points(board, first, "test/roc_auc") == [(3, 0.8125)]
    assert points(board, second, "val_accuracy") == [(1, 0.25)]
    tags = wait_for_runs(board, 2)["sweep/A-0"]
    # Tune's own bookkeeping is not logged.
    assert not [tag for tag in tags if "time" in tag or "iteration" in tag or "seed" in tag]


def post(url: str, body: dict[str, Any]) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_hparams_page_lists_hyperparameters_of_trials(board: str) -> None:
    experiment = post(f"{board}data/plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"configuration", "form", "seed", "learning_rate", "batch_size", "epochs", "weights", "patience"} <= names
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert metrics == ["best/val_accuracy", "val_accuracy", "train_accuracy", "test/accuracy"]
    wanted = {
        "experimentName": "", "startIndex": 0, "sliceSize": 10, "colParams": [],
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
    }  # fmt: skip
    groups = {g["name"]: g for g in post(f"{board}data/plugin/hparams/session_groups", wanted)["sessionGroups"]}
    assert set(groups) == {"sweep/A-0", "sweep/D-modern-learning_rate-0.5-patience-2-1"}
    values = {
        name: {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
        for name, group in groups.items()
    }
    assert values["sweep/A-0"]["best/val_accuracy"] == 0.75
    assert values["sweep/A-0"]["test/accuracy"] == 0.875
    second = groups["sweep/D-modern-learning_rate-0.5-patience-2-1"]["hparams"]
    assert (second["configuration"], second["form"], second["seed"]) == ("D", "modern", 1)
    assert (second["learning_rate"], second["patience"]) == (0.5, 2)
    assert groups["sweep/A-0"]["hparams"]["patience"] == "none"


def test_numeric_hyperparameters_stay_numbers() -> None:
    found = described(TRIALS_OF_TEST[0], TRAIN)
    assert (found["learning_rate"], found["flips"], found["saturation"], found["epochs"]) == (0.01, True, "none", 3)
