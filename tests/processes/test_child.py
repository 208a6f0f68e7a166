"""A child process ends in every case: by signals, by exits, after a hang, and with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypipe.errors import InputError, StageError
from raypipe.pictures.examine import PictureFacts, examine
from raypipe.processes import child as isolate
from raypipe.processes.child import ChildWorker, map_in_child
from raypipe.runtime.stderr_log import stderr_to_log
from tests.ingest.files import FILES
from tests.ingest.natives import Elsewhere, how, slow, work

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "raypipe.processes.child" in child.cmdline()]


@pytest.fixture(autouse=True)
def _none_is_left() -> Any:
    yield
    assert children() == []


def test_many_items_in_one_child_in_order() -> None:
    found = map_in_child(work, range(300), how)
    assert [item for item, _ in found] == list(range(300))
    (pid,) = {pid for _, pid in found}
    assert pid != os.getpid()


def test_no_child_starts_without_items() -> None:
    assert map_in_child(work, [], how) == []


def test_child_is_reused_until_it_ends() -> None:
    with ChildWorker(work, how) as apart:
        assert apart([]) == []
        assert children() == []
        pids = [apart([item])[0][1] for item in range(3)]
        assert pids == [child.pid for child in children()] * 3
        assert apart(["segfault"]) == [("segfault", "SIGSEGV")]
        assert children() == []
        ((item, pid),) = apart([4])
        assert item == 4
        assert pid not in (pids[0], os.getpid())


ENDINGS = {
    "segfault": "SIGSEGV",
    ("signal", signal.SIGSEGV): "SIGSEGV",
    ("signal", signal.SIGKILL): "SIGKILL",
    ("signal", signal.SIGABRT): "SIGABRT",
    ("signal", 40): "signal 40",
    ("exit", 3): "exit code 3",
    ("exit", 0): "exit code 0",
    "leave": "exit code 4",
}


def test_item_ending_its_child_affects_no_other() -> None:
    items = ["a", "b", *ENDINGS, "c", "d"]
    found = map_in_child(work, items, how)
    assert found[2:-2] == list(ENDINGS.items())
    names, pids = zip(*found[:2], *found[-2:], strict=True)
    assert names == ("a", "b", "c", "d")
    assert pids[0] == pids[1] != pids[2] == pids[3]


@pytest.mark.parametrize("item", ["hang", "close"])
def test_hanging_child_is_killed(item: str) -> None:
    found = map_in_child(work, ["a", item, "b"], how, seconds=2.0)
    assert found[1] == (item, "no answer in 2 s")
    assert [found[0][0], found[2][0]] == ["a", "b"]


def test_time_limit_applies_per_item() -> None:
    assert map_in_child(functools.partial(slow, seconds=0.3), range(8), how, seconds=1.5) == list(range(8))


def test_large_items_and_results() -> None:
    found = map_in_child(work, [("large", 20_000_000), b"y" * 20_000_000, ("large", 1)], how)
    assert [found[0], found[1][0], found[2]] == [b"x" * 20_000_000, b"y" * 20_000_000, b"x"]


def test_printed_output_does_not_corrupt_results(capfd: pytest.CaptureFixture[str]) -> None:
    found = map_in_child(work, ["print", "a"], how)
    assert found[0] == ("", b"")
    assert found[1][0] == "a"
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "from native code" in shown.err


@pytest.mark.parametrize(
    ("item", "kind", "text"),
    [
        (("raise", InputError("p7: no faces")), InputError, "p7: no faces"),
        (("raise", OSError(2, "No such file")), OSError, "No such file"),
        ("own", RuntimeError, "OwnError: 1 and 2"),
        ("unpicklable", TypeError, "pickle"),
    ],
)
def test_exception_of_function_is_raised(item: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        map_in_child(work, ["a", item, "b"], how)
    assert "in work" in caught.value.__notes__[0] or item == "unpicklable"


def test_function_missing_in_child_raises_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        map_in_child(Elsewhere(), [1], how)


def test_child_that_fails_to_start_raises_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate.sys, "executable", "/bin/false")
    with pytest.raises(
        StageError, match=r"/bin/false -m raypipe\.processes\.child: .* exit code 1; its stderr: empty$"
    ):
        map_in_child(work, [1], how)


@pytest.mark.parametrize("stderr", ["as it is", "a log"])
def test_start_error_quotes_stderr_of_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho Traceback >&2\necho 'No module named x' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(isolate.sys, "executable", str(broken))
    with (
        stderr_to_log() if stderr == "a log" else contextlib.nullcontext(),
        pytest.raises(StageError, match=r"at its start: exit code 3; its stderr: No module named x$"),
    ):
        map_in_child(work, [1], how)


@pytest.mark.skipif(sys.platform != "linux", reason="a busy child ends with its parent on Linux only")
def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    program = f"""
from raypipe.processes.child import ChildWorker, map_in_child
from tests.ingest.natives import how, work
map_in_child(work, [("linger", {str(noted)!r})], how)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        until(lambda: noted.exists() and noted.read_text() != "")
        child = int(noted.read_text())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not alive(child))


def until(true: Any) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it did not come about in 30 s")


def test_pictures_are_examined_equally_in_child() -> None:
    look = functools.partial(examine, max_pixels=10**6, max_side=200, phash=True)
    datas = [*FILES.values(), FILES["jpeg"][:900], b"", b"<html>"]
    for (found, pixels), data in zip(map_in_child(look, datas, how), datas, strict=True):
        here, expected = look(data)
        assert isinstance(found, PictureFacts)
        assert found == here
        assert (pixels and pixels.tobytes()) == (expected and expected.tobytes())


@pytest.mark.usefixtures("ray_session")
def test_child_processes_work_inside_ray_worker() -> None:
    import ray

    @ray.remote
    def task() -> list[Any]:
        from raypipe.processes.child import map_in_child

        return [
            map_in_child(abs, [-1, -2], max),
            map_in_child(os._exit, [3, 4], lambda item, ending: f"{item}: {ending}"),
            map_in_child(ctypes.string_at, [0], lambda _, ending: ending),
        ]

    assert ray.get(task.remote()) == [[1, 2], ["3: exit code 3", "4: exit code 4"], ["SIGSEGV"]]
