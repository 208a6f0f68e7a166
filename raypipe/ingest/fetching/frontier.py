"""Which request may start next: pictures wait by host, and a host is asked only as much and as often as it may be."""

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
class Turn(Generic[Item]):
    """A request that starts now: it holds a place at `host` until `Frontier.done`.

    `pause` is set where the host has asked to be left alone for longer than anyone waits: then nothing is asked and
    no place is held; `pause` seconds are left.
    """

    host: str
    item: Item
    pause: float | None = None


@dataclass
class _Host(Generic[Item]):
    slots: int
    usual: float
    floor: float = 0.0
    ready: deque[Item] = field(default_factory=deque)
    later: list[tuple[float, int, Item]] = field(default_factory=list)
    active: int = 0
    next_at: float = 0.0
    paused_until: float = 0.0
    queued: bool = False
    timer: float = float("inf")

    @property
    def interval(self) -> float:
        return max(self.usual, self.floor)

    @property
    def waiting(self) -> int:
        return len(self.ready) + len(self.later)

    @property
    def idle(self) -> bool:
        return not (self.ready or self.later or self.active)


class Frontier(Generic[Item]):
    """Waiting requests of one fetcher, host by host.

    `per_host` requests at a time and `rate` a second (None: no limit) may go to one host; hosts take turns. Where the
    budget is shared with other fetchers (`shared`), a host may be asked only as much as `allow` has said last. Pauses
    longer than `max_wait` seconds are not waited out. All times are those of `clock`, in seconds.

    What it costs depends on the requests made, not on how many wait.
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
        self._hosts: dict[str, _Host[Item]] = {}
        self._turns: deque[str] = deque()
        self._timers: list[tuple[float, str]] = []
        self._wanting: OrderedDict[str, None] = OrderedDict()
        self._holding: set[str] = set()
        self._number = 0
        self._count, self._count_again_at = 0, 0.0
        self.waiting = 0

    def push(self, host: str, item: Item, delay: float = 0.0) -> None:
        """Let `item` wait for its turn at `host`, for `delay` seconds at least."""
        state = self._state(host)
        self.waiting += 1
        if delay > 0:
            self._number += 1
            heapq.heappush(state.later, (self._clock() + delay, self._number, item))
        else:
            state.ready.append(item)
        self._schedule(host, state)

    def pop(self) -> Turn[Item] | None:
        """The next request that may start now, None where none may."""
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            at, host = heapq.heappop(self._timers)
            state = self._hosts.get(host)
            if state is not None and state.timer == at:
                state.timer = float("inf")
                self._schedule(host, state)
        while self._turns:
            host = self._turns.popleft()
            state = self._hosts[host]
            state.queued = False
            turn = self._start(host, state, now)
            self._schedule(host, state)
            if turn is not None:
                return turn
        return None

    def done(self, host: str) -> None:
        """A request has ended: its place at `host` is free."""
        state = self._hosts[host]
        state.active -= 1
        self._schedule(host, state)

    def pause(self, host: str, seconds: float) -> None:
        """Leave a host alone for `seconds` from now, or for longer where it has been told so already."""
        state = self._state(host)
        state.paused_until = max(state.paused_until, self._clock() + seconds)
        self._schedule(host, state)

    def pace(self, host: str) -> float:
        """The interval that `slow_down` has set."""
        state = self._hosts.get(host)
        return 0.0 if state is None else state.floor

    def slow_down(self, host: str, interval: float) -> bool:
        """Let `interval` seconds at least pass between the starts of two requests to `host`; whether that is news."""
        state = self._state(host)
        news = interval > state.floor
        if news:
            before = state.interval
            state.floor = interval
            state.next_at += state.interval - before
        return news

    def next_at(self) -> float | None:
        """When, by the clock, something may start that cannot yet; None where only the end of a request helps."""
        if self._turns:
            return self._clock()
        while self._timers:
            at, host = self._timers[0]
            state = self._hosts.get(host)
            if state is not None and state.timer == at:
                return at
            heapq.heappop(self._timers)
        return None

    def hosts_waiting(self) -> int:
        """Hosts that have asked to be left alone, or are asked as fast as they may be, while something waits; as of a
        second ago at most.
        """
        now = self._clock()
        if now >= self._count_again_at:
            # A look at every host, so not at every report.
            self._count_again_at = now + _COUNT_SECONDS
            self._count = sum(
                1 for state in self._hosts.values() if state.waiting and max(state.next_at, state.paused_until) > now
            )
        return self._count

    def demand(self, most: int = 1024) -> dict[str, tuple[int, int]]:
        """What a shared budget is asked for: (requests wanted at a time, requests held) by host, for `most` hosts.

        Held is what runs, or may be started before the answer comes. Hosts that are not named are asked nothing until
        `allow` names them again.
        """
        wanted: dict[str, tuple[int, int]] = {}
        for host in list(self._holding):
            state = self._hosts.get(host)
            if state is not None and (state.active or (state.waiting and len(wanted) < most)):
                wanted[host] = (min(self._per_host, state.active + state.waiting), max(state.active, state.slots))
            else:
                self._holding.discard(host)
                if state is not None:
                    state.slots = 0
                    self._schedule(host, state)
        for host in list(islice(self._wanting, max(0, most - len(wanted)))):
            if host not in wanted:
                wanted[host] = (min(self._per_host, self._hosts[host].waiting), 0)
                self._wanting.move_to_end(host)
        return wanted

    def allow(self, limits: Mapping[str, tuple[int, float]]) -> None:
        """Take what a shared budget grants: (requests at a time, seconds between two starts) by host."""
        for host, (slots, interval) in limits.items():
            state = self._hosts.get(host)
            if state is None:
                continue
            state.slots = slots
            if slots or state.active:
                self._holding.add(host)
            before, state.usual = state.interval, interval if slots else state.usual
            state.next_at += max(0.0, state.interval - before)
            self._schedule(host, state)

    @property
    def starved(self) -> bool:
        """Whether a host with waiting requests has no place granted."""
        return bool(self._wanting)

    def _state(self, host: str) -> _Host[Item]:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host(self._slots, self._interval)
        return state

    def _start(self, host: str, state: _Host[Item], now: float) -> Turn[Item] | None:
        if not self._due(state, now):
            return None
        pause = state.paused_until - now
        if pause > self._max_wait:
            return Turn(host, self._take(state, now), pause)
        if state.active >= state.slots or max(state.next_at, state.paused_until) > now:
            return None
        state.active += 1
        state.next_at = max(state.next_at, now) + state.interval
        return Turn(host, self._take(state, now))

    def _take(self, state: _Host[Item], now: float) -> Item:
        self.waiting -= 1
        if state.later and state.later[0][0] <= now:
            return heapq.heappop(state.later)[2]
        return state.ready.popleft()

    @staticmethod
    def _due(state: _Host[Item], now: float) -> bool:
        return bool(state.ready) or bool(state.later and state.later[0][0] <= now)

    def _schedule(self, host: str, state: _Host[Item]) -> None:
        """Put a host where it belongs: among those whose turn may come, among the timers, or nowhere."""
        now = self._clock()
        if self._shared:
            if state.waiting and not state.slots:
                self._wanting[host] = None
            else:
                self._wanting.pop(host, None)
        if state.idle:
            if state.queued:
                return
            at = max(state.next_at, state.paused_until)
            if at <= now:
                del self._hosts[host]
            else:
                # Until then its pace and its pause are remembered, and no longer.
                self._wake_at(at, host, state)
            return
        if state.queued or not state.waiting:
            return
        item_at = now if state.ready else state.later[0][0]
        hopeless = state.paused_until - now > self._max_wait
        if not hopeless and state.active >= state.slots:
            return
        at = item_at if hopeless else max(item_at, state.next_at, state.paused_until)
        if at <= now:
            state.queued = True
            self._turns.append(host)
        else:
            self._wake_at(at, host, state)

    def _wake_at(self, at: float, host: str, state: _Host[Item]) -> None:
        if at < state.timer:
            state.timer = at
            heapq.heappush(self._timers, (at, host))
