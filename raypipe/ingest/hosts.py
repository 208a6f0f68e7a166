"""How much is asked of one host at a time: concurrent requests, requests a second, and pauses it has asked for."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime


class HostPausedError(Exception):
    """A host has asked to be left alone for longer than anyone here waits; `seconds` are left."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"{host} has asked to be left alone for another {seconds:.0f} s")
        self.seconds = seconds


@dataclass
class _Host:
    slots: asyncio.Semaphore
    users: int = 0
    next_at: float = 0.0
    paused_until: float = 0.0

    @property
    def free_at(self) -> float:
        return max(self.next_at, self.paused_until)


class HostBudget:
    """Turns at hosts, for one event loop.

    At most `fan_out` requests at a time in all, `per_host` to one host, and `rate` a second to one host (None: no
    limit). What waits for its host holds none of the `fan_out`, so other hosts go on. Pauses longer than `max_wait`
    seconds are not waited out.
    """

    def __init__(self, fan_out: int, per_host: int, rate: float | None, max_wait: float) -> None:
        self._fan_out = asyncio.Semaphore(fan_out)
        self._per_host = per_host
        self._interval = 1.0 / rate if rate else 0.0
        self._max_wait = max_wait
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Hold one request's place at a host; raises HostPausedError."""
        state = self._hosts.setdefault(host, _Host(asyncio.Semaphore(self._per_host)))
        state.users += 1
        try:
            async with state.slots:
                await self._start(host, state)
                try:
                    yield
                finally:
                    self._fan_out.release()
        finally:
            state.users -= 1
            if not state.users and state.free_at <= time.monotonic():
                del self._hosts[host]

    async def _start(self, host: str, state: _Host) -> None:
        while True:
            while (wait := state.free_at - time.monotonic()) > 0:
                pause = state.paused_until - time.monotonic()
                if pause > self._max_wait:
                    raise HostPausedError(host, pause)
                await asyncio.sleep(wait)
            await self._fan_out.acquire()
            # The host may have been paused, or another request may have taken this second, meanwhile.
            if state.free_at <= time.monotonic():
                state.next_at = time.monotonic() + self._interval
                return
            self._fan_out.release()

    def pause(self, host: str, seconds: float) -> None:
        """Leave a host alone for `seconds` from now, or for longer where it has been told so already."""
        state = self._hosts.setdefault(host, _Host(asyncio.Semaphore(self._per_host)))
        state.paused_until = max(state.paused_until, time.monotonic() + seconds)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (seconds or an HTTP date, RFC 9110 section 10.2.3), None where it
    asks for nothing that can be understood.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        seconds = (then - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
