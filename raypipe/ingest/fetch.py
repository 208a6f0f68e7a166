"""Fetching pictures: one HTTP client with a fan-out of its own, retries, limits, and the address guard."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from raypipe.config import IngestOptions
from raypipe.ingest.answers import REDIRECTS, Answer, for_exception, for_http_status
from raypipe.ingest.guard import AddressGuard, RefusedURLError
from raypipe.ingest.hosts import HostBudget, HostPausedError, retry_after

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_DNS_SECONDS = 300
_CHUNK = 2**18


@dataclass(frozen=True)
class FetchResult:
    """What came of a post's picture; `body` is there where `status` is ``ok``, before anyone has looked inside.

    `attempts` is 0 where nothing was asked; `fetched_at` (UTC) and `http_status` are None where nothing answered the
    last request. `seconds` were spent asking; waiting for a turn is not included.
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


class Fetcher:
    """Fetches pictures, many at a time: ``async with Fetcher(options) as f: results = await f.fetch_many(posts)``.

    `share` is this client's part of the budget for each host where several clients work side by side (1/4, say).
    `resolver` and `guard` replace the system's name lookup and the guard that `options` describes.
    """

    def __init__(
        self,
        options: IngestOptions,
        *,
        share: float = 1.0,
        resolver: AbstractResolver | None = None,
        guard: AddressGuard | None = None,
    ) -> None:
        self._options = options
        self._guard = guard or AddressGuard(options.allow_private, tuple(options.allow_ports))
        self._resolver = resolver
        per_host = max(1, int(options.per_host * share))
        rate = options.per_host_rate * share if options.per_host_rate else None
        self._hosts = HostBudget(options.fan_out, per_host, rate, options.max_wait)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,  # the host budget limits
            ttl_dns_cache=_DNS_SECONDS,
            resolver=self._resolver,
            socket_factory=self._guard.socket_factory,
        )
        # One deadline spans redirects and body, so aiohttp's own total is off.
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._options.connect_timeout, sock_read=self._options.read_timeout
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers={"User-Agent": user_agent(self._options), "Accept": "image/*", "Accept-Encoding": "identity"},
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

    async def fetch_many(self, posts: Sequence[tuple[str, str]]) -> list[FetchResult]:
        """Fetch pictures of (post_id, url), in any order; one result each, in the order given. Raises nothing."""
        return list(await asyncio.gather(*(self.fetch(post_id, url) for post_id, url in posts)))

    async def fetch(self, post_id: str, url: str) -> FetchResult:
        """Fetch one picture, trying again what is worth it."""
        request = _Request(deadline=self._options.deadline)
        answer = Answer("invalid_url", "was not asked for")
        while True:
            answer = await self._try(url, request, answer)
            if not answer.again or request.attempts >= self._options.attempts:
                break
            if not request.told_to_wait:
                await asyncio.sleep(backoff(request.attempts))
        return FetchResult(
            post_id,
            url,
            answer.status,
            request.http_status,
            request.attempts,
            answer.error,
            host_of(url),
            request.answered_at,
            answer.body,
            request.seconds,
        )

    async def _try(self, url: str, request: _Request, previous: Answer) -> Answer:
        request.start()
        try:
            return await self._follow(url, request)
        except HostPausedError as error:
            # The answer that made the host's wish known says more than that it was heeded.
            if request.attempts and previous.again:
                return replace(previous, again=False, error=f"{previous.error}; {error}")
            return for_exception(error)
        except Exception as error:
            return for_exception(error)

    async def _follow(self, url: str, request: _Request) -> Answer:
        target = self._guard.check_url(url)
        asked = False
        for _ in range(self._options.max_redirects + 1):
            async with self._hosts.turn(str(target.host)):
                request.attempts += not asked
                asked = True
                with request.clock():
                    answer = await self._ask(target, request)
            if answer.location is None:
                return answer
            try:
                target = self._guard.check_url(str(target.join(URL(answer.location))))
            except RefusedURLError as error:
                return Answer(error.status, f"redirected to {answer.location}: {error}")
            except ValueError as error:
                return Answer("invalid_url", f"redirected to {answer.location!r}: {error}")
        return Answer("redirects", f"more than {self._options.max_redirects} redirects")

    async def _ask(self, target: URL, request: _Request) -> Answer:
        assert self._session is not None, "use `async with`"
        try:
            async with (
                asyncio.timeout(request.left()) as limit,
                self._session.get(target, allow_redirects=False) as response,
            ):
                request.answered_at, request.http_status = datetime.now(UTC), response.status
                if response.status == 200:
                    return await self._read(response)
                return self._refused(response, str(target.host), request)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"no whole answer within {self._options.deadline:g} s") from error
            raise

    def _refused(self, response: aiohttp.ClientResponse, host: str, request: _Request) -> Answer:
        location = response.headers.get("Location")
        if response.status in REDIRECTS and location:
            return Answer("redirects", location=location)
        if response.status in (429, 503):
            seconds = retry_after(response.headers.get("Retry-After"))
            request.told_to_wait = seconds is not None
            if seconds is None and response.status == 429:
                seconds = backoff(request.attempts)
            if seconds is not None:
                self._hosts.pause(host, seconds)
        return for_http_status(response.status, response.reason)

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        most = self._options.max_bytes
        announced = response.content_length
        if announced is not None and announced > most:
            return Answer("too_large", f"announces {announced:,} bytes, {most:,} are allowed")
        coding = response.headers.get("Content-Encoding", "identity")
        if coding.lower() not in ("identity", ""):
            return Answer("not_an_image", f"is encoded as {coding}, although identity was asked for")
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > most:
                response.close()
                return Answer("too_large", f"more than {most:,} bytes")
            chunks.append(chunk)
        return Answer("ok", body=b"".join(chunks))


class _Request:
    """What is counted over the attempts at one picture."""

    def __init__(self, deadline: float) -> None:
        self.attempts = 0
        self.seconds = 0.0
        self.answered_at: datetime | None = None
        self.http_status: int | None = None
        self.told_to_wait = False
        self._deadline = deadline
        self._used = 0.0

    def start(self) -> None:
        """Begin another attempt: its deadline is whole again."""
        self._used = 0.0
        self.told_to_wait = False

    def left(self) -> float:
        """Seconds until the attempt's deadline; turns are not counted."""
        return self._deadline - self._used

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Time one request."""
        self.http_status = None
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self._used += spent
            self.seconds += spent


def backoff(attempt: int) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1): doubling, capped, times a jitter of 0.5 to 1.5."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def user_agent(options: IngestOptions) -> str:
    """The User-Agent header: who asks, and how to reach them."""
    contact = f" (+{options.contact})" if options.contact else ""
    version = metadata.version("raypipe")
    return options.user_agent.replace("{version}", version).replace("{contact}", contact)


def host_of(url: str) -> str | None:
    """The host that a URL names, None where it names none."""
    try:
        return URL(url.strip()).host
    except (ValueError, TypeError):
        return None
