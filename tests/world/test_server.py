"""The server in its own process: it answers, counts requests, and ends with its command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.world.server import running_server


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def servers_on(port: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words: list[Any] = process.info["cmdline"] or []
        if "raypipe.world.server" in words and str(port) in words:
            found.append(process)
    return found


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_pictures_are_served_unchanged_and_counted(world_storage: Storage, free_port: int) -> None:
    rows = tables.read_table(world_storage, "pictures").to_pylist()
    with running_server(world_storage, free_port) as base:
        assert base == f"http://127.0.0.1:{free_port}"
        for row in rows[:3]:
            assert fetch(f"{base}/p/{row['post_id']}.jpg") == row["image"]
        stats = json.loads(fetch(f"{base}/stats"))
        assert stats["requests"] == 3
        assert stats["statuses"] == {"200": 3}
        assert stats["pictures"] == 3
        assert servers_on(free_port)
    assert not listening(free_port)
    assert not servers_on(free_port)


def test_port_comes_from_configuration(world: Config, free_port: int) -> None:
    named = world.model_copy(update={"world": world.world.model_copy(update={"port": free_port})})
    with running_server(named) as base:
        assert base.endswith(f":{free_port}")
    with pytest.raises(ValueError, match="has no port"), running_server(world.open_storage()):
        pass


def test_error_in_body_ends_server(world_storage: Storage, free_port: int) -> None:
    def fail() -> None:
        raise RuntimeError("the body failed")

    with pytest.raises(RuntimeError, match="the body failed"), running_server(world_storage, free_port):
        fail()
    assert not listening(free_port)


def test_server_ends_with_killed_command(world_storage: Storage, free_port: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from raypipe.storage.storage import Storage\n"
        "from raypipe.world.server import running_server\n"
        f"with running_server(Storage({world_storage.root!r}), {free_port}):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE)
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == b"up\n"
        assert listening(free_port)
    finally:
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        command.stdout.close() if command.stdout else None
    end = time.monotonic() + 20
    while listening(free_port) and time.monotonic() < end:
        time.sleep(0.05)
    assert not listening(free_port)


def test_taken_port_raises_one_line_error(world_storage: Storage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"world\.port {port}.*in use"), running_server(world_storage, port):
            pass


def test_missing_posts_raise_one_line_error(tmp_path: Path, free_port: int) -> None:
    with (
        pytest.raises(StageError, match=r"ended at once.*posts: does not exist"),
        running_server(Storage(str(tmp_path)), free_port),
    ):
        pass
