"""Joins the Ray cluster of RAY_ADDRESS, or starts Ray on this machine. No other module starts Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from raypipe.config import Config
from raypipe.errors import RaypipeError, StageError, one_line
from raypipe.progress import print_line
from raypipe.runtime.stderr_log import stderr_to_log

_CONNECT_SECONDS = 10.0
_STARTS = 3
_TOO_BUSY = "timed out during startup"

# Ray Data appends lines that begin like this to the message of every error of a worker.
_RAY_DATA_ADVICE = "\nFailed to apply UDF transform"

_FEWEST_STARTING = 4
_STATE_TRACKING = "RAY_TRAIN_ENABLE_STATE_TRACKING"
_RAY_DATA_MARKS = ("SystemException", "UserCodeException")

# These must be set before Ray is imported anywhere, because Ray reads them at import.
_ENVIRONMENT = {
    # Otherwise a new local Ray turns on token authentication and writes a token file into the home directory.
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
}


_kept: contextlib.ExitStack | None = None


def ray_is_running() -> bool:
    """Whether this process has started or joined Ray. Does not import Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def should_use_ray(config: Config) -> bool:
    """Whether to use Ray for work that also runs without it. Does not import Ray.

    True if Ray runs in this process, if RAY_ADDRESS is set, or if the configuration enables Ray's dashboard.
    """
    return ray_is_running() or bool(os.environ.get("RAY_ADDRESS")) or config.ray.dashboard is True


def set_environment() -> None:
    """Set the environment variables that Ray reads at import. Call this before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def shared_ray() -> Iterator[None]:
    """Share one Ray between all `ray_session` calls of the body: the first starts it, the end of the body stops it."""
    global _kept
    if _kept is not None:
        yield
        return
    with contextlib.ExitStack() as stack:
        _kept = stack
        try:
            yield
        finally:
            _kept = None


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Start or join Ray for the body if it does not run in this process, and stop it afterwards (see `shared_ray`).

    Raises StageError if Ray cannot be started or the cluster cannot be reached.
    """
    if ray_is_running():
        yield
    elif _kept is not None:
        _kept.enter_context(_start_or_join(config))
        yield
    else:
        with _start_or_join(config):
            yield


@contextlib.contextmanager
def _start_or_join(config: Config) -> Iterator[None]:
    set_environment()
    # Imported before `sys.stderr` changes, because Ray's Python code keeps the `sys.stderr` of its import.
    import ray

    with stderr_to_log(), _errors_of_workers_to_log():
        with _handler_of_sigterm():
            context = _connected(config)
        silence_ray()
        if context.dashboard_url:
            print_line(f"Ray dashboard: http://{context.dashboard_url}")
        try:
            yield
        finally:
            ray.shutdown()


def _connected(config: Config) -> Any:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _check_reachable(address)
            return ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        return _start_local(config)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
            # While Ray starts, its own SIGTERM handler raises this. The command is ended, and Ray has no error.
            raise KeyboardInterrupt from error
        what = f"reach the cluster at RAY_ADDRESS={address}" if address else "start Ray on this machine"
        raise StageError(f"cannot {what}: {one_line(error)}; see `raypipe doctor --doctor.ray`") from error


@contextlib.contextmanager
def _errors_of_workers_to_log() -> Iterator[None]:
    """Send to the log what a thread of Ray prints on stdout when a worker is lost, even if `log_to_driver` is False."""
    import ray._private.worker as worker

    before = worker.print_to_stdstream

    def write(data: Mapping[str, Any], **_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, "".join(f"({data['pid']}) {line}\n" for line in data["lines"]).encode())

    worker.print_to_stdstream = write
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextlib.contextmanager
def _handler_of_sigterm() -> Iterator[None]:
    """Restore the SIGTERM handler after the body. Ray's handler prints a stack trace and ends the process itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start_local(config: Config) -> Any:
    import ray

    # On a machine with few cores, Ray otherwise warns about too many processes.
    processes = max(_FEWEST_STARTING, config.ray.num_cpus or os.cpu_count() or 1)
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(processes))
    # A separate process collects what the dashboard shows of a training. Ray's processes inherit the setting.
    tracking = os.environ.get(_STATE_TRACKING, str(int(config.ray.dashboard is not False)))
    for attempt in range(_STARTS):
        try:
            with _on_loopback(), _environment(_STATE_TRACKING, tracking):
                return ray.init(
                    # Without this, Ray joins the cluster that was last started on this machine.
                    address="local",
                    num_cpus=config.ray.num_cpus,
                    include_dashboard=config.ray.dashboard is not False,
                    dashboard_port=None if config.ray.dashboard is False else config.ray.dashboard_port,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
        except Exception as error:
            # Ray waits only 30 s for its own processes, also on a busy machine.
            if _TOO_BUSY not in str(error) or attempt + 1 == _STARTS:
                raise
            print_line("Ray did not start in 30 s, because the machine is busy; starting it again")
    raise AssertionError


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray that starts in the body listen on loopback only, not on all interfaces, because it needs no token.

    Ray replaces a given loopback address with another one, unless clusters are disabled on this machine.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    # The variable is for the processes that Ray starts. The constant is for this process, which has imported Ray.
    with _environment(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0"):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for the body, and restores it afterwards."""
    given = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given


def _check_reachable(address: str) -> None:
    """Raises OSError if nothing listens where Ray looks for the cluster. Ray itself retries for minutes."""
    from ray._private.services import resolve_ip_for_localhost

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    host = host.strip("[]")
    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    # Ray replaces a loopback address with this machine's own address, except for Ray Client (``ray://``).
    own = host if address.startswith("ray://") else resolve_ip_for_localhost(host)
    if own != host:
        try:
            socket.create_connection((own, int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            why = f"Ray replaces {host} with {own}, but the cluster does not listen there ({error})"
            raise ConnectionError(f"{why}; a Ray that raypipe started serves only its own command") from error


def silence_ray() -> None:
    """Turn off Ray's own output on the terminal, and let Ray Data raise the original error of a worker."""
    import ray.data

    # Errors of Ray Data reach the stage as exceptions, which it reports in one line.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    for name in ("ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # `max_restarts` and `scheduling_strategy` of Ray Data's actors cannot be set in another way yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # If Ray Data wraps the error, its cause is lost on the way to the driver.
    context.raise_original_map_exception = True


def original_error(error: BaseException) -> BaseException:
    """The original error of a Ray worker, without the wrappers in which it reached the driver."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        wrapped = getattr(error, "cause", None)
        # Ray's wrapper also has the type of the wrapped error, but its text is the worker's traceback.
        if isinstance(error, RaypipeError) and not isinstance(wrapped, BaseException):
            message, advice, _ = str(error).partition(_RAY_DATA_ADVICE)
            return type(error)(message) if advice else error
        inner = wrapped or error.__cause__
        # Ray Data sets marker errors as causes. They only say whether the error came from user code or from Ray.
        if not isinstance(inner, BaseException) or type(inner).__name__ in _RAY_DATA_MARKS:
            return error
        error = inner
    return error
