"""Weights, predictions and result of a trial are of the same epoch, wherever it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train.loop.state import EpochResult, LoopState
from raypipe.train.networks.configurations import B
from raypipe.train.networks.heads import make_head
from raypipe.train.networks.vgg import VGG, build_vgg
from raypipe.train.networks.weights import load_weights
from raypipe.train.results.checkpoints import CheckpointStore, TrialState, checkpoint_metadata, newest_best
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.trial_plan import PictureTable, Trial, TrialPlan
from raypipe.train.trials.run_trial import loop_options
from tests.train.small import TARGETS, draw

VAL, EMPTY = draw(8, 1, size=32), draw(0, 2, size=32)
WEIGHTS = load_weights("random")


class Training:
    """Reports chosen results to the CheckpointStore, as the loop does. All weights equal the epoch's `mark`."""

    def __init__(self, root: Path, start: TrialState | None = None, save: str = "best") -> None:
        storage = Storage(str(root))
        config = Config.model_validate({"root": str(root), "train": {"image_size": 32, "save": save, "epochs": 9}})
        pictures = PictureTable(storage, "_tensors/x", 32, TARGETS["binary"])
        self.plan = TrialPlan(Trial("B", 0), config.train, pictures, TableWriter(storage, "sweep", "run"))
        head = make_head(TARGETS["binary"], VAL.labels)
        self.kept: list[TrialState] = []
        self.checkpoint_store = CheckpointStore(self.plan, WEIGHTS, head, VAL, 0, start, self._keep, None)
        self.model: VGG = build_vgg(B, image_size=32, weights=WEIGHTS, seed=0)
        self.best_epoch = start.state.best_epoch if start else 0
        self.best = start.state.best_merit if start else -1.0
        self.folder = f"{self.plan.writer.staging}/checkpoints/B-0"

    def _keep(self, _: dict[str, Any], trial_state: TrialState) -> bool:
        self.kept.append(trial_state)
        return False

    def epoch(self, number: int, accuracy: float, mark: float) -> None:
        if accuracy > self.best:
            self.best, self.best_epoch = accuracy, number
        for parameter in self.model.parameters():
            torch.nn.init.constant_(parameter, mark)
        found = np.full(len(VAL), mark, np.float32)
        result = EpochResult(number, 0.5, 0.5, 0.5, accuracy, 100.0, 0.0, None, found)
        state = LoopState("B", number, self.model.state_dict(), {}, self.best_epoch, self.best)
        self.checkpoint_store.record_epoch(result, state)

    def finish(self) -> TrialResult:
        return self.checkpoint_store.finish(self.model, loop_options(self.plan, "cpu"), EMPTY)

    def files(self) -> list[str]:
        return self.plan.writer.storage.files(self.folder)

    def mark_of(self, name: str = "best.safetensors") -> float:
        state = load(self.plan.writer.storage.read(f"{self.folder}/{name}"))
        return float(state["logit.weight"][0, 0])

    def predicted(self) -> tuple[set[int], set[float]]:
        columns = ["epoch", "probability"]
        rows = tables.read_staged(self.plan.writer, "B-0-val", columns, folder="predictions")
        return set(rows["epoch"].to_pylist()), set(rows["probability"].to_pylist())


def through_files(trial_state: TrialState, folder: Path) -> TrialState:
    """Save and load the progress, as a checkpoint does."""
    folder.mkdir()
    trial_state.save(folder)
    return TrialState.load(folder)


def test_weights_and_predictions_are_of_best_epoch(tmp_path: Path) -> None:
    run = Training(tmp_path)
    for number, (accuracy, mark) in enumerate([(0.5, 0.125), (0.75, 0.25), (0.625, 0.375)], 1):
        run.epoch(number, accuracy, mark)
    assert run.files() == ["epoch-1.safetensors", "epoch-2.safetensors"]
    found = newest_best(run.plan)
    assert found
    assert found.endswith("/checkpoints/B-0/epoch-2.safetensors")
    assert run.finish().best["epoch"] == 2
    assert run.files() == ["best.safetensors"]
    assert run.mark_of() == 0.25
    assert run.predicted() == ({2}, {0.25})


@pytest.mark.parametrize("after", [[0.25, 0.375], [0.625], []])
def test_lost_epochs_leave_no_weights_or_predictions(tmp_path: Path, after: Sequence[float]) -> None:
    """The best epoch 2 was staged but not in a checkpoint. Trained again, it is worse."""
    lost = Training(tmp_path)
    lost.epoch(1, 0.5, 0.125)
    start = through_files(lost.kept[0], tmp_path / "checkpoint")
    lost.epoch(2, 0.75, 0.25)
    again = Training(tmp_path, start)
    for number, accuracy in enumerate(after, 2):
        again.epoch(number, accuracy, 0.5)
    result = again.finish()
    wanted, mark = (2, 0.5) if 0.625 in after else (1, 0.125)
    assert result.best["epoch"] == wanted
    assert [row["val_accuracy"] for row in result.rows] == [0.5, *after]
    assert again.files() == ["best.safetensors"]
    assert again.mark_of() == mark
    assert again.predicted() == ({wanted}, {mark})


def test_trial_interrupted_at_end_finishes_equally(tmp_path: Path) -> None:
    first = Training(tmp_path)
    for number, accuracy in enumerate([0.5, 0.75, 0.5], 1):
        first.epoch(number, accuracy, number / 8)
    start = through_files(first.kept[-1], tmp_path / "checkpoint")
    first.finish()
    again = Training(tmp_path, start)
    assert again.finish().rows == again.checkpoint_store.rows
    assert again.mark_of() == 0.25
    assert again.predicted() == ({2}, {0.25})


def test_missing_best_weights_raise_error_before_any_deletion(tmp_path: Path) -> None:
    run = Training(tmp_path)
    for number, accuracy in enumerate([0.5, 0.75], 1):
        run.epoch(number, accuracy, number / 8)
    run.plan.writer.storage.delete(f"{run.folder}/epoch-2.safetensors")
    with pytest.raises(StageError, match=r"epoch-2.safetensors: the best epoch's weights are missing; run again"):
        run.finish()
    assert run.files() == ["epoch-1.safetensors"]


def test_best_few_epochs_are_staged(tmp_path: Path) -> None:
    run = Training(tmp_path)
    for number in range(1, 8):
        run.epoch(number, 0.5 + number / 100 if number != 3 else 0.1, number / 8)
    assert run.files() == [f"epoch-{number}.safetensors" for number in (4, 5, 6, 7)]


def test_save_none_stages_only_predictions(tmp_path: Path) -> None:
    run = Training(tmp_path, save="none")
    run.epoch(1, 0.5, 0.125)
    run.epoch(2, 0.25, 0.25)
    run.finish()
    assert run.files() == []
    assert newest_best(run.plan) is None
    assert run.predicted() == ({1}, {0.125})


def test_checkpoint_names_its_epoch(tmp_path: Path) -> None:
    from safetensors import safe_open

    run = Training(tmp_path)
    run.epoch(1, 0.5, 0.125)
    run.epoch(2, 0.75, 0.25)
    run.finish()
    head = make_head(TARGETS["binary"], VAL.labels)
    with safe_open(tmp_path / run.folder / "best.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        assert file.metadata() == checkpoint_metadata(run.plan, WEIGHTS, head) | {"epoch": "2"}
