"""Ctrl-C in a sweep, as sent by a terminal: it ends cleanly, and the resumed run has the same losses."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from raypipe import tables
from raypipe.config import Config
from raypipe.tables import TableWriter
from raypipe.train.decode import prepare_pictures
from raypipe.train.networks.build import load_network_weights
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.trial_plan import Trial, TrialPlan
from raypipe.train.trials.run_trial import run_trial
from tests.commands import start
from tests.training_root import change

EPOCHS = 6
SECONDS = 900


class Terminal:
    """A command on its own terminal and in its own process group. Its output is recorded."""

    def __init__(self, command: list[str]) -> None:
        self._end, end = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "40"}
        self.process = start(
            command, stdout=end, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True,
            env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        os.close(end)
        self.shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # Linux reports an error when the other end is closed.
        with contextlib.suppress(OSError):
            while data := os.read(self._end, 65536):
                self.shown += data

    def wait_for(self, root: Path, pattern: str, text: bytes) -> None:
        """Wait until a file exists and a text was shown."""
        deadline = time.monotonic() + SECONDS
        while not any(root.glob(pattern)) or text not in self.shown:
            assert self.process.poll() is None, self.error()
            assert time.monotonic() < deadline, f"no {pattern} or no {text!r} after {SECONDS} s"
            time.sleep(0.05)

    def error(self) -> str:
        """All of stderr, after the command has ended."""
        _, error = self.process.communicate(timeout=SECONDS)
        self._reader.join(timeout=10)
        os.close(self._end)
        return error.decode()


@pytest.mark.cluster
@pytest.mark.timeout(2700)
def test_ctrl_c_ends_cleanly_and_rerun_resumes(training: Config, tmp_path: Path) -> None:
    root = Path(training.root)
    words = {
        "root": root, "ray.dashboard": "false", "ray.num_cpus": 2, "sweep.configs": "B", "train.weights": "random",
        "train.image_size": 32, "train.epochs": EPOCHS, "train.learning_rate": 0.001, "train.dtype": "float32",
    }  # fmt: skip
    command = [sys.executable, "-m", "raypipe", "sweep", *(f"--{name}={value}" for name, value in words.items())]

    terminal = Terminal(command)
    # The line of the running trial is below the bar.
    terminal.wait_for(root, "sweep/train-*/checkpoint_*/so_far.pt", b"pictures/s")
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    # The signal goes to all processes of the terminal's group, including Ray's.
    os.killpg(terminal.process.pid, signal.SIGINT)
    error = terminal.error()
    assert terminal.process.returncode == 130, error
    assert error == "raypipe sweep: interrupted; run the same command again to continue\n"
    shown = terminal.shown.decode()
    assert "Traceback" not in shown + error
    assert "B-0" in shown
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert tables.find_record(training.open_storage(), "sweep") is None
    assert not list(root.glob("sweep/_staging/*/_trials/B-0.json"))

    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((root / "sweep" / "results.json").read_text())
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    whole = uninterrupted(change(training, train={"epochs": EPOCHS, "learning_rate": 0.001}), tmp_path)
    for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in whole.rows], rel=1e-5), name


def uninterrupted(config: Config, folder: Path) -> TrialResult:
    """The same trial without interruption and without Ray, with as many threads as the sweep's worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        storage = change(config, root=str(folder / "whole")).open_storage()  # type: ignore[arg-type]
        plan = TrialPlan(Trial("B", 0), config.train, prepare_pictures(config), TableWriter(storage, "sweep", "whole"))
        return run_trial(plan, load_network_weights("vgg16", "random"), device="cpu")
    finally:
        torch.set_num_threads(threads)
