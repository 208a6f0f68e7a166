"""A reverse proxy in front of an S3 server that fails on request, over real HTTP."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

T = TypeVar("T")

_BODY = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}, injected</Message></Error>'
_ONE_HOP = {"transfer-encoding", "connection", "keep-alive"}


@dataclass
class Fault:
    """A failure for a share of the requests that match, at most `left` of them.

    `status` 0 resets the connection: before the server sees the request or, with `late`, after its answer.
    """

    matches: Callable[[str, str], bool]
    status: int
    code: str
    share: float = 1.0
    left: int = 2**31
    late: bool = False
    hits: int = 0


class S3Faults:
    """The proxy, in its own thread. `endpoint` is its URL."""

    def __init__(self, upstream: str, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.seconds = 0.0
        """Seconds that each request waits before it is forwarded."""
        self.seen: Counter[str] = Counter()
        """Number of requests by kind: ``PUT``, ``PUT ?partNumber`` and so on."""
        self._upstream, self._port = upstream, port
        self._faults: list[Fault] = []
        self._random = random.Random(0)
        self._sockets: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wait(self._start())

    def fail(
        self,
        matching: str,
        *,
        status: int = 503,
        code: str = "SlowDown",
        share: float = 1.0,
        times: int = 2**31,
        late: bool = False,
    ) -> Fault:
        """Fail requests whose ``METHOD path?query`` contains the pattern `matching`, from now on."""
        pattern = re.compile(matching)
        fault = Fault(lambda method, url: bool(pattern.search(f"{method} {url}")), status, code, share, times, late)
        self._faults.append(fault)
        return fault

    def reset(self, matching: str, **how: Any) -> Fault:
        """Reset the connection of matching requests, from now on."""
        return self.fail(matching, status=0, **how)

    def heal(self) -> None:
        """Remove all faults."""
        self._faults.clear()
        self.seconds = 0.0

    def down(self) -> None:
        """Refuse new connections and cut open ones."""
        self._wait(self._site.stop())
        for socket in list(self._sockets):
            self._loop.call_soon_threadsafe(socket.abort)

    def up(self) -> None:
        """Listen again on the same port."""
        self._wait(self._listen())

    def close(self) -> None:
        """Stop the proxy and its thread."""
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=20)
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await self._site.start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        self._sockets.add(request.transport)
        query = f"?{request.rel_url.query_string}" if request.rel_url.query_string else ""
        body = await request.read()
        kind = next((name for name in ("uploads", "partNumber", "uploadId") if name in request.rel_url.query), "")
        self.seen[f"{request.method} ?{kind}" if kind else request.method] += 1
        await asyncio.sleep(self.seconds)
        fault = self._fault(request.method, f"{request.path}{query}")
        if fault is not None and not fault.late:
            return self._answer(request, fault)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {*_ONE_HOP, "expect"}}
        url = f"{self._upstream}{request.raw_path}"
        async with self._client.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            data = await answer.read()
            kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in _ONE_HOP]
        if fault is not None:
            return self._answer(request, fault)
        if request.method != "HEAD":
            kept = [(k, v) for k, v in kept if k.lower() != "content-length"]
        return web.Response(status=answer.status, headers=kept, body=data)

    def _fault(self, method: str, url: str) -> Fault | None:
        for fault in self._faults:
            if fault.left and fault.matches(method, url) and self._random.random() < fault.share:
                fault.left -= 1
                fault.hits += 1
                return fault
        return None

    def _answer(self, request: web.Request, fault: Fault) -> web.Response:
        if fault.status == 0:
            assert isinstance(request.transport, asyncio.Transport)
            request.transport.abort()
            return web.Response(status=500)
        return web.Response(status=fault.status, text=_BODY.format(code=fault.code), content_type="application/xml")
