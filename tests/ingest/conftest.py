"""A misbehaving web server on loopback, and pictures to serve."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from socket import SO_LINGER, SOL_SOCKET

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from raypipe.config.data_options import IngestOptions
from raypipe.ingest.fetching import hosts
from tests.ingest.asking import LoopbackSocket, RecordingSocket

Answer = Callable[[web.Request, int], Awaitable[web.StreamResponse]]


def picture(format: str = "JPEG", size: tuple[int, int] = (64, 48), seed: int = 0, **options: object) -> bytes:
    """A small picture that depends on `seed`."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(sink, format, **options)
    return sink.getvalue()


class WebServer:
    """Answers on a loopback address. `behave` sets a path's answer, `requests` counts, `asked` keeps the order."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._address = address
        self.requests: Counter[str] = Counter()
        self.asked: deque[tuple[str, float, dict[str, str]]] = deque()
        self.in_flight = self.in_flight_most = 0
        self.delay = 0.0
        self._answers: dict[str, Answer] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def behave(self, path: str, answer: Answer) -> str:
        """Set the answer of `path`, which gets the request and the number of earlier ones. Returns the URL."""
        self._answers[path] = answer
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://{self._address}:{self.port}{path}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application()
        application.router.add_get("/{rest:.*}", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, self._address, 0)
        self._loop.run_until_complete(site.start())
        self.port = int(runner.addresses[0][1])
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        before = self.requests[request.path]
        self.requests[request.path] += 1
        self.asked.append((request.path, self._loop.time(), dict(request.headers)))
        self.in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            if request.path in self._answers:
                return await self._answers[request.path](request, before)
            return web.Response(body=picture(seed=hash(request.path) % 2**32), content_type="image/jpeg")
        finally:
            self.in_flight -= 1


def body(data: bytes, content_type: str = "image/jpeg", **headers: str) -> Answer:
    """Always answers 200 with these bytes."""

    async def answer(_request: web.Request, _before: int) -> web.StreamResponse:
        return web.Response(body=data, headers={"Content-Type": content_type, **headers})

    return answer


def status(code: int, times: int | None = None, data: bytes = b"", **headers: str) -> Answer:
    """Answers `code` with headers (``Retry_After="1"``) to the first `times` requests, then 200 with `data`."""
    shown = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_request: web.Request, before: int) -> web.StreamResponse:
        if times is not None and before >= times:
            return web.Response(body=data, content_type="image/jpeg")
        return web.Response(status=code, headers=shown)

    return answer


def drip(data: bytes, pause: float, pieces: int = 50) -> Answer:
    """Answers 200 and sends the bytes in pieces, with a pause before each."""

    async def answer(request: web.Request, _before: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data)), "Content-Type": "image/jpeg"})
        await response.prepare(request)
        size = -(-len(data) // pieces)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), size):
                await asyncio.sleep(pause)
                await response.write(data[start : start + size])
        return response

    return answer


def break_off(data: bytes, keep: int) -> Answer:
    """Answers 200 with the full Content-Length, sends the first `keep` bytes and closes the connection."""

    async def answer(request: web.Request, _before: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:keep])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def endless(chunk: bytes) -> Answer:
    """Answers 200 without a length and sends bytes as long as the client reads."""

    async def answer(request: web.Request, _before: int) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(chunk)
        return response

    return answer


def reset(times: int | None = None, data: bytes = b"") -> Answer:
    """Resets the connection before any answer for the first `times` requests, then answers 200 with `data`."""

    async def answer(request: web.Request, before: int) -> web.StreamResponse:
        if times is not None and before >= times:
            return web.Response(body=data, content_type="image/jpeg")
        assert request.transport is not None
        request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
        return web.Response()

    return answer


def redirect(target: str, code: int = 302) -> Answer:
    """Answers with a redirect."""
    return status(code, Location=target)


def http_date(seconds: float) -> str:
    """An HTTP date `seconds` from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A new server."""
    running = WebServer()
    yield running
    running.close()


@pytest.fixture
def options(server: WebServer) -> IngestOptions:
    """Options that allow requests to the server, with short time limits."""
    return IngestOptions(
        allow_private=True,
        allow_ports=[server.port],
        attempts=3,
        connect_timeout=2,
        read_timeout=2,
        deadline=5,
        max_bytes=1_000_000,
    )


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits before a retry."""
    monkeypatch.setattr(hosts, "_FIRST_WAIT", 0.02)


@pytest.fixture
def recording() -> type[RecordingSocket]:
    """A socket class for this test, so that its records are not shared."""
    return type("Recording", (RecordingSocket,), {"made": []})


@pytest.fixture
def loopback() -> type[LoopbackSocket]:
    """A socket class for this test, so that its records are not shared."""
    return type("Loopback", (LoopbackSocket,), {"asked": []})


@pytest.fixture(params=["on Ray", "here"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test without and with Ray."""
    if request.param == "here":
        monkeypatch.setattr("raypipe.ingest.local.should_use_ray", lambda _: False)
    return str(request.param)
