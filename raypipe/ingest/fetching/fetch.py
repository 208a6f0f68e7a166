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
from raypipe.ingest.fetching.budgets import BudgetGrant, BudgetReport
from raypipe.ingest.fetching.client import FetchRequest, FetchResult, OnResult, PictureClient
from raypipe.ingest.fetching.guard import AddressGuard
from raypipe.ingest.fetching.host_queues import HostQueues, ReadyRequest
from raypipe.ingest.fetching.hosts import backoff
from raypipe.ingest.fetching.outcomes import RequestOutcome, outcome_for_exception

# Seconds between a fetcher's reports to a shared budget: normally, while a host waits for its first slot, and if there
# is no other fetcher and the report is only for the display.
_REPORT_SECONDS, _URGENT_REPORT_SECONDS, _SINGLE_REPORT_SECONDS = 0.25, 0.05, 1.0

ExchangeReport = Callable[[str, BudgetReport], Awaitable[BudgetGrant]]
"""Sends a report to `HostBudgets.exchange`, in this process or another."""


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
        exchange: ExchangeReport | None = None,
        fetchers: int = 1,
        resolver: AbstractResolver | None = None,
        guard: AddressGuard | None = None,
        on_error: Callable[[BaseException], None] = _raise,
    ) -> None:
        self._options = options
        self._client = PictureClient(options, resolver, guard)
        self._exchange, self._fetchers = exchange, fetchers
        shared = exchange is not None and fetchers > 1
        self._host_queues: HostQueues[FetchRequest] = HostQueues(
            options.per_host, options.per_host_rate, options.max_wait, shared=shared
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._on_error = on_error
        self._name = uuid.uuid4().hex
        self._reporter: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        if self._exchange is not None:
            self._reporter = asyncio.create_task(self._report(self._exchange))
            self._reporter.add_done_callback(self._check_task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Tasks that end now must not start new ones.
        self._paused = True
        ending = [*self._tasks, *([self._reporter] if self._reporter else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._exchange is not None:
            # An empty report frees this fetcher's slots for the others.
            with contextlib.suppress(Exception):
                await self._exchange(self._name, BudgetReport({}, self._pauses))
        await self._client.__aexit__(kind, error, trace)

    @property
    def hosts_waiting(self) -> int:
        """Number of hosts that have waiting requests and are paused or at their rate limit."""
        return self._host_queues.hosts_waiting()

    def submit(self, posts: Iterable[tuple[str, str]], on_result: OnResult) -> None:
        """Queue the pictures of (post_id, url). `on_result` is called with each result, on this event loop."""
        for post_id, url in posts:
            request = FetchRequest(post_id, url, on_result)
            self._host_queues.push(request.host or "", request)
        self._start_requests()

    def set_paused(self, paused: bool) -> None:
        """Start no more requests (`paused`), because results are not consumed fast enough, or start them again."""
        self._paused = paused
        self._start_requests()

    async def fetch_many(self, posts: Sequence[tuple[str, str]]) -> list[FetchResult]:
        """Fetch pictures of (post_id, url), in any order. Returns one result each, in the given order. Never raises."""
        return list(await asyncio.gather(*(self.fetch(post_id, url) for post_id, url in posts)))

    async def fetch(self, post_id: str, url: str) -> FetchResult:
        """Fetch one picture, with retries after errors that may be temporary."""
        future: asyncio.Future[FetchResult] = asyncio.get_running_loop().create_future()
        self.submit([(post_id, url)], lambda result: None if future.done() else future.set_result(result))
        return await future

    def _start_requests(self) -> None:
        """Start all requests that may start now, and set a timer for the next one."""
        while not self._paused and len(self._tasks) < self._options.fan_out:
            ready_request = self._host_queues.pop()
            if ready_request is None:
                break
            if ready_request.pause is not None:
                self._deliver_paused(ready_request)
                continue
            task = asyncio.create_task(self._run_request(ready_request.host, ready_request.item))
            task.add_done_callback(self._check_task)
            self._tasks.add(task)
        at = self._host_queues.next_at()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None and len(self._tasks) < self._options.fan_out and not self._paused:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        try:
            self._start_requests()
        except Exception as error:
            self._on_error(error)

    def _check_task(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._on_error(error)

    async def _run_request(self, host: str, request: FetchRequest) -> None:
        started = time.monotonic()
        try:
            outcome = await self._send(host, request)
        except TimeoutError as error:
            whole = request.seconds_used + time.monotonic() - started >= self._options.deadline * 0.999
            text = f"no complete answer within {self._options.deadline:g} s" if whole else one_line(error)
            outcome = RequestOutcome("timeout", text or "no answer in time", retryable=True)
        except Exception as error:
            outcome = outcome_for_exception(error)
        finally:
            spent = time.monotonic() - started
            request.seconds_used += spent
            request.seconds += spent
            current = asyncio.current_task()
            if current is not None:
                self._tasks.discard(current)
            self._host_queues.release(host)
        self._handle_outcome(host, request, outcome)
        self._start_requests()

    def _handle_outcome(self, host: str, request: FetchRequest, outcome: RequestOutcome) -> None:
        """Retry, follow a redirect, or deliver the result."""
        if outcome.target is not None:
            request.target = outcome.target
            self._host_queues.push((outcome.target.host or "").rstrip("."), request)
        elif outcome.retryable and request.attempts < self._options.attempts:
            request.outcome = outcome
            # The backoff applies in addition to a pause that the host asks for, which may be 0 seconds.
            request.reset()
            self._host_queues.push(request.host or host, request, backoff(request.attempts))
        else:
            self._deliver(request, outcome)

    def _deliver_paused(self, ready_request: ReadyRequest[FetchRequest]) -> None:
        asked = f"{ready_request.host} requested a pause ({ready_request.pause:.0f} s are left)"
        last = ready_request.item.outcome
        # If this request has had an answer, its status is more useful than ``rate_limited``.
        outcome = (
            RequestOutcome("rate_limited", asked)
            if last is None
            else RequestOutcome(last.status, f"{last.error}; {asked}")
        )
        self._deliver(ready_request.item, outcome)

    def _deliver(self, request: FetchRequest, outcome: RequestOutcome) -> None:
        request.on_result(
            FetchResult(
                request.post_id,
                request.url,
                outcome.status,
                request.http_status,
                request.attempts,
                outcome.error,
                request.host,
                request.answered_at,
                outcome.body,
                request.seconds,
            )
        )

    async def _send(self, host: str, request: FetchRequest) -> RequestOutcome:
        target = request.target or self._client.guard.check_url(request.url)
        name = (target.host or "").rstrip(".")
        if name != host:
            # `host_of`, which chose the queue, read another host from the URL. Queue it again under this one.
            return RequestOutcome("redirects", target=target)
        crawl_interval = self._host_queues.crawl_interval(host)
        rules = await self._client.rules(target)
        if rules is not None:
            if pause_left := self._client.robots_pause(target):
                # The answer to robots.txt is forgotten now, so it is requested again after the pause.
                request.attempts += 1
                self._pause_host(host, pause_left)
                return RequestOutcome(
                    "server_error", f"{host} answers robots.txt with Retry-After: {pause_left:.0f} s", retryable=True
                )
            if rules.unreachable:
                kind = "connection" if rules.status is None else "server_error"
                said = "no answer" if rules.status is None else f"HTTP {rules.status}"
                return RequestOutcome(
                    kind, f"robots.txt of {host} cannot be read ({said}), so nothing is requested there"
                )
            delay = (rules.delay(self._client.agent) or 0.0) * self._fetchers
            if not self._host_queues.raise_interval(host, delay) and delay > crawl_interval:
                # The request started before this host's delay was known, so it is queued again.
                return RequestOutcome("redirects", target=target)
            if not rules.allows(str(target), self._client.agent):
                return RequestOutcome(
                    "forbidden", f"robots.txt of {host} disallows it (--ingest.robots false ignores it)"
                )
        request.attempts += not request.n_redirects
        request.answered_at = request.http_status = None
        outcome = await self._client.get(target, request)
        if request.http_status == 429 and request.pause is None:
            request.pause = backoff(request.attempts)
        if request.pause is not None:
            self._pause_host(host, request.pause)
        return outcome

    def _pause_host(self, host: str, seconds: float) -> None:
        self._host_queues.pause(host, seconds)
        self._pauses[host] = max(seconds, self._pauses.get(host, 0.0))

    async def _report(self, exchange: ExchangeReport) -> None:
        """Report what is wanted and running, and apply what is granted, until this task is cancelled."""
        while True:
            pauses, self._pauses = self._pauses, {}
            host_queues = self._host_queues
            report = BudgetReport(host_queues.demand(), pauses, host_queues.hosts_waiting(), len(self._tasks))
            try:
                grant = await exchange(self._name, report)
            except Exception:  # a lost actor is started again; until then nothing more is granted
                self._pauses = pauses | self._pauses
            else:
                if self._fetchers > 1:
                    host_queues.apply_limits(grant.limits)
                # These include the pauses that fetchers of an earlier attempt reported.
                for host, seconds in grant.pauses.items():
                    host_queues.pause(host, seconds)
                self._start_requests()
            needs_slots = host_queues.lacks_slots and len(self._tasks) < self._options.fan_out
            normal_seconds = _REPORT_SECONDS if self._fetchers > 1 else _SINGLE_REPORT_SECONDS
            await asyncio.sleep(_URGENT_REPORT_SECONDS if needs_slots else normal_seconds)
