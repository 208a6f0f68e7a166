"""HTTP client for a public API: sends one request at a time, at a limited rate, and waits if the server requires it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from raypipe.config.data_options import IngestOptions
from raypipe.errors import StageError, one_line
from raypipe.ingest.fetching.client import user_agent
from raypipe.ingest.fetching.guard import REFUSED_ERRNO, AddressGuard
from raypipe.ingest.fetching.hosts import backoff, retry_after
from raypipe.progress import print_line

_ATTEMPTS = 5
_MAX_BYTES = 8_000_000
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)
_MIN_REPORTED_WAIT = 10.0
# The first wait after a failure is about a second.
_FIRST_ATTEMPT = 2
_ABSENT = (404, 410)


@dataclass(frozen=True)
class ApiResponse:
    """A JSON body (None if the post is gone), and the next page: `max_id` of the Link header, None if there is none."""

    body: Any
    next_id: str | None


class ApiClient:
    """Sends GET requests to one instance, at most `per_second`. Used as an async context manager.

    After a 429, it waits (Retry-After, else X-RateLimit-Reset). If X-RateLimit-Remaining is 0, it waits for the reset
    before the next request. It retries 5xx and broken connections, after a longer wait each time. `sleep` takes
    seconds. The user chooses the instance, so its address may be private. But the instance may redirect to any
    address, so `guard` refuses the addresses of clouds' own services. If the environment sets a proxy, the proxy makes
    the connections and `guard` checks only the proxy's address.
    """

    def __init__(
        self,
        base: str,
        per_second: float,
        contact: str | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        guard: AddressGuard | None = None,
    ) -> None:
        self.base = base.rstrip("/")
        self._interval = 1 / per_second
        self._agent = user_agent(IngestOptions(contact=contact))
        self._sleep = sleep
        self._guard = guard or AddressGuard(allow_private=True)
        self._not_before = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": self._agent, "Accept": "application/json"}
        connector = aiohttp.TCPConnector(socket_factory=self._guard.socket_factory)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=_TIMEOUT, trust_env=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> ApiResponse:
        """Request a path and return the answer. After a 404 or 410 its body is None.

        Raises StageError if the server refuses, does not answer with JSON, fails five times in a row, or has or
        redirects to an address that `guard` refuses.
        """
        where = f"{self.base}{path}"
        reason = ""
        for attempt in range(_ATTEMPTS):
            await self._wait_for_turn()
            try:
                status, headers, body, next_id = await self._request(where, query)
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = one_line(error)
                if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == REFUSED_ERRNO:
                    raise StageError(f"{where}: has or redirects to a refused address: {reason}") from error
                self._pause(backoff(attempt + _FIRST_ATTEMPT))
                continue
            self._pause(pause_after(status, headers, datetime.now(UTC), attempt))
            if status == 200:
                return ApiResponse(_as_json(body, where), next_id)
            if status in _ABSENT:
                return ApiResponse(None, None)
            reason = f"HTTP {status}{_reason_in(body)}"
            if status != 429 and status < 500:
                raise StageError(
                    f"{where}: {reason}; check that collect.instance is a Mastodon server with a public API"
                )
        raise StageError(f"{where}: {reason}, {_ATTEMPTS} times; run the same command later to continue")

    async def _request(
        self, where: str, query: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes, str | None]:
        assert self._session is not None, "used outside its context"
        async with self._session.get(where, params=query, max_redirects=3) as answer:
            body = bytearray()
            async for piece in answer.content.iter_chunked(65_536):
                body += piece
                if len(body) > _MAX_BYTES:
                    raise StageError(
                        f"{where}: the answer is larger than {_MAX_BYTES:,} bytes; no page of Mastodon is so large"
                    )
            return answer.status, answer.headers, bytes(body), _next_id(answer)

    async def _wait_for_turn(self) -> None:
        wait = self._not_before - time.monotonic()
        if wait > 0:
            if wait > _MIN_REPORTED_WAIT:
                print_line(f"  waiting {wait:.0f} s for {self.base}")
            await self._sleep(wait)
        self._not_before = time.monotonic() + self._interval

    def _pause(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + seconds)


def pause_after(status: int, headers: Mapping[str, str], now: datetime, attempt: int) -> float:
    """Return the seconds to wait after an answer. After a 429 or 5xx: Retry-After (seconds or a date, RFC 9110 10.2.3),
    else X-RateLimit-Reset (ISO 8601, as in Mastodon), else `backoff`. If no requests remain: X-RateLimit-Reset. Else 0.
    """
    if status == 429 or status >= 500:
        for name, read in (("Retry-After", retry_after), ("X-RateLimit-Reset", _seconds_until)):
            if name in headers and (wait := read(headers[name], now)) is not None:
                return wait
        return backoff(attempt + _FIRST_ATTEMPT)
    if headers.get("X-RateLimit-Remaining") == "0":
        return _seconds_until(headers.get("X-RateLimit-Reset", ""), now) or 0.0
    return 0.0


def _seconds_until(value: str, now: datetime) -> float | None:
    try:
        return max(0.0, (datetime.fromisoformat(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _as_json(body: bytes, where: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise StageError(
            f"{where}: the answer is not JSON; check that collect.instance is a Mastodon server"
        ) from error


def _reason_in(body: bytes) -> str:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return f" ({said['error']})" if isinstance(said, dict) and isinstance(said.get("error"), str) else ""


def _next_id(answer: aiohttp.ClientResponse) -> str | None:
    """`max_id` of the Link header's next page. None if there is no such page, or if the header is malformed.

    The rest of the link is ignored, so that the server cannot choose another address.
    """
    try:
        link = answer.links["next"]["url"] if "next" in answer.links else None
        return URL(link).query.get("max_id") if link is not None else None
    except ValueError:
        return None
