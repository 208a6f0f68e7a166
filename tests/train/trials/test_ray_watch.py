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
from raypipe.train.trials.halving import Halving
from raypipe.train.trials.ray_watch import Running, Watch, running_table


def row(epoch: int, val: float | None = 0.5, mfu: float | None = None) -> dict[str, Any]:
    return {
        "epoch": epoch, "train_accuracy": None if val is None else 0.75, "val_accuracy": val, "train_loss": 0.25,
        "val_loss": 0.125, "images_per_s": 1234.5, "mfu": mfu, "data_wait": 0.004,
    }  # fmt: skip


def text(running: list[Running]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=90).print(running_table(running))
    return [line.split() for line in out.getvalue().splitlines()]  # type: ignore[misc]


def test_look_returns_epochs_latest_note_and_new_lines() -> None:
    watch = Watch({"A-0": 4, "B-0": 2})
    watch.batch("A-0", 0, 8, 32)
    seen = watch.look()
    assert (seen.epochs, seen.note) == (0.25, "A-0 epoch 1/4 8/32")
    assert not watch.epoch("A-0", row(1), [0.5])
    watch.batch("B-0", 0, 16, 32)
    seen = watch.look()
    assert seen.epochs == 1.5
    assert [trial.trial for trial in seen.running] == ["A-0", "B-0"]
    watch.batch("A-0", 1, 16, 32)
    assert watch.look().note == "A-0 epoch 2/4 16/32 · train 0.750 val 0.500 · 1,234 pictures/s, 0.4 % waiting for data"
    watch.finish("B-0", "best validation accuracy 0.500")
    seen = watch.look()
    assert seen.lines == ["  B-0: best validation accuracy 0.500"]
    assert [trial.trial for trial in seen.running] == ["A-0"]
    assert watch.look().lines == []
    watch.fail("A-0", "the loss is nan")
    assert watch.failures() == {"A-0": "the loss is nan"}
    assert watch.look().running == []


def test_one_trial_computes_shared_features_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch({"A-0": 4, "A-1": 4})
    assert watch.take("A-0", "features")
    assert not watch.take("A-1", "features")
    assert [trial.cells()[2] for trial in watch.look().running] == ["waits for A-0"]
    watch.batch("A-1", 0, 8, 32)
    assert [trial.cells()[2] for trial in watch.look().running] == ["8/32"]
    assert watch.take("A-1", "others")
    # No effect: it is not A-1's turn.
    watch.leave("A-1", "features")
    assert not watch.take("A-1", "features")
    watch.leave("A-0", "features")
    assert watch.take("A-1", "features")
    # A trial that restarts or fails loses its turn.
    watch.begin("A-1", 1)
    assert watch.take("A-0", "features")
    watch.fail("A-0", "its machine is gone")
    assert watch.take("A-1", "features")
    # A-1 stops reporting while it should compute.
    now = time.monotonic()
    monkeypatch.setattr("raypipe.train.trials.ray_watch.time.monotonic", lambda: now + 500)
    watch.batch("A-1", 0, 8, 32)
    monkeypatch.setattr("raypipe.train.trials.ray_watch.time.monotonic", lambda: now + 1000)
    assert not watch.take("A-0", "features")
    monkeypatch.setattr("raypipe.train.trials.ray_watch.time.monotonic", lambda: now + 1200)
    assert watch.take("A-0", "features")
    assert not watch.take("A-1", "features")


def test_work_share_counts_slow_epochs() -> None:
    watch = Watch({"A-0": 40, "B-0": 4}, long={"A-0": 1, "B-0": 4})
    assert (watch.look().share, watch.look().note) == (0.0, "the first trials start")
    watch.batch("A-0", 0, 16, 32)
    assert watch.look().share == pytest.approx(0.5 / 5)
    watch.epoch("A-0", row(30), [0.5] * 30)
    assert (watch.look().epochs, watch.look().share) == (30, pytest.approx(1 / 5))
    watch.epoch("B-0", row(2), [0.5] * 2)
    assert watch.look().share == pytest.approx(3 / 5)
    watch.finish("A-0", "best validation accuracy 0.500")
    watch.finish("B-0", "best validation accuracy 0.500")
    assert (watch.look().epochs, watch.look().share) == (44, 1.0)
    assert Watch({"B-0": 4}).look().share == 0.0


def test_progress_never_decreases() -> None:
    watch = Watch({"A-0": 4})
    watch.batch("A-0", 0, 32, 32)
    watch.batch("A-0", 0, 8, 32)
    assert watch.look().epochs == 1
    watch.epoch("A-0", row(2), [0.5, 0.5])
    watch.begin("A-0", 2)
    watch.batch("A-0", 1, 8, 32)
    assert watch.look().epochs == 2


def test_score_trial_is_watched_by_loss() -> None:
    watch = Watch({"C-0": 2})
    watch.epoch("C-0", row(1, None), [-0.125])
    assert watch.look().note == "C-0 epoch 1/2 · loss train 0.250 val 0.125 · 1,234 pictures/s, 0.4 % waiting for data"


def test_live_table_shows_furthest_trials_first() -> None:
    running = [Running("B-0", 9, 1, 5, 10, row(1, mfu=0.412)), Running("A-0", 12, 3, row=row(3)), Running("D-0", 20)]
    assert text(running) == [
        ["trial", "epoch", "pictures", "pictures/s", "MFU", "waits", "train", "val"],
        ["A-0", "4/12", "1,234", "–", "0.4", "%", "0.750", "0.500"],
        ["B-0", "2/9", "5/10", "1,234", "41", "%", "0.4", "%", "0.750", "0.500"],
        ["D-0", "1/20", "–", "–", "–"],
    ]
    many = [Running(f"A-{seed}", 12) for seed in range(15)]
    assert len(text(many)) == 14
    assert text(many)[-1] == ["and", "3", "more"]


def test_stopped_trial_leaves_file_and_stays_stopped(tmp_path: Any) -> None:
    storage = Storage(str(tmp_path))
    writer = TableWriter(storage, "sweep", "run")
    epochs = {"A-0": 9, "A-1": 9}
    watch = Watch(epochs, Halving(dict.fromkeys(epochs, "A"), epochs, 1, 3), writer)
    assert not watch.epoch("A-0", row(1, 0.6), [0.6])
    assert watch.epoch("A-1", row(1, 0.5), [0.5])
    assert watch.epoch("A-1", row(1, 0.5), [0.5])
    assert storage.read("sweep/_staging/run/_ended/A-1") == b"asha, after epoch 1\n"
    watch.finish("A-1", "best validation accuracy 0.500")
    seen = watch.look()
    assert seen.lines == ["  A-1: best validation accuracy 0.500 (ended early by asha)"]
    assert seen.epochs == pytest.approx(1 + 9)


def test_ray_train_module_does_not_import_torch() -> None:
    program = "import sys, raypipe.train.trials.ray_train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
