"""Decides which request may start next. Requests wait per host, and each host has limits on number and rate."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")

_COUNT_SECONDS = 1.0


@dataclass(frozen=True)
class ReadyRequest(Generic[Item]):
    """A request that starts now. It holds a slot at `host` until `HostQueues.release`.

    `pause` is set if the host has asked for a pause that is longer than `max_wait`. Then the request must not be sent,
    and it holds no slot. `pause` is the number of seconds that are left.
    """

    host: str
    item: Item
    pause: float | None = None


@dataclass
class _HostQueue(Generic[Item]):
    slots: int
    granted_interval: float
    min_interval: float = 0.0
    ready: deque[Item] = field(default_factory=deque)
    delayed: list[tuple[float, int, Item]] = field(default_factory=list)
    active: int = 0
    next_at: float = 0.0
    paused_until: float = 0.0
    queued: bool = False
    timer: float = float("inf")

    @property
    def interval(self) -> float:
        return max(self.granted_interval, self.min_interval)

    @property
    def waiting(self) -> int:
        return len(self.ready) + len(self.delayed)

    @property
    def idle(self) -> bool:
        return not (self.ready or self.delayed or self.active)


class HostQueues(Generic[Item]):
    """Waiting requests of one fetcher, by host.

    At most `per_host` requests at a time and `rate` per second (None: no limit) go to one host. Hosts take turns. If
    the budget is `shared` with other fetchers, a host gets only what the last `apply_limits` granted. Requests do not
    wait for pauses over `max_wait` seconds. All times are seconds of `clock`.

    The cost depends on the number of requests made, not on the number that wait.
    """

    def __init__(
        self,
        per_host: int,
        rate: float | None = None,
        max_wait: float = 300.0,
        *,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_host = per_host
        self._slots = 0 if shared else per_host
        self._interval = 1.0 / rate if rate else 0.0
        self._max_wait = max_wait
        self._shared = shared
        self._clock = clock
        self._hosts: dict[str, _HostQueue[Item]] = {}
        self._ready_hosts: deque[str] = deque()
        self._timers: list[tuple[float, str]] = []
        self._hosts_without_slots: OrderedDict[str, None] = OrderedDict()
        self._hosts_with_slots: set[str] = set()
        self._number = 0
        self._count, self._count_again_at = 0, 0.0
        self.waiting = 0

    def push(self, host: str, item: Item, delay: float = 0.0) -> None:
        """Queue `item` for `host`. It starts after `delay` seconds at the earliest."""
        state = self._state(host)
        self.waiting += 1
        if delay > 0:
            self._number += 1
            heapq.heappush(state.delayed, (self._clock() + delay, self._number, item))
        else:
            state.ready.append(item)
        self._schedule(host, state)

    def pop(self) -> ReadyRequest[Item] | None:
        """Return the next request that may start now, or None if there is none."""
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            at, host = heapq.heappop(self._timers)
            state = self._hosts.get(host)
            if state is not None and state.timer == at:
                state.timer = float("inf")
                self._schedule(host, state)
        while self._ready_hosts:
            host = self._ready_hosts.popleft()
            state = self._hosts[host]
            state.queued = False
            ready_request = self._start(host, state, now)
            self._schedule(host, state)
            if ready_request is not None:
                return ready_request
        return None

    def release(self, host: str) -> None:
        """Free the slot at `host` of a request that has ended."""
        state = self._hosts[host]
        state.active -= 1
        self._schedule(host, state)

    def pause(self, host: str, seconds: float) -> None:
        """Start no requests to `host` for `seconds` from now. A longer pause that is already set stays."""
        state = self._state(host)
        state.paused_until = max(state.paused_until, self._clock() + seconds)
        self._schedule(host, state)

    def crawl_interval(self, host: str) -> float:
        """Return the interval that `raise_interval` has set, or 0."""
        state = self._hosts.get(host)
        return 0.0 if state is None else state.min_interval

    def raise_interval(self, host: str, interval: float) -> bool:
        """Raise the minimum seconds between request starts at `host` to `interval`. Returns whether it was lower."""
        state = self._state(host)
        is_longer = interval > state.min_interval
        if is_longer:
            before = state.interval
            state.min_interval = interval
            state.next_at += state.interval - before
        return is_longer

    def next_at(self) -> float | None:
        """Return the clock time when `pop` may next succeed, or None if nothing waits or a request must end first."""
        if self._ready_hosts:
            return self._clock()
        while self._timers:
            at, host = self._timers[0]
            state = self._hosts.get(host)
            if state is not None and state.timer == at:
                return at
            heapq.heappop(self._timers)
        return None

    def hosts_waiting(self) -> int:
        """Count the hosts that have waiting requests and are paused or at their rate limit. At most one second old."""
        now = self._clock()
        if now >= self._count_again_at:
            # This visits every host, so it is not done at every report.
            self._count_again_at = now + _COUNT_SECONDS
            self._count = sum(
                1 for state in self._hosts.values() if state.waiting and max(state.next_at, state.paused_until) > now
            )
        return self._count

    def demand(self, max_hosts: int = 1024) -> dict[str, tuple[int, int]]:
        """Return the demand for a shared budget, for `max_hosts` hosts: (simultaneous requests, requests held) by host.

        Held requests run, or may start before the answer comes. Hosts that are not in the result get no requests until
        `apply_limits` names them again. Hosts with running requests are always in the result.
        """
        wanted: dict[str, tuple[int, int]] = {}
        for host in list(self._hosts_with_slots):
            state = self._hosts.get(host)
            if state is not None and (state.active or (state.waiting and len(wanted) < max_hosts)):
                wanted[host] = (min(self._per_host, state.active + state.waiting), max(state.active, state.slots))
            else:
                self._hosts_with_slots.discard(host)
                if state is not None:
                    state.slots = 0
                    self._schedule(host, state)
        for host in list(islice(self._hosts_without_slots, max(0, max_hosts - len(wanted)))):
            if host not in wanted:
                wanted[host] = (min(self._per_host, self._hosts[host].waiting), 0)
                self._hosts_without_slots.move_to_end(host)
        return wanted

    def apply_limits(self, limits: Mapping[str, tuple[int, float]]) -> None:
        """Apply what a shared budget grants: (requests at a time, seconds between two starts) by host."""
        for host, (slots, interval) in limits.items():
            state = self._hosts.get(host)
            if state is None:
                continue
            state.slots = slots
            if slots or state.active:
                self._hosts_with_slots.add(host)
            before, state.granted_interval = state.interval, interval if slots else state.granted_interval
            state.next_at += max(0.0, state.interval - before)
            self._schedule(host, state)

    @property
    def lacks_slots(self) -> bool:
        """Whether a host with waiting requests has no slot granted."""
        return bool(self._hosts_without_slots)

    def _state(self, host: str) -> _HostQueue[Item]:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _HostQueue(self._slots, self._interval)
        return state

    def _start(self, host: str, state: _HostQueue[Item], now: float) -> ReadyRequest[Item] | None:
        if not self._has_due_item(state, now):
            return None
        pause = state.paused_until - now
        if pause > self._max_wait:
            return ReadyRequest(host, self._take(state, now), pause)
        if state.active >= state.slots or max(state.next_at, state.paused_until) > now:
            return None
        state.active += 1
        state.next_at = max(state.next_at, now) + state.interval
        return ReadyRequest(host, self._take(state, now))

    def _take(self, state: _HostQueue[Item], now: float) -> Item:
        self.waiting -= 1
        if state.delayed and state.delayed[0][0] <= now:
            return heapq.heappop(state.delayed)[2]
        return state.ready.popleft()

    @staticmethod
    def _has_due_item(state: _HostQueue[Item], now: float) -> bool:
        return bool(state.ready) or bool(state.delayed and state.delayed[0][0] <= now)

    def _schedule(self, host: str, state: _HostQueue[Item]) -> None:
        """Queue the host as ready, set its timer, or forget it if it is idle and has no pause."""
        now = self._clock()
        if self._shared:
            if state.waiting and not state.slots:
                self._hosts_without_slots[host] = None
            else:
                self._hosts_without_slots.pop(host, None)
        if state.idle:
            if state.queued:
                return
            at = max(state.next_at, state.paused_until)
            if at <= now:
                del self._hosts[host]
            else:
                # The host's interval and pause are kept until then.
                self._wake_at(at, host, state)
            return
        if state.queued or not state.waiting:
            return
        item_at = now if state.ready else state.delayed[0][0]
        exceeds_max_wait = state.paused_until - now > self._max_wait
        if not exceeds_max_wait and state.active >= state.slots:
            return
        at = item_at if exceeds_max_wait else max(item_at, state.next_at, state.paused_until)
        if at <= now:
            state.queued = True
            self._ready_hosts.append(host)
        else:
            self._wake_at(at, host, state)

    def _wake_at(self, at: float, host: str, state: _HostQueue[Item]) -> None:
        if at < state.timer:
            state.timer = at
            heapq.heappush(self._timers, (at, host))
