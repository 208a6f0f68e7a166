"""A server that answers badly in ways that nginx cannot: the demo's misbehaviour for pictures in a folder.

`python -m benchmarks.ingest.troubled FOLDER ADDRESS:PORT [ADDRESS:PORT …]` answers `/KIND/PATH` with the picture at
PATH in the way of KIND. Kinds are those of raypipe.world.picture_responses, and `delay`, which begins after a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop
from aiohttp import web

from benchmarks.processes import cpu_of_tree
from benchmarks.results import REPOSITORY
from benchmarks.web import wait_for
from raypipe.world.behaviour import NORMAL
from raypipe.world.picture_responses import PictureResponder

KINDS = {
    "404": "gone",
    "403": "forbidden",
    "429": "ok",
    "500": "server_error",
    "truncated": "truncated",
    "wrong_type": "not_an_image",
    "slow": "ok",
    "reset": "connection",
}
"""The status in `images/` for each kind of bad answer. Waiting helps after 429 and slow answers, but not after 500."""

DELAY_SECONDS = 1.0


class Troubled:
    """A running server."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_of_tree(self._pid)


@contextlib.contextmanager
def troubled(pictures: Path, addresses: Sequence[tuple[str, int]], log: Path) -> Iterator[Troubled]:
    """Run the server in a child process while the body runs. Raises RuntimeError if it does not start."""
    listen = [f"{host}:{port}" for host, port in addresses]
    command = [sys.executable, "-m", "benchmarks.ingest.troubled", str(pictures), *listen]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        try:
            wait_for(process, addresses[-1], log)
            yield Troubled(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=20)


async def serve(folder: Path, addresses: Sequence[tuple[str, int]]) -> None:
    """Answer until SIGTERM or SIGINT."""
    responder = PictureResponder()

    async def answer(request: web.Request) -> web.StreamResponse:
        kind, path = request.match_info["kind"], request.match_info["path"]
        picture = (folder / path).read_bytes()
        if kind == "delay":
            await asyncio.sleep(DELAY_SECONDS)
            kind = NORMAL
        return await responder.answer(request, kind, path, picture)

    application = web.Application()
    application.router.add_get("/{kind}/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    for host, port in addresses:
        await web.TCPSite(runner, host, port, backlog=4096).start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Serve."""
    folder, *listen = sys.argv[1:]
    addresses = [(host, int(port)) for host, _, port in (word.rpartition(":") for word in listen)]
    uvloop.run(serve(Path(folder), addresses))


if __name__ == "__main__":
    main()
