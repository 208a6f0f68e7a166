"""One trial without Ray: its staged files, and equal results after an interruption."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load

from raypipe import tables
from raypipe.config import Config
from raypipe.tables import TableWriter
from raypipe.train.decode import prepare_pictures
from raypipe.train.loop.choices import compute_dtype
from raypipe.train.loop.state import LoopState
from raypipe.train.networks.weights import load_weights
from raypipe.train.results.checkpoints import TrialState
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.trial_plan import PictureTable, Trial, TrialPlan
from raypipe.train.trials.run_trial import run_trial
from tests.training_root import change


@pytest.fixture
def pictures(training: Config) -> PictureTable:
    """The decoded pictures of the small root. Needs Ray."""
    return prepare_pictures(training)


def plan(config: Config, pictures: PictureTable, letter: str, run_id: str = "0") -> TrialPlan:
    writer = TableWriter(config.open_storage(), f"train/{run_id}", run_id)
    return TrialPlan(Trial(letter, 0), config.train, pictures, writer)


class InterruptedTrialError(Exception):
    """Simulates a lost machine."""


@pytest.mark.usefixtures("ray_session")
def test_trial_resumed_after_an_epoch_equals_uninterrupted(
    training: Config, pictures: PictureTable, tmp_path: Any
) -> None:
    config = change(training, train={"epochs": 3, "save": "all", "learning_rate": 0.0003})
    weights = load_weights("random")
    whole = run_trial(plan(config, pictures, "D", "whole"), weights, device="cpu")
    kept: list[TrialState] = []

    def stop_after_first(_: dict[str, Any], trial_state: TrialState) -> None:
        trial_state.state.save(tmp_path / "last.pt")
        kept.append(TrialState(LoopState.load(tmp_path / "last.pt"), list(trial_state.rows)))
        raise InterruptedTrialError

    half = plan(config, pictures, "D", "half")
    with pytest.raises(InterruptedTrialError):
        run_trial(half, weights, device="cpu", on_epoch=stop_after_first)
    resumed = run_trial(half, weights, device="cpu", start=kept[0])
    timing = {"images_per_s", "data_wait"}
    strip = [[{k: v for k, v in row.items() if k not in timing} for row in r.rows] for r in (whole, resumed)]
    assert strip[0] == strip[1]
    assert whole.test_accuracy == resumed.test_accuracy


@pytest.mark.usefixtures("ray_session")
def test_staged_files_hold_result_and_weights(training: Config, pictures: PictureTable) -> None:
    config = change(training, train={"save": "best"})
    mine = plan(config, pictures, "B")
    result = run_trial(mine, load_weights("random"), device="cpu")
    storage, staging = config.open_storage(), mine.writer.staging
    assert TrialResult.from_json(storage.read(f"{staging}/_trials/B-0.json")) == result
    state = load(storage.read(f"{staging}/checkpoints/B-0/best.safetensors"))
    assert state["logit.weight"].shape == (1, 512)
    for split in ("val", "test"):
        rows = tables.read_staged(mine.writer, f"B-0-{split}", ["probability"], folder="predictions")
        assert len(rows) == 8


def test_bfloat16_is_chosen_if_cpu_supports_it() -> None:
    assert compute_dtype("float32", "cpu") == "float32"
    assert compute_dtype("bfloat16", "cpu") == "bfloat16"
    assert compute_dtype("auto", "cpu") in ("float32", "bfloat16")
