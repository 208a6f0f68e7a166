"""Fetches pictures: parallel requests to many hosts, within the budget of each host, with retries and redirects."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from aiohttp.abc import AbstractResolver

from raypipe.config.data_options import IngestOptions
from raypipe.errors import one_line
from raypipe.ingest.fetching.answers import Answer, for_exception
from raypipe.ingest.fetching.client import Client, Deliver, FetchResult, Request
from raypipe.ingest.fetching.frontier import Frontier, Turn
from raypipe.ingest.fetching.guard import AddressGuard
from raypipe.ingest.fetching.hosts import backoff
from raypipe.ingest.fetching.ledger import Grant, Report

# Seconds between a fetcher's reports to a shared budget: normally, while a host waits for its first slot, and if there
# is no other fetcher and the report is only for the display.
_REPORT_SECONDS, _HUNGRY_SECONDS, _ALONE_SECONDS = 0.25, 0.05, 1.0

Exchange = Callable[[str, Report], Awaitable[Grant]]
"""Sends a report to the ledger of hosts (`HostLedger.exchange`), in this process or another."""


def _raise(error: BaseException) -> None:
    raise error


class Fetcher:
    """Fetches pictures, many at a time: ``async with Fetcher(options) as f: results = await f.fetch_many(posts)``.

    If several fetchers run side by side (`fetchers`), `exchange` shares each host's budget between them. Without it,
    this fetcher has the whole budget. `resolver` and `guard` replace the system's name lookup and the guard that
    `options` describes. `on_error` gets unexpected errors, after which some picture may never be delivered.
    All methods must be called on the event loop on which the context was entered.
    """

    def __init__(
        self,
        options: IngestOptions,
        *,
        exchange: Exchange | None = None,
        fetchers: int = 1,
        resolver: AbstractResolver | None = None,
        guard: AddressGuard | None = None,
        on_error: Callable[[BaseException], None] = _raise,
    ) -> None:
        self._options = options
        self._client = Client(options, resolver, guard)
        self._exchange, self._fetchers = exchange, fetchers
        shared = exchange is not None and fetchers > 1
        self._frontier: Frontier[Request] = Frontier(
            options.per_host, options.per_host_rate, options.max_wait, shared=shared
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._held_back = False
        self._on_error = on_error
        self._name = uuid.uuid4().hex
        self._reporter: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        if self._exchange is not None:
            self._reporter = asyncio.create_task(self._report(self._exchange))
            self._reporter.add_done_callback(self._watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Tasks that end now must not start new ones.
        self._held_back = True
        ending = [*self._tasks, *([self._reporter] if self._reporter else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._exchange is not None:
            # An empty report frees this fetcher's slots for the others.
            with contextlib.suppress(Exception):
                await self._exchange(self._name, Report({}, self._pauses))
        await self._client.__aexit__(kind, error, trace)

    @property
    def hosts_waiting(self) -> int:
        """Number of hosts that have waiting requests and are paused or at their rate limit."""
        return self._frontier.hosts_waiting()

    def submit(self, posts: Iterable[tuple[str, str]], deliver: Deliver) -> None:
        """Queue the pictures of (post_id, url). `deliver` is called with each result, on this event loop."""
        for post_id, url in posts:
            request = Request(post_id, url, deliver)
            self._frontier.push(request.host or "", request)
        self._pump()

    def hold_back(self, on: bool) -> None:
        """Start no more requests (`on`), because results are not consumed fast enough, or start them again."""
        self._held_back = on
        self._pump()

    async def fetch_many(self, posts: Sequence[tuple[str, str]]) -> list[FetchResult]:
        """Fetch pictures of (post_id, url), in any order. Returns one result each, in the given order. Never raises."""
        return list(await asyncio.gather(*(self.fetch(post_id, url) for post_id, url in posts)))

    async def fetch(self, post_id: str, url: str) -> FetchResult:
        """Fetch one picture, with retries after errors that may be temporary."""
        future: asyncio.Future[FetchResult] = asyncio.get_running_loop().create_future()
        self.submit([(post_id, url)], lambda result: None if future.done() else future.set_result(result))
        return await future

    def _pump(self) -> None:
        """Start all requests that may start now, and set a timer for the next one."""
        while not self._held_back and len(self._tasks) < self._options.fan_out:
            turn = self._frontier.pop()
            if turn is None:
                break
            if turn.pause is not None:
                self._give_up(turn)
                continue
            task = asyncio.create_task(self._serve(turn.host, turn.item))
            task.add_done_callback(self._watch)
            self._tasks.add(task)
        at = self._frontier.next_at()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None and len(self._tasks) < self._options.fan_out and not self._held_back:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._wake)

    def _wake(self) -> None:
        try:
            self._pump()
        except Exception as error:
            self._on_error(error)

    def _watch(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._on_error(error)

    async def _serve(self, host: str, request: Request) -> None:
        started = time.monotonic()
        try:
            answer = await self._ask(host, request)
        except TimeoutError as error:
            whole = request.used + time.monotonic() - started >= self._options.deadline * 0.999
            text = f"no whole answer within {self._options.deadline:g} s" if whole else one_line(error)
            answer = Answer("timeout", text or "no answer in time", again=True)
        except Exception as error:
            answer = for_exception(error)
        finally:
            spent = time.monotonic() - started
            request.used += spent
            request.seconds += spent
            current = asyncio.current_task()
            if current is not None:
                self._tasks.discard(current)
            self._frontier.done(host)
        self._settle(host, request, answer)
        self._pump()

    def _settle(self, host: str, request: Request, answer: Answer) -> None:
        """Retry, follow a redirect, or deliver the result."""
        if answer.target is not None:
            request.target = answer.target
            self._frontier.push((answer.target.host or "").rstrip("."), request)
        elif answer.again and request.attempts < self._options.attempts:
            request.answer = answer
            # The backoff applies in addition to a pause that the host asks for, which may be 0 seconds.
            request.begin()
            self._frontier.push(request.host or host, request, backoff(request.attempts))
        else:
            self._deliver(request, answer)

    def _give_up(self, turn: Turn[Request]) -> None:
        asked = f"{turn.host} has asked to be left alone for another {turn.pause:.0f} s"
        last = turn.item.answer
        # If this request has had an answer, that says more than ``rate_limited``.
        answer = Answer("rate_limited", asked) if last is None else Answer(last.status, f"{last.error}; {asked}")
        self._deliver(turn.item, answer)

    def _deliver(self, request: Request, answer: Answer) -> None:
        request.deliver(
            FetchResult(
                request.post_id,
                request.url,
                answer.status,
                request.http_status,
                request.attempts,
                answer.error,
                request.host,
                request.answered_at,
                answer.body,
                request.seconds,
            )
        )

    async def _ask(self, host: str, request: Request) -> Answer:
        target = request.target or self._client.guard.check_url(request.url)
        name = (target.host or "").rstrip(".")
        if name != host:
            # `host_of`, which chose the queue, read another host from the URL. Queue it again under this one.
            return Answer("redirects", target=target)
        pace = self._frontier.pace(host)
        rules = await self._client.rules(target)
        if rules is not None:
            if rest := self._client.robots_rest(target):
                # The answer to robots.txt is forgotten now, so it is requested again after the pause.
                request.attempts += 1
                self._rest(host, rest)
                return Answer("server_error", f"{host} answers robots.txt with Retry-After: {rest:.0f} s", again=True)
            if rules.unreachable:
                kind = "connection" if rules.status is None else "server_error"
                said = "no answer" if rules.status is None else f"HTTP {rules.status}"
                return Answer(kind, f"robots.txt of {host} cannot be had ({said}), so nothing is asked there")
            delay = (rules.delay(self._client.agent) or 0.0) * self._fetchers
            if not self._frontier.slow_down(host, delay) and delay > pace:
                # The request started before this host's pace was known, so it is queued again.
                return Answer("redirects", target=target)
            if not rules.allows(str(target), self._client.agent):
                return Answer("forbidden", f"robots.txt of {host} disallows it (--ingest.robots false ignores it)")
        request.attempts += not request.hops
        request.answered_at = request.http_status = None
        answer = await self._client.get(target, request)
        if request.http_status == 429 and request.pause is None:
            request.pause = backoff(request.attempts)
        if request.pause is not None:
            self._rest(host, request.pause)
        return answer

    def _rest(self, host: str, seconds: float) -> None:
        self._frontier.pause(host, seconds)
        self._pauses[host] = max(seconds, self._pauses.get(host, 0.0))

    async def _report(self, exchange: Exchange) -> None:
        """Report to the ledger what is wanted and running, and apply what it grants, until this task is cancelled."""
        while True:
            pauses, self._pauses = self._pauses, {}
            frontier = self._frontier
            report = Report(frontier.demand(), pauses, frontier.hosts_waiting(), len(self._tasks))
            try:
                grant = await exchange(self._name, report)
            except Exception:  # a lost ledger is started again; until then nothing more is granted
                self._pauses = pauses | self._pauses
            else:
                if self._fetchers > 1:
                    frontier.allow(grant.limits)
                # These include the pauses that fetchers of an earlier attempt were asked for.
                for host, seconds in grant.pauses.items():
                    frontier.pause(host, seconds)
                self._pump()
            hungry = frontier.starved and len(self._tasks) < self._options.fan_out
            at_leisure = _REPORT_SECONDS if self._fetchers > 1 else _ALONE_SECONDS
            await asyncio.sleep(_HUNGRY_SECONDS if hungry else at_leisure)
