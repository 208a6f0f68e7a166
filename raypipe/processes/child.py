"""Applies a function in a child process, so that a crash loses one item only.

Decoders and detectors are native code, and some files end them by a signal that `except` cannot catch. The child is
``python -m raypipe.processes.child``. It is not a fork, because the parent has threads. It is not multiprocessing's
spawn, which would import the parent's main module (in a Ray worker, Ray's own). It gets items on its stdin and answers
on its stdout.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, Self, TypeVar

from raypipe.errors import StageError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LENGTH = struct.Struct("<Q")
_START_SECONDS = 300.0
_STARTS = 3
_STDERR_SECONDS, _MAX_STDERR_CHARS = 20.0, 300
_PR_SET_PDEATHSIG = 1


def map_in_child(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    after_crash: Callable[[Item, str], Result],
    *,
    seconds: float = 120.0,
) -> list[Result]:
    """The results of `function` for each item, in order, from a child process of `ChildWorker` that ends afterwards."""
    with ChildWorker(function, after_crash, seconds=seconds) as apart:
        return apart(items)


class ChildWorker(Generic[Item, Result]):
    """Applies `function` to items one by one, in order, in a child process that starts with the first item.

    If the child ends on an item, or is killed because it takes longer than `seconds` (None: no limit), the result is
    ``after_crash(item, reason)``. `reason` is for example ``SIGSEGV``, ``exit code 3`` or ``no answer in 120 s``. A new
    child takes the next item. Errors of `function` are raised here too. `environment` holds variables for the child
    that are not set yet. `function`, items and results must be picklable. The child ends with the body of the ``with``,
    and with the thread that started it. Raises StageError if no child starts.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        after_crash: Callable[[Item, str], Result],
        *,
        seconds: float | None = 120.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._function, self._after_crash, self._seconds = function, after_crash, seconds
        self._environment = dict(environment or {})
        self._child: _ChildProcess | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the child before the first item."""
        self._child = self._child or self._start_child()

    def stop(self) -> None:
        """End the child at once, and start no other. Any thread may call it. Later items raise StoppedError."""
        with self._lock:
            self._stopped = True
            if self._child:
                self._child.kill()

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """The results of `function` for each item, in order."""
        return [self._ask(item) for item in items]

    def _ask(self, item: Item) -> Result:
        self._child = child = self._child or self._start_child()
        try:
            result: Result = child.send(item, self._seconds)
        except _EndedError as ended:
            self._refuse_if_stopped()
            result = self._after_crash(item, str(ended))
        if child.ended:
            self.close()
        return result

    def close(self) -> None:
        """End the child, if there is one. While another thread uses the child, call `stop` instead."""
        child, self._child = self._child, None
        if child:
            child.close()

    def _start_child(self) -> _ChildProcess:
        for attempt in range(_STARTS):
            try:
                with self._lock:
                    self._refuse_if_stopped()
                    self._child = child = _ChildProcess(self._environment)
            except OSError as error:
                raise StageError(
                    f"{sys.executable} -m {__name__}: the child process cannot be started: {error.strerror}; "
                    "allow more open files, processes or memory"
                ) from error
            try:
                child.send(self._function, _START_SECONDS)
            except _EndedError as ended:
                self.close()
                self._refuse_if_stopped()
                if attempt + 1 == _STARTS:
                    stderr_line = _stderr_at_start(self._function, self._environment)
                    raise StageError(
                        f"{sys.executable} -m {__name__}: the child process ends at its start: {ended}; "
                        f"its stderr: {stderr_line or 'empty'}"
                    ) from None
            except BaseException:
                self.close()
                raise
            else:
                return child
        raise AssertionError

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise StoppedError


class StoppedError(Exception):
    """`ChildWorker.stop` was called."""


class _EndedError(Exception):
    """The child has ended. The message is the reason."""


class _ChildProcess:
    """A child process. The first message is the function. It ends with the thread that made it: use it only there."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        self.ended = False
        self._process = subprocess.Popen(
            _command(), stdin=pipe, stdout=pipe, env=_variables(environment), start_new_session=True
        )

    def send(self, message: Any, seconds: float | None) -> Any:
        """The child's answer. Raises _EndedError if the child ends before it answers, and the error that it raised."""
        if seconds is None:
            return self._ask(message, self.kill)
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            self.kill()

        timer = threading.Timer(seconds, give_up)
        timer.start()
        try:
            # If the child has closed its pipe but still runs, the timer kills it.
            return self._ask(message, lambda: None)
        except _EndedError:
            if timed_out.is_set():
                raise _EndedError(f"no answer in {seconds:g} s") from None
            raise
        finally:
            timer.cancel()
            timer.join()
            # The timer may have killed it just when its answer arrived.
            self.ended = self.ended or timed_out.is_set()

    def _ask(self, message: Any, on_no_answer: Callable[[], None]) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        packed = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            _write(process.stdin, packed)
            answer = _read(process.stdout)
        except (EOFError, OSError):
            on_no_answer()
            self.ended, code = True, process.wait()
            raise _EndedError(_exit_text(code)) from None
        good, value = pickle.loads(answer)
        if not good:
            raise value
        return value

    def kill(self) -> None:
        """Kill the process, which has nothing to save. Any thread may call it."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe:
                    pipe.close()
            except OSError:  # some data was not yet written when it ended
                pass


def _command() -> list[str]:
    # -P: the child imports from the working directory only if this process does (see `_variables`).
    return [sys.executable, "-P", "-m", __name__, str(os.getpid())]


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    paths = os.pathsep.join(str(path) or str(Path.cwd()) for path in sys.path)
    return {**environment, **os.environ, "PYTHONPATH": paths}


def _stderr_at_start(function: Any, environment: Mapping[str, str]) -> str:
    """Starts another child with `function` but no item, and returns the last line that it prints on stderr.

    Other children share the stderr of this process, which may be a log file that nobody reads.
    """
    packed = pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
    try:
        done = subprocess.run(
            _command(),
            input=_LENGTH.pack(len(packed)) + packed,
            capture_output=True,
            env=_variables(environment),
            start_new_session=True,
            timeout=_STDERR_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:_MAX_STDERR_CHARS] if lines else ""


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _write(stream: IO[bytes], packed: bytes) -> None:
    stream.write(_LENGTH.pack(len(packed)))
    stream.write(packed)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    head = stream.read(_LENGTH.size)
    if len(head) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        packed = stream.read(length)
        if len(packed) == length:
            return packed
    raise EOFError


def _run_child(parent: int) -> None:
    """The main loop of the child: reads the function, then items until the end of stdin, and answers each."""
    # Descriptors 0 and 1 are replaced: native code then prints to stderr and cannot read the items.
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _end_with_parent(parent)
    function = None
    while True:
        try:
            question = _read(questions)
        except EOFError:
            return
        try:
            message = pickle.loads(question)
            if function is None:
                function, result = message, None
            else:
                result = function(message)
            answer = pickle.dumps((True, result), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            answer = pickle.dumps((False, _picklable_error(error)), pickle.HIGHEST_PROTOCOL)
        _write(answers, answer)


def _picklable_error(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        sent = error
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"In a child process:\n{''.join(traceback.format_exception(error))}")
    return sent


def _end_with_parent(parent: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    # Crashes are expected here, and their core dumps have no use.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        # On other systems the child ends when it next reads its stdin.
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    _run_child(int(sys.argv[1]))
