"""The scratch folder shared by processes, some of which are killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raypipe.storage import scratch as scratch_module
from raypipe.storage.scratch import Lease, Scratch
from tests.storage.test_scratch import hold, missing, names

USER = """
import sys, time
from pathlib import Path
from tests.storage.test_scratch import hold
from raypipe.storage.scratch import Scratch
scratch, name, n_bytes = Scratch(sys.argv[1], float(sys.argv[2])), sys.argv[3], int(sys.argv[4])
if sys.argv[5] == "half":
    def fetch(name, path):
        path.write_bytes(bytes(n_bytes // 4))
        print("half", flush=True)
        time.sleep(600)
    scratch.hold(name, lambda _: {"a": n_bytes}, fetch)
elif sys.argv[5] == "temporary":
    with scratch.temporary() as folder:
        (folder / "x").write_bytes(bytes(n_bytes))
        print("there", flush=True)
        time.sleep(600)
lease = hold(scratch, name, n_bytes)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def start(scratch: Scratch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that uses a set, and wait until it uses it."""
    started = []

    def begin(name: str, n_bytes: int, how: str = "hold") -> subprocess.Popen[str]:
        words = [str(scratch.place), str(scratch.max_gb), name, str(n_bytes), how]
        process = subprocess.Popen([sys.executable, "-c", USER, *words], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_set_in_use_by_another_process_stays(scratch: Scratch, start: Callable[..., subprocess.Popen[str]]) -> None:
    other = start("theirs", 2000)
    assert not scratch.has_room("ours", missing(2000))
    assert (scratch.folder() / "theirs" / "a").stat().st_size == 1000
    kill(other)
    hold(scratch, "ours", 2000)
    assert names(scratch) == ["ours"]


def test_killed_fetch_leaves_no_complete_file(scratch: Scratch, start: Callable[..., subprocess.Popen[str]]) -> None:
    other = start("x", 2000, "half")
    # The whole set is reserved, although only a quarter is written.
    assert not scratch.has_room("y", missing(2000))
    kill(other)
    assert not (scratch.folder() / "x" / "a").exists()
    lease = hold(scratch, "x", 2000)
    assert (lease.folder / "a").stat().st_size == 1000
    assert not list(lease.folder.glob("*.part"))


def test_interrupted_removal_is_finished_later(scratch: Scratch) -> None:
    hold(scratch, "x").close()
    (scratch.folder() / "x").rename(scratch.folder() / ".removed-1")
    assert scratch.usage().sets == 0
    hold(scratch, "y").close()
    assert names(scratch) == ["y"]


def test_temporary_folders_are_removed_after_their_process(
    scratch: Scratch, start: Callable[..., subprocess.Popen[str]]
) -> None:
    other = start("", 100, "temporary")
    with scratch.temporary() as folder:
        assert list(folder.iterdir()) == []
        (folder / "x").write_bytes(bytes(10))
        assert len(names(scratch)) == 2
    (theirs,) = names(scratch)
    kill(other)
    with scratch.temporary():
        assert theirs not in names(scratch)
    assert names(scratch) == []


def test_own_temporary_folder_may_be_deleted_by_another_process(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, others = Lease.close, iter([Scratch(scratch.place)])

    def close_and_wait(lease: Lease) -> None:
        close(lease)
        for other in others:
            # Another process starts at this moment.
            with other.temporary():
                assert not lease.folder.exists()

    monkeypatch.setattr(Lease, "close", close_and_wait)
    with scratch.temporary() as folder:
        (folder / "x").write_bytes(b"x")
    assert next(others, None) is None
    assert names(scratch) == []


def test_left_temporary_folder_may_be_deleted_by_its_owner(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    left = scratch.folder() / "temporary-x"
    left.mkdir()
    look = scratch_module._is_same_file

    def look_and_wait(handle: int, path: Path) -> bool:
        found = look(handle, path)
        if path.parent == left:
            # The owner deletes the folder at this moment.
            shutil.rmtree(left)
        return found

    monkeypatch.setattr(scratch_module, "_is_same_file", look_and_wait)
    with scratch.temporary():
        assert not left.exists()
    assert names(scratch) == []
