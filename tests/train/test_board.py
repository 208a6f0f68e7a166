"""A real TensorBoard on event files like those of a sweep, queried over loopback, and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from tensorboardX import SummaryWriter

from raypipe.cli import main
from raypipe.config.load import load_config
from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.train.board import event_folder, run, tensorboard
from tests.commands import start


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a sweep of two trials and one training, one epoch each. Its name has special characters."""
    root = tmp_path_factory.mktemp("a root, with: signs")
    for trial, accuracy in {"sweep/A-seed0": 0.61, "sweep/B-seed0": 0.64, "train/mine": 0.7}.items():
        with SummaryWriter(str(root / trial)) as writer:
            writer.add_scalar("ray/tune/val_accuracy", accuracy, 1)
    return root


def ask(url: str) -> object:
    with urlopen(url, timeout=20) as answer:
        return json.load(answer)


def wait_for_runs(url: str, n: int) -> dict[str, list[str]]:
    """Tags by run, after TensorBoard has read `n` runs."""
    deadline = time.monotonic() + 60
    while True:
        found = ask(f"{url}data/plugin/scalars/tags")
        assert isinstance(found, dict)
        if len(found) >= n or time.monotonic() > deadline:
            return {name: sorted(tags) for name, tags in found.items()}
        time.sleep(0.2)


def test_board_serves_scalars_of_sweep_and_models(root: Path) -> None:
    with tensorboard(root, 0) as (url, process):
        tags = wait_for_runs(url, 3)
        assert set(tags) == {"sweep/A-seed0", "sweep/B-seed0", "train/mine"}
        assert set(map(tuple, tags.values())) == {("ray/tune/val_accuracy",)}
        points = ask(f"{url}data/plugin/scalars/scalars?tag=ray/tune/val_accuracy&run=sweep/B-seed0")
        assert isinstance(points, list)
        assert [(step, round(value, 4)) for _, step, value in points] == [(1, 0.64)]
        children = psutil.Process(process.pid).children(recursive=True)
    assert process.poll() is not None
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(URLError):
        ask(url)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_board_serves_until_signal_and_exits_0(root: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "raypipe", "board", "--root", str(root), "--board.port", "0"]
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"TensorBoard on {root}: http://127.0.0.1:")
    url = next(word for word in line.split() if word.startswith("http://"))
    assert ask(f"{url}data/environment")
    process.send_signal(number)
    rest, error = process.communicate(timeout=60)
    assert (process.returncode, rest, error) == (0, "TensorBoard has stopped\n", "")
    with pytest.raises(URLError):
        ask(url)


def test_taken_port_gives_one_line_and_exit_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert main(["board", "--root", str(root), "--board.port", str(port)]) == 1
    signal.signal(signal.SIGTERM, before)
    error = capsys.readouterr().err
    assert error.startswith(f"raypipe board: board.port: {port} cannot be used: ")
    assert error.count("\n") == 1


def test_tensorboard_ending_early_is_reported(root: Path, free_port: int) -> None:
    program = (
        "import sys, raypipe; from raypipe.config.load import load_config\n"
        "raypipe.board(load_config(root=sys.argv[1], board={'port': int(sys.argv[2])}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(free_port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    (server,) = psutil.Process(process.pid).children()
    os.kill(server.pid, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert b"StageError: TensorBoard ended by itself with exit code -9" in error
    assert process.returncode == 1


def test_root_without_event_files_raises_error(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    with pytest.raises(StageError, match=r"no event files below sweep/ or train/; run `raypipe sweep --root "):
        run(load_config(root=str(tmp_path)))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "events.out.tfevents.1").write_bytes(b"")
    with pytest.raises(StageError, match="no event files"):
        event_folder(Storage(str(tmp_path)))
    (tmp_path / "sweep" / "events.out.tfevents.1").write_bytes(b"")
    assert event_folder(Storage(str(tmp_path))) == tmp_path


def test_root_in_object_store_error_gives_advice() -> None:
    storage = Storage("s3://bucket/run", endpoint="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(
        StageError, match=r"s3://bucket/run: TensorBoard needs a local .*aws s3 sync.*raypipe board --root DIR"
    ):
        event_folder(storage)
