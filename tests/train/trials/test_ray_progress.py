"""Messages about running trials, and which trials end early."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.train.trials.halving import SuccessiveHalving
from raypipe.train.trials.ray_progress import ProgressActor, RunningTrial, running_table


def row(epoch: int, val: float | None = 0.5, mfu: float | None = None) -> dict[str, Any]:
    return {
        "epoch": epoch, "train_accuracy": None if val is None else 0.75, "val_accuracy": val, "train_loss": 0.25,
        "val_loss": 0.125, "images_per_s": 1234.5, "mfu": mfu, "data_wait": 0.004,
    }  # fmt: skip


def text(running: list[RunningTrial]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=90).print(running_table(running))
    return [line.split() for line in out.getvalue().splitlines()]  # type: ignore[misc]


def test_read_progress_returns_epochs_note_and_new_lines() -> None:
    progress_actor = ProgressActor({"A-0": 4, "B-0": 2})
    progress_actor.report_batch("A-0", 0, 8, 32)
    seen = progress_actor.read_progress()
    assert (seen.epochs, seen.note) == (0.25, "A-0 epoch 1/4 8/32")
    assert not progress_actor.report_epoch("A-0", row(1), [0.5])
    progress_actor.report_batch("B-0", 0, 16, 32)
    seen = progress_actor.read_progress()
    assert seen.epochs == 1.5
    assert [trial.trial for trial in seen.running] == ["A-0", "B-0"]
    progress_actor.report_batch("A-0", 1, 16, 32)
    assert (
        progress_actor.read_progress().note
        == "A-0 epoch 2/4 16/32 · train 0.750 val 0.500 · 1,234 pictures/s, 0.4 % waiting for data"
    )
    progress_actor.report_done("B-0", "best validation accuracy 0.500")
    seen = progress_actor.read_progress()
    assert seen.lines == ["  B-0: best validation accuracy 0.500"]
    assert [trial.trial for trial in seen.running] == ["A-0"]
    assert progress_actor.read_progress().lines == []
    progress_actor.report_failure("A-0", "the loss is nan")
    assert progress_actor.failures() == {"A-0": "the loss is nan"}
    assert progress_actor.read_progress().running == []


def test_one_trial_computes_shared_features_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    progress_actor = ProgressActor({"A-0": 4, "A-1": 4})
    assert progress_actor.acquire("A-0", "features")
    assert not progress_actor.acquire("A-1", "features")
    assert [trial.cells()[2] for trial in progress_actor.read_progress().running] == ["waits for A-0"]
    progress_actor.report_batch("A-1", 0, 8, 32)
    assert [trial.cells()[2] for trial in progress_actor.read_progress().running] == ["8/32"]
    assert progress_actor.acquire("A-1", "others")
    # No effect: A-1 does not have the lock.
    progress_actor.release("A-1", "features")
    assert not progress_actor.acquire("A-1", "features")
    progress_actor.release("A-0", "features")
    assert progress_actor.acquire("A-1", "features")
    # A trial that restarts or fails loses its lock.
    progress_actor.report_start("A-1", 1)
    assert progress_actor.acquire("A-0", "features")
    progress_actor.report_failure("A-0", "its machine is gone")
    assert progress_actor.acquire("A-1", "features")
    # A-1 stops reporting while it should compute.
    now = time.monotonic()
    monkeypatch.setattr("raypipe.train.trials.ray_progress.time.monotonic", lambda: now + 500)
    progress_actor.report_batch("A-1", 0, 8, 32)
    monkeypatch.setattr("raypipe.train.trials.ray_progress.time.monotonic", lambda: now + 1000)
    assert not progress_actor.acquire("A-0", "features")
    monkeypatch.setattr("raypipe.train.trials.ray_progress.time.monotonic", lambda: now + 1200)
    assert progress_actor.acquire("A-0", "features")
    assert not progress_actor.acquire("A-1", "features")


def test_work_share_counts_slow_epochs() -> None:
    progress_actor = ProgressActor({"A-0": 40, "B-0": 4}, slow_epochs={"A-0": 1, "B-0": 4})
    assert (progress_actor.read_progress().share, progress_actor.read_progress().note) == (
        0.0,
        "first trials are starting",
    )
    progress_actor.report_batch("A-0", 0, 16, 32)
    assert progress_actor.read_progress().share == pytest.approx(0.5 / 5)
    progress_actor.report_epoch("A-0", row(30), [0.5] * 30)
    assert (progress_actor.read_progress().epochs, progress_actor.read_progress().share) == (30, pytest.approx(1 / 5))
    progress_actor.report_epoch("B-0", row(2), [0.5] * 2)
    assert progress_actor.read_progress().share == pytest.approx(3 / 5)
    progress_actor.report_done("A-0", "best validation accuracy 0.500")
    progress_actor.report_done("B-0", "best validation accuracy 0.500")
    assert (progress_actor.read_progress().epochs, progress_actor.read_progress().share) == (44, 1.0)
    assert ProgressActor({"B-0": 4}).read_progress().share == 0.0


def test_progress_never_decreases() -> None:
    progress_actor = ProgressActor({"A-0": 4})
    progress_actor.report_batch("A-0", 0, 32, 32)
    progress_actor.report_batch("A-0", 0, 8, 32)
    assert progress_actor.read_progress().epochs == 1
    progress_actor.report_epoch("A-0", row(2), [0.5, 0.5])
    progress_actor.report_start("A-0", 2)
    progress_actor.report_batch("A-0", 1, 8, 32)
    assert progress_actor.read_progress().epochs == 2


def test_score_trial_shows_loss() -> None:
    progress_actor = ProgressActor({"C-0": 2})
    progress_actor.report_epoch("C-0", row(1, None), [-0.125])
    assert (
        progress_actor.read_progress().note
        == "C-0 epoch 1/2 · loss train 0.250 val 0.125 · 1,234 pictures/s, 0.4 % waiting for data"
    )


def test_live_table_shows_furthest_trials_first() -> None:
    running = [
        RunningTrial("B-0", 9, 1, 5, 10, row(1, mfu=0.412)),
        RunningTrial("A-0", 12, 3, row=row(3)),
        RunningTrial("D-0", 20),
    ]
    assert text(running) == [
        ["trial", "epoch", "pictures", "pictures/s", "MFU", "waits", "train", "val"],
        ["A-0", "4/12", "1,234", "–", "0.4", "%", "0.750", "0.500"],
        ["B-0", "2/9", "5/10", "1,234", "41", "%", "0.4", "%", "0.750", "0.500"],
        ["D-0", "1/20", "–", "–", "–"],
    ]
    many = [RunningTrial(f"A-{seed}", 12) for seed in range(15)]
    assert len(text(many)) == 14
    assert text(many)[-1] == ["and", "3", "more"]


def test_stopped_trial_leaves_file_and_stays_stopped(tmp_path: Any) -> None:
    storage = Storage(str(tmp_path))
    writer = TableWriter(storage, "sweep", "run")
    epochs = {"A-0": 9, "A-1": 9}
    progress_actor = ProgressActor(epochs, SuccessiveHalving(dict.fromkeys(epochs, "A"), epochs, 1, 3), writer)
    assert not progress_actor.report_epoch("A-0", row(1, 0.6), [0.6])
    assert progress_actor.report_epoch("A-1", row(1, 0.5), [0.5])
    assert progress_actor.report_epoch("A-1", row(1, 0.5), [0.5])
    assert storage.read("sweep/_staging/run/_ended/A-1") == b"asha, after epoch 1\n"
    progress_actor.report_done("A-1", "best validation accuracy 0.500")
    seen = progress_actor.read_progress()
    assert seen.lines == ["  A-1: best validation accuracy 0.500 (ended early by asha)"]
    assert seen.epochs == pytest.approx(1 + 9)


def test_ray_train_module_does_not_import_torch() -> None:
    program = "import sys, raypipe.train.trials.ray_train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
