"""Output of Ray's C++ code goes to a log file. Output of a command goes to its usual place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import faulthandler, logging, os, subprocess, sys, warnings
from raypipe.runtime.stderr_log import stderr_to_log, last_failure_log

faulthandler.enable()
old = sys.stderr
held = []
def body():
    os.write(2, b"from native code\\n")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('from a child\\\\n')"], check=True)
    sys.stderr.write("from Python\\n")
    warnings.warn("a warning")
    logging.getLogger("x").error("an error")
    handler = logging.StreamHandler()
    held.append(handler)
    if sys.argv[1] == "fails":
        raise OSError("wrong")
    if sys.argv[1] == "interrupted":
        raise KeyboardInterrupt
    if sys.argv[1] == "crash":
        faulthandler._sigsegv()
try:
    with stderr_to_log():
        body()
except (OSError, KeyboardInterrupt):
    pass
assert sys.stderr is old
os.write(2, b"native again\\n")
held[0].emit(logging.makeLogRecord({"msg": "held"}))
log = last_failure_log()
print(log.read_text() if log else None)
"""


def run(tmp_path: Path, what: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-c", PROGRAM, what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("what", ["works", "fails", "interrupted"])
def test_only_native_and_child_output_goes_to_log(tmp_path: Path, what: str) -> None:
    done = run(tmp_path, what)
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stderr.splitlines() if "warn" not in line]
    assert shown == ["from Python", "an error", "native again", "held"]
    assert "UserWarning: a warning" in done.stderr
    # The log is deleted after success or an interruption.
    (log,) = tmp_path.iterdir() if what == "fails" else (None,)
    assert done.stdout == ("from native code\nfrom a child\n\n" if log else "None\n")
    if log:
        assert log.stat().st_mode & 0o777 == 0o600
    else:
        assert not list(tmp_path.iterdir())


def test_native_crash_is_shown_on_stderr(tmp_path: Path) -> None:
    done = run(tmp_path, "crash")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_old_logs_are_deleted(tmp_path: Path) -> None:
    for number in range(14):
        path = tmp_path / f"raypipe-ray-{number:02d}.log"
        path.write_text("old")
        os.utime(path, (number, number))
    assert run(tmp_path, "fails").returncode == 0
    kept = {path.name for path in tmp_path.iterdir()}
    assert len(kept) == 10
    assert {f"raypipe-ray-{number:02d}.log" for number in range(5, 14)} < kept


def test_closed_stderr_is_tolerated(tmp_path: Path) -> None:
    code = "import os; from raypipe.runtime.stderr_log import stderr_to_log\nos.close(2)\n"
    code += "with stderr_to_log(): print('done')"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert list(tmp_path.iterdir()) == []


FAILING = """
import os, sys
from raypipe.cli import main
from raypipe.errors import InputError, StageError
from raypipe.runtime.stderr_log import stderr_to_log
from raypipe.stages import STAGES, Stage

def stage(config):
    with stderr_to_log():
        os.write(2, b"from native code\\n" * (config.root != "silent"))
        raise {"input": InputError, "silent": StageError, "stage": StageError, "bug": KeyError}[config.root]("p7")

sys.modules["of_this_test"] = sys.modules["__main__"]
STAGES["probe"] = Stage("of_this_test:stage", "", ())
sys.exit(main(["probe", "--root", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("stage", "raypipe probe: p7; Ray's own log: LOG\n"),
        ("bug", "raypipe probe: unexpected KeyError: 'p7'; --debug shows the traceback; Ray's own log: LOG\n"),
        ("input", "raypipe probe: p7\n"),
        ("silent", "raypipe probe: p7\n"),
    ],
)
def test_failure_message_names_log_file(tmp_path: Path, what: str, line: str) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", FAILING, what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    logs = list(tmp_path.iterdir())
    assert done.stderr == (line.replace("LOG", str(logs[0])) if logs else line)
    assert done.returncode == 1


ON_RAY = """
import os, sys, time
from raypipe.cli import main
from raypipe.stages import STAGES, Stage

def stage(config):
    from raypipe.progress import print_line
    from raypipe.runtime import ray_session

    with ray_session(config):
        import numpy as np
        import ray

        class Worker:
            def __init__(self, data): pass
            def end(self): os._exit(3)

        # Of an actor that may be restarted with data of the object store, Ray's C++ code warns.
        actor = ray.remote(max_restarts=1)(Worker).remote(ray.put(np.zeros(10**6)))
        try:
            ray.get(actor.end.remote())
        except ray.exceptions.RayError:
            print_line("a worker was lost")
        until = time.monotonic() + 60
        log = b""
        while not (b"core_worker" in log and b"(raylet) A worker died" in log) and time.monotonic() < until:
            time.sleep(0.1)
            log = os.pread(2, 10**6, 0)
        print_line("Ray has written" if time.monotonic() < until else "Ray has written nothing")
        time.sleep(600)

sys.modules["of_this_test"] = sys.modules["__main__"]
STAGES["probe"] = Stage("of_this_test:stage", "", ())
sys.exit(main(["probe", "--ray.dashboard", "false", "--ray.num_cpus", "1"]))
"""


@pytest.mark.timeout(300)
def test_command_on_ray_shows_only_its_own_lines() -> None:
    """The command works, loses a worker, and is ended by SIGTERM."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-c", ON_RAY], env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGTERM)
    rest, error = process.communicate(timeout=120)
    assert ("".join(lines) + rest, error, process.returncode) == (
        "a worker was lost\nRay has written\n",
        "raypipe probe: interrupted; run the same command again to continue\n",
        130,
    )
