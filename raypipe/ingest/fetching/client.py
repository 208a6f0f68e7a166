"""The HTTP client: sends single requests behind the address guard and reads the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from raypipe.config.data_options import IngestOptions
from raypipe.ingest.fetching.guard import AddressGuard, RefusedURLError
from raypipe.ingest.fetching.hosts import backoff, host_of, retry_after
from raypipe.ingest.fetching.outcomes import REDIRECTS, RequestOutcome, outcome_for_status
from raypipe.ingest.fetching.robots import READ_BYTES, RobotsCache, RobotsRules, forbidding_directive

_DNS_SECONDS = 300
_CHUNK = 2**18
_ROBOTS_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The result for one post's picture. `body` is set if `status` is ``ok``; its content is not checked yet.

    `attempts` is 0 if no request was made. `http_status` is None if the last request got no answer. `fetched_at` (UTC)
    is the time of the last answer, or None. `seconds` is the time spent on requests, without the wait in the queue.
    """

    post_id: str
    url: str
    status: str
    http_status: int | None
    attempts: int
    error: str | None
    host: str | None
    fetched_at: datetime | None
    body: bytes | None
    seconds: float


OnResult = Callable[[FetchResult], None]


class FetchRequest:
    """One wanted picture, over all its attempts and redirects.

    `pause` is the number of seconds to wait before the next request to its host, if the last answer set one.
    """

    __slots__ = (
        "answered_at",
        "attempts",
        "host",
        "http_status",
        "n_redirects",
        "on_result",
        "outcome",
        "pause",
        "post_id",
        "seconds",
        "seconds_used",
        "target",
        "url",
    )  # fmt: skip

    def __init__(self, post_id: str, url: str, on_result: OnResult) -> None:
        self.post_id, self.url, self.on_result = post_id, url, on_result
        self.host = host_of(url)
        self.attempts = 0
        self.seconds = 0.0
        self.answered_at: datetime | None = None
        self.http_status: int | None = None
        self.outcome: RequestOutcome | None = None
        self.reset()

    def reset(self) -> None:
        """Reset for another attempt: the full deadline, no redirects, and the picture's own URL."""
        self.target: URL | None = None
        self.n_redirects = 0
        self.seconds_used = 0.0
        self.pause: float | None = None


class PictureClient:
    """Requests pictures, one request per call of `get`. Used as ``async with PictureClient(options) as client``."""

    def __init__(
        self, options: IngestOptions, resolver: AbstractResolver | None = None, guard: AddressGuard | None = None
    ) -> None:
        self._options = options
        self.guard = guard or AddressGuard(options.allow_private, tuple(options.allow_ports))
        self.agent = user_agent(options)
        self._resolver = resolver
        self._robots = RobotsCache() if options.robots else None
        self._robots_paused_until: dict[str, float] = {}
        self._full_timeout = self._timeout(options.deadline)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,  # HostQueues limits
            ttl_dns_cache=_DNS_SECONDS,
            resolver=self._resolver,
            socket_factory=self.guard.socket_factory,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._full_timeout,
            headers={"User-Agent": self.agent, "Accept": "image/*", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_CHUNK,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def rules(self, target: URL) -> RobotsRules | None:
        """Return the rules of the host's robots.txt, or None if the options ignore robots.txt."""
        return None if self._robots is None else await self._robots.rules(target, self._fetch_robots)

    def robots_pause(self, target: URL) -> float:
        """Return the seconds left of the pause in the host's robots.txt answer, else 0. Forgets the paused answer."""
        pause_left = self._robots_paused_until.get(target.host or "", 0.0) - time.monotonic()
        if pause_left <= 0:
            return 0.0
        if self._robots is not None:
            self._robots.forget(target)
        return pause_left

    async def get(self, target: URL, request: FetchRequest) -> RequestOutcome:
        """Request `target` for a picture. Raises aiohttp's errors."""
        assert self._session is not None, "use `async with`"
        # The deadline covers redirects and body, so a later hop gets only the time that is left.
        left = (
            self._timeout(self._options.deadline - request.seconds_used) if request.n_redirects else self._full_timeout
        )
        async with self._session.get(target, allow_redirects=False, timeout=left) as response:
            request.answered_at, request.http_status = datetime.now(UTC), response.status
            if response.status == 200:
                return await self._read(response)
            location = response.headers.get("Location")
            if response.status in REDIRECTS and location:
                return self._redirected(target, location, request)
            if response.status in (429, 503):
                _store_pause(response, request)
            return outcome_for_status(response.status, response.reason)

    def _redirected(self, target: URL, location: str, request: FetchRequest) -> RequestOutcome:
        request.n_redirects += 1
        if request.n_redirects > self._options.max_redirects:
            return RequestOutcome("redirects", f"more than {self._options.max_redirects} redirects")
        try:
            return RequestOutcome("redirects", target=self.guard.check_url(str(target.join(URL(location)))))
        except RefusedURLError as error:
            return RequestOutcome(error.status, f"redirected to {location}: {error}")
        except ValueError as error:
            return RequestOutcome("invalid_url", f"redirected to {location!r}: {error}")

    async def _read(self, response: aiohttp.ClientResponse) -> RequestOutcome:
        most = self._options.max_bytes
        if self._robots is not None:
            directive = forbidding_directive(response.headers.getall("X-Robots-Tag", ()), self.agent)
            if directive:
                response.close()
                return RequestOutcome(
                    "forbidden", f"X-Robots-Tag contains {directive} (--ingest.robots false ignores it)"
                )
        announced = response.content_length
        if announced is not None and announced > most:
            return RequestOutcome("too_large", f"Content-Length is {announced:,} bytes, {most:,} are allowed")
        coding = response.headers.get("Content-Encoding", "identity")
        if coding.lower() not in ("identity", ""):
            return RequestOutcome("not_an_image", f"is encoded as {coding}, but identity was requested")
        body = await _read_body(response, most)
        return (
            RequestOutcome("too_large", f"more than {most:,} bytes")
            if body is None
            else RequestOutcome("ok", body=body)
        )

    async def _fetch_robots(self, url: URL) -> tuple[int | None, bytes]:
        """Fetch a robots.txt behind the same guard. Returns its status (None if there is no answer) and body.

        Without it, no picture is requested from the host, so it is retried as often as a picture.
        """
        for attempt in range(1, self._options.attempts + 1):
            status, body = await self._fetch_robots_once(url)
            again = status is None or status == 429 or status >= 500
            if attempt == self._options.attempts or not again or self.robots_pause(url):
                break
            await asyncio.sleep(backoff(attempt))
        return status, body

    async def _fetch_robots_once(self, url: URL) -> tuple[int | None, bytes]:
        assert self._session is not None
        origin = url
        try:
            for _ in range(_ROBOTS_REDIRECTS + 1):
                target = self.guard.check_url(str(url))
                async with self._session.get(target, allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    if response.status in REDIRECTS and location:
                        url = target.join(URL(location))
                        continue
                    if response.status in (429, 503):
                        pause_left = retry_after(response.headers.get("Retry-After")) or 0.0
                        for paused in (origin, target):
                            self._robots_paused_until[paused.host or ""] = time.monotonic() + pause_left
                    return response.status, await _read_start(response, READ_BYTES) if response.status == 200 else b""
        except (aiohttp.ClientError, OSError, RefusedURLError, ValueError):
            return None, b""
        return 404, b""

    def _timeout(self, total: float) -> aiohttp.ClientTimeout:
        options = self._options
        return aiohttp.ClientTimeout(
            total=max(0.001, total), sock_connect=options.connect_timeout, sock_read=options.read_timeout
        )


def _store_pause(response: aiohttp.ClientResponse, request: FetchRequest) -> None:
    """Store the pause that a 429 or 503 asks for."""
    request.pause = retry_after(response.headers.get("Retry-After"))


async def _read_start(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the first `most` bytes of the body."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size >= most:
            response.close()
            break
    return b"".join(chunks)[:most]


async def _read_body(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Return the body, or None if it is longer than `most` bytes."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > most:
            response.close()
            return None
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def user_agent(options: IngestOptions) -> str:
    """Return the User-Agent header, with version and contact filled in."""
    contact = f" (+{options.contact})" if options.contact else ""
    version = metadata.version("raypipe")
    return options.user_agent.replace("{version}", version).replace("{contact}", contact)
