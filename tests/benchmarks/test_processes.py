"""CPU time and memory of a command include all its processes, also daemons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import CommandFailedError, process_name, run
from tests.commands import start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEGABYTE = 2**20
# A daemon like those of Ray: it has its own session, and its parent has ended before it works.
DAEMON = """
import os, signal, time
def burn():
    while time.process_time() < 1.0:
        pass
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn()
"""
SHARING = f"""
import os, time
data = bytearray(os.urandom({MEGABYTE})) * 100
children = [os.fork() for _ in range(2)]
time.sleep(1.5)
"""


@pytest.mark.parametrize("use_group", [True, False])
def test_daemon_cpu_time_is_counted(tmp_path: Path, use_group: bool) -> None:
    usage = run([sys.executable, "-c", DAEMON], cwd=tmp_path, log=tmp_path / "log", use_group=use_group)
    if usage.method == "control_group":
        assert usage.cpu >= 1.0
    else:
        # Up to 0.2 s may be lost, and more on a busy machine.
        assert usage.cpu >= 0.4
    assert usage.left_over == 0


def test_shared_memory_pages_count_once(tmp_path: Path) -> None:
    usage = run([sys.executable, "-c", SHARING], cwd=tmp_path, log=tmp_path / "log", every=0.2)
    assert 100 < usage.peak_pss < 200
    assert usage.peak_rss > 400
    largest = max(usage.samples, key=lambda sample: sample.pss)
    assert sum(largest.by_name.values()) == pytest.approx(largest.pss)


def test_failed_command_error_contains_its_output(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"exit 3: .*\nno room"):
        run([sys.executable, "-c", "print('no room'); exit(3)"], cwd=tmp_path, log=tmp_path / "log")


def test_other_child_processes_keep_running(tmp_path: Path) -> None:
    other = start(["sleep", "60"])
    try:
        usage = run([sys.executable, "-c", "pass"], cwd=tmp_path, log=tmp_path / "log", use_group=False)
        assert usage.left_over == 0
        assert other.poll() is None
    finally:
        other.terminate()
        other.wait()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-u", "-c", "print(); input()"], "python -c"),
        (["-u", "-m", "timeit", "-n", "1", "-r", "1", "-s", "print()", "input()"], "python -m timeit"),
    ],
)
def test_process_name_has_no_arguments(words: list[str], name: str) -> None:
    process = subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert process_name(process.pid) == name
    finally:
        process.communicate(b"\n")
