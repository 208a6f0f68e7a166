"""Training after SIGKILL of a worker, the driver or a node: equal losses, and only the current epoch is repeated.

The measured speed shows whether an epoch was repeated, since no second training has exactly the same speed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from raypipe import tables
from raypipe.config import Config
from raypipe.train.decode import prepare_pictures
from raypipe.train.networks.weights import load_weights
from raypipe.train.trial_plan import Trial, TrialPlan
from raypipe.train.trials.run_trial import run_trial
from tests.kill_program import ended, ray_processes
from tests.training_root import change

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SECONDS = 600
EPOCHS = 3
WORKER, TRIAL = "RayTrainWorker", "B-0"


@pytest.fixture
def slow(training: Config) -> Config:
    """Configuration B with EPOCHS epochs."""
    options = {"config": "B", "name": "x", "epochs": EPOCHS, "image_size": 32, "learning_rate": 0.0001, "batch_size": 5}
    return change(training, train=options)


class Run:
    """``raypipe train`` in its own process, and what it has written."""

    def __init__(self, config: Config, log: Path) -> None:
        self.config, self.storage, self.log = config, config.open_storage(), log
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, address: str | None = None) -> subprocess.Popen[bytes]:
        train = self.config.train
        options = {name: getattr(train, name) for name in ("config", "name", "epochs", "image_size", "batch_size")}
        options |= {"weights": "random", "learning_rate": train.learning_rate, "dtype": "float32"}
        command = [sys.executable, "-m", "raypipe", "train", "--root", self.config.root, "--ray.dashboard", "false"]
        command += [word for name, value in options.items() for word in (f"--train.{name}", str(value))]
        command += ["--ray.num_cpus", "1", *words]
        if self.config.storage.endpoint:
            command += ["--storage.endpoint", self.config.storage.endpoint, "--storage.region", "us-east-1"]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        if address:
            environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        with self.log.open("ab") as sink:
            self.started.append(subprocess.Popen(command, env=environment, stdout=sink, stderr=sink))
        return self.started[-1]

    def wait(self, process: subprocess.Popen[bytes], condition: Callable[[], object]) -> None:
        until = time.monotonic() + SECONDS
        while not condition():
            assert process.poll() is None, f"ended before the kill: {self.text}"
            assert time.monotonic() < until, f"never came to the kill: {self.text}"
            time.sleep(0.1)

    @property
    def text(self) -> str:
        return self.log.read_text()[-3000:]

    def checkpoint(self) -> list[dict[str, Any]]:
        """Rows of the epochs in the latest checkpoint; empty before the first checkpoint."""
        for name in self.storage.files("train/x"):
            if not name.endswith("/checkpoint_manager_snapshot.json"):
                continue
            try:
                # Ray Train resumes from this one. A newer folder may be incomplete.
                latest = json.loads(self.storage.read(f"train/x/{name}"))["latest_checkpoint_result"]
                path = f"train/x/{name.rpartition('/')[0]}/{latest['checkpoint_dir_name']}/so_far.pt"
                rows: list[dict[str, Any]] = torch.load(io.BytesIO(self.storage.read(path)), weights_only=True)["rows"]
            except (OSError, ValueError, TypeError):
                # The next checkpoint is replacing this one.
                continue
            return rows
        return []

    def check(self, *, kept: list[dict[str, Any]], text: str = "", rel: float = 1e-3) -> None:
        """Check that the epochs in `kept` are unchanged and that all losses equal those of an undisturbed training."""
        rows = json.loads(self.storage.read("train/x/results.json"))
        assert [row["epoch"] for row in rows] == list(range(1, self.config.train.epochs + 1))
        assert rows[: len(kept)] == kept
        assert text in self.log.read_text()
        torch.set_num_threads(1)
        pictures = prepare_pictures(self.config)
        plan = TrialPlan(Trial("B", 0), self.config.train, pictures, tables.TableWriter(self.storage, "train/y", "y"))
        whole = run_trial(plan, load_weights("random"), device="cpu")
        for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
            assert [row[name] for row in rows] == pytest.approx([row[name] for row in whole.rows], rel=rel, abs=rel), (
                name
            )


@pytest.fixture
def run_of(tmp_path: Path) -> Iterator[Callable[[Config], Run]]:
    """Make runs of a configuration. All commands end with the test."""
    made: list[Run] = []

    def make(config: Config) -> Run:
        made.append(Run(config, tmp_path / "log"))
        return made[-1]

    yield make
    for run in made:
        for process in run.started:
            process.kill()
            process.wait(60)


def killed(victim: psutil.Process) -> None:
    victim.send_signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while not ended(victim):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_failures_are_counted_per_epoch(slow: Config, run_of: Callable[[Config], Run]) -> None:
    run = run_of(slow)
    process = run.start("--train.max_failures", "1")
    kept: list[dict[str, Any]] = []
    for epoch in (1, 2):
        run.wait(process, lambda least=epoch: len(run.checkpoint()) >= least)  # type: ignore[misc]
        (victim,) = ray_processes(process.pid, WORKER)
        killed(victim)
        kept = run.checkpoint()
    assert process.wait(SECONDS) == 0, run.text
    assert len(kept) < EPOCHS
    run.check(kept=kept, text="B-0: worker 0 of 1 lost: its process was killed, or its machine is gone")


def test_worker_without_progress_ends_trial(slow: Config, run_of: Callable[[Config], Run]) -> None:
    run = run_of(slow)
    process = run.start("--train.max_failures", "0")
    run.wait(process, run.checkpoint)
    (victim,) = ray_processes(process.pid, WORKER)
    killed(victim)
    assert process.wait(SECONDS) == 1
    assert "trial B-0 failed: worker 0 of 1 lost" in run.text
    assert "--train.max_failures is 0" in run.text


@pytest.fixture(params=["disk", "s3"])
def anywhere(slow: Config, request: pytest.FixtureRequest) -> Config:
    """The small root on a local disk or on S3."""
    if request.param == "disk":
        return slow
    endpoint: str = request.getfixturevalue("s3_endpoint")
    root = f"s3://bucket/{request.node.name.replace('[', '-').strip(']')}"
    moved = change(slow, root=root, storage={"endpoint": endpoint, "region": "us-east-1"})  # type: ignore[arg-type]
    here, there = slow.open_storage(), moved.open_storage()
    for path in here.files(""):
        there.write(path, here.read(path))
    return moved


def test_rerun_resumes_after_driver_is_killed(anywhere: Config, run_of: Callable[[Config], Run]) -> None:
    # Workers continue until Ray notices the loss of their driver, so epochs must be left by then. S3 is slower.
    epochs = 2 * EPOCHS if anywhere.open_storage().is_local else EPOCHS + 1
    run = run_of(change(anywhere, train={"epochs": epochs}))
    process = run.start()
    run.wait(process, run.checkpoint)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    # Ray's processes end with their driver. A checkpoint that was being written may still appear.
    psutil.wait_procs(children, timeout=30)
    kept = run.checkpoint()
    assert 1 <= len(kept) < epochs
    process = run.start()
    assert process.wait(SECONDS) == 0, run.text
    run.check(kept=kept)


@pytest.mark.parametrize("workers", [1, 2])
def test_training_survives_lost_node(
    slow: Config, run_of: Callable[[Config], Run], ray_cluster: Callable[..., Any], workers: int
) -> None:
    cluster = ray_cluster(num_cpus=0)  # no CPUs of the head for training
    nodes = [cluster.add_node(num_cpus=1) for _ in range(workers)]
    cluster.wait_for_nodes()
    run = run_of(slow)
    process = run.start("--train.workers", str(workers), address=cluster.address)
    run.wait(process, run.checkpoint)
    (raylet,) = nodes[-1].all_processes["raylet"]
    assert ray_processes(raylet.process.pid, WORKER)
    cluster.remove_node(nodes[-1], allow_graceful=False)
    kept = run.checkpoint()
    cluster.add_node(num_cpus=1)
    assert process.wait(SECONDS) == 0, run.text
    assert len(kept) < EPOCHS
    # Of two workers, the remaining one reports first. Two workers round sums differently than one, and the difference
    # grows per epoch. A skipped or repeated epoch would halve the loss.
    rel = 1e-3 if workers == 1 else 0.05
    run.check(
        kept=kept, text="its process was killed, or its machine is gone; it continues from its last checkpoint", rel=rel
    )
