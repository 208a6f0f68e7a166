"""``raypipe board``: TensorBoard on the sweep and the trained models of a root, on loopback, until interrupted."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.processes.ports import usable_port
from raypipe.progress import print_line
from raypipe.storage import Storage

_HOST = "127.0.0.1"
_FOLDERS = ("sweep", "train")
_SECONDS_TO_START = 120.0
_SECONDS_TO_STOP = 10.0


def run(config: Config) -> None:
    """Serve TensorBoard on ROOT/sweep and ROOT/train at 127.0.0.1:`board.port` until SIGINT or SIGTERM.

    With a `board.port` of 0, any free port is used. Raises StageError if the root is not on a disk of this machine, has
    no event files, or the port is in use. Raises StageError if TensorBoard ends by itself.
    """
    folder = event_folder(config.open_storage())
    with tensorboard(folder, config.board.port) as (url, process), contextlib.suppress(KeyboardInterrupt):
        print_line(f"TensorBoard on {folder}: {url} until Ctrl-C")
        code = process.wait()
        raise StageError(f"TensorBoard ended by itself with exit code {code}; start it again")
    print_line("TensorBoard has stopped")


def event_folder(storage: Storage) -> Path:
    """The root's folder. Raises StageError if it is not local, or has no event files below `sweep/` and `train/`."""
    if not storage.is_local:
        raise StageError(
            f"{storage.root}: TensorBoard needs a local folder; copy the *tfevents* files of sweep/ and train/ to one "
            "(`aws s3 sync`, `gcloud storage rsync`), then `raypipe board --root DIR`"
        )
    root = Path(storage.path())
    if not any(file for name in _FOLDERS for file in (root / name).rglob("*tfevents*")):
        raise StageError(
            f"{storage.root}: no event files below sweep/ or train/; run `raypipe sweep --root {storage.root}` first"
        )
    return root


@contextlib.contextmanager
def tensorboard(folder: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Runs TensorBoard on `folder` in a child process during the body. Yields URL and process as soon as it answers."""
    port = _free_port(port)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", _HOST, "--port", str(port)]
    # In a new session, so that Ctrl-C reaches only this process, which then ends TensorBoard.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_it_answers(process, port, log)
            yield f"http://{_HOST}:{port}/", process
        finally:
            _stop(process)


def _free_port(wanted: int) -> int:
    try:
        return usable_port(wanted)
    except OSError as error:
        raise StageError(
            f"board.port: {wanted} cannot be used: {error.strerror}; set another port, or 0 for any free port"
        ) from error


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no output"]
            raise StageError(f"TensorBoard cannot start (exit code {process.returncode}): {lines[-1]}")
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return
        time.sleep(0.1)
    raise StageError(f"TensorBoard does not answer at {_HOST}:{port} after {_SECONDS_TO_START:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
