"""The local server of a world, on 127.0.0.1 only. It runs in this process or in a child process.

``python -m raypipe.world.server`` serves until SIGTERM, SIGINT or the end of its standard input. The input also ends
if the parent process dies, so a child never outlives the command that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from typing import Any

from aiohttp import web

from raypipe.config import Config
from raypipe.errors import RaypipeError, StageError, one_line
from raypipe.processes.ports import usable_port
from raypipe.storage import Storage
from raypipe.world.application import application
from raypipe.world.posts import HOST

_SECONDS_TO_START = 60.0
_SECONDS_TO_STOP = 10.0


async def serve(
    storage: Storage,
    port: int,
    *,
    stop: asyncio.Event | None = None,
    rate_limit: int = 300,
    rate_window: float = 300.0,
) -> None:
    """Serve a world on 127.0.0.1:`port` until `stop` is set. Without `stop`, serve until SIGINT or SIGTERM.

    The feed answers `rate_limit` requests per `rate_window` seconds. Raises StageError if the port is taken.
    """
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            if sys.platform == "win32":
                signal.signal(number, lambda *_: stop.set())
            else:
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = application(storage, rate_limit=rate_limit, rate_window=rate_window)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            raise port_taken_error(port, error) from error
        await stop.wait()
    finally:
        await runner.cleanup()


def run_loop(serving: Coroutine[Any, Any, None]) -> None:
    """Run `serving` to its end, on uvloop except on Windows."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serving)


def port_taken_error(port: int, error: OSError) -> StageError:
    """The error for a port that the server cannot listen on."""
    return StageError(
        f"world.port {port}: the server cannot listen on {HOST}: {error.strerror or one_line(error)}; "
        "end the program that uses the port or choose another --world.port"
    )


def check_port(port: int) -> None:
    """Raise StageError if the port is taken. The stage checks this before it draws pictures, so that it fails early."""
    try:
        usable_port(port)
    except OSError as error:
        raise port_taken_error(port, error) from error


@contextlib.contextmanager
def running_server(
    where: Config | Storage, port: int | None = None, *, rate_limit: int = 300, rate_window: float = 300.0
) -> Iterator[str]:
    """Run the server of the world under a root in a child process while the body runs. Yields its base URL.

    `port` defaults to the configuration's. Raises StageError if the port is taken or the server does not start, and
    ValueError if `where` is a Storage and no port is given.
    """
    storage = where.open_storage() if isinstance(where, Config) else where
    if port is None:
        if not isinstance(where, Config):
            raise ValueError("a Storage has no port: pass one")
        port = where.world.port
    check_port(port)
    command = [sys.executable, "-m", "raypipe.world.server", "--root", storage.root, "--port", str(port)]
    command += ["--rate-limit", str(rate_limit), "--rate-window", str(rate_window)]
    for name in ("endpoint", "region", "profile"):
        if value := getattr(storage, name):
            command += [f"--{name}", value]
    with tempfile.TemporaryFile() as log:
        # In its own session the server gets no Ctrl-C. Only the command does, and it stops the server when it is done.
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=sys.platform != "win32"
        )
        try:
            base = f"http://{HOST}:{port}"
            _wait_until_it_answers(server, base)
            if server.poll() is not None:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise StageError(f"the local server ended at once: {lines[-1] if lines else 'it printed nothing'}")
            yield base
        finally:
            _stop(server)


def _wait_until_it_answers(server: subprocess.Popen[bytes], base: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _SECONDS_TO_START
    while server.poll() is None:
        try:
            with opener.open(f"{base}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > end:
                raise StageError(f"{base}: the local server did not answer in {_SECONDS_TO_START:.0f} s") from None
            time.sleep(0.05)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdin is not None:
        server.stdin.close()


def main() -> int:
    """Serve until SIGTERM, SIGINT or the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m raypipe.world.server", description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--endpoint")
    parser.add_argument("--region")
    parser.add_argument("--profile")
    parser.add_argument("--rate-limit", type=int, default=300)
    parser.add_argument("--rate-window", type=float, default=300.0)
    given = parser.parse_args()
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    storage = Storage(given.root, given.endpoint, given.region, given.profile)
    serving = serve(storage, given.port, rate_limit=given.rate_limit, rate_window=given.rate_window)
    try:
        run_loop(serving)
    except RaypipeError as error:
        sys.stderr.write(f"{one_line(error)}\n")
        return error.exit_code
    return 0


def _exit_at_end_of_input() -> None:
    # os.read, not sys.stdin: a thread that holds sys.stdin's lock breaks the interpreter's exit.
    while os.read(0, 1024):
        pass
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
