"""One budget per host, shared by all fetchers of a run on all machines.

Each fetcher reports a few times per second what it wants and what it holds (`HostBudgets.exchange`). The answer says
what it may hold until its next report. A fetcher that is granted less may still hold more until it reports less. So
`HostBudgets` grants the others only what is left, so the sum never exceeds the budget, even if a report comes late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_ROTATION_SECONDS = 2.0
_FORGET_SECONDS = 60.0


@dataclass(frozen=True)
class BudgetReport:
    """A fetcher's report to `HostBudgets`.

    `demand` is (requests wanted at a time, requests held) by host; held requests run or may start at once. `pauses` is
    the seconds of pause, by host, that hosts have requested since the last report. `waiting` is the number of hosts
    that make requests wait. `running` is the number of requests in progress.
    """

    demand: Mapping[str, tuple[int, int]]
    pauses: Mapping[str, float] = field(default_factory=dict)
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class BudgetGrant:
    """The answer of `HostBudgets`. `limits` is (requests at a time, seconds between two starts) by wanted host.

    `pauses` is the seconds left, by host, of the pauses that any fetcher has reported since this fetcher's last report.
    """

    limits: dict[str, tuple[int, float]]
    pauses: dict[str, float]


@dataclass
class _FetcherState:
    reported_at: float
    report: BudgetReport = BudgetReport({})
    slots_held: dict[str, int] = field(default_factory=dict)
    pauses_sent_at: float = 0.0


class HostBudgets:
    """Grants each host at most `per_host` requests at a time and `rate` per second (None: no limit), over all fetchers.

    A fetcher that has not reported for `forget_seconds` is dropped, and its slots are free. An object that replaces a
    lost one does not know the other fetchers yet. So for `grace` seconds each fetcher keeps what it holds and gets no
    more. `clock` returns seconds.
    """

    def __init__(
        self,
        per_host: int,
        rate: float | None = None,
        *,
        forget_seconds: float = _FORGET_SECONDS,
        grace: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_host = per_host
        self._rate = rate
        self._forget_seconds = forget_seconds
        self._clock = clock
        self._strict_until = clock() + grace
        self._fetchers: dict[str, _FetcherState] = {}
        self._pauses: dict[str, tuple[float, float]] = {}

    def exchange(self, fetcher: str, report: BudgetReport) -> BudgetGrant:
        """Take a fetcher's report. Returns what it may do until its next report."""
        now = self._clock()
        self._drop_expired(now)
        state = self._fetchers.setdefault(fetcher, _FetcherState(now))
        state.reported_at, state.report = now, report
        for host, seconds in report.pauses.items():
            until = max(now + seconds, self._pauses.get(host, (0.0, 0.0))[0])
            self._pauses[host] = (until, now)
        limits = {host: self._limit(fetcher, host, now) for host in report.demand}
        state.slots_held = {host: max(slots, report.demand[host][1]) for host, (slots, _) in limits.items()}
        new_pauses = {
            host: until - now
            for host, (until, reported_at) in self._pauses.items()
            if until > now and reported_at >= state.pauses_sent_at
        }
        state.pauses_sent_at = now
        return BudgetGrant(limits, new_pauses)

    def clear(self) -> None:
        """Free the slots of all fetchers, because they have ended. The pauses of hosts stay."""
        self._fetchers.clear()

    def totals(self) -> tuple[int, int]:
        """Return (hosts that make requests wait, requests in progress), over all fetchers."""
        reports = [fetcher.report for fetcher in self._fetchers.values()]
        return sum(r.waiting for r in reports), sum(r.running for r in reports)

    def _limit(self, fetcher: str, host: str, now: float) -> tuple[int, float]:
        demand = {name: f.report.demand[host][0] for name, f in self._fetchers.items() if host in f.report.demand}
        fair = fair_shares(self._per_host, demand, int(now / _ROTATION_SECONDS))[fetcher]
        others = sum(f.slots_held.get(host, 0) for name, f in self._fetchers.items() if name != fetcher)
        most = self._per_host - others if now >= self._strict_until else self._fetchers[fetcher].report.demand[host][1]
        slots = max(0, min(fair, most))
        if self._rate is None:
            return slots, 0.0
        return slots, self._per_host / (self._rate * slots) if slots else 0.0

    def _drop_expired(self, now: float) -> None:
        for name in [name for name, f in self._fetchers.items() if now - f.reported_at > self._forget_seconds]:
            del self._fetchers[name]
        for host in [host for host, (until, _) in self._pauses.items() if until <= now]:
            del self._pauses[host]


def fair_shares(total: int, demand: Mapping[str, int], rotation: int = 0) -> dict[str, int]:
    """Share `total` slots evenly, in the order of names, until all demand is met. `rotation` changes the first name."""
    names = sorted(demand)
    first = rotation % len(names) if names else 0
    order = names[first:] + names[:first]
    shares = dict.fromkeys(names, 0)
    left = total
    while left and (unmet := [name for name in order if shares[name] < demand[name]]):
        each = max(1, left // len(unmet))
        for name in unmet:
            more = min(each, demand[name] - shares[name], left)
            shares[name] += more
            left -= more
    return shares
