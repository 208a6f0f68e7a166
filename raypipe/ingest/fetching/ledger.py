"""One budget per host, shared by all fetchers of a run on all machines.

Each fetcher reports a few times per second what it wants and what it holds (`HostLedger.exchange`). The answer says
what it may hold until its next report. A fetcher that is granted less may still hold more until it reports less. The
ledger grants the others only what is left, so the sum never exceeds the budget, even if a report comes late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_ROTATION_SECONDS = 2.0
_FORGET_SECONDS = 60.0


@dataclass(frozen=True)
class Report:
    """A fetcher's report to the ledger.

    `wants` is (requests wanted at a time, requests held) by host; held requests run or may start at once. `pauses` is
    the seconds, by host, for which hosts asked to be left alone since the last report. `waiting` is the number of hosts
    that make requests wait. `running` is the number of requests in progress.
    """

    wants: Mapping[str, tuple[int, int]]
    pauses: Mapping[str, float] = field(default_factory=dict)
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class Grant:
    """The ledger's answer. `limits` is (requests at a time, seconds between two starts) by wanted host. `pauses` is the
    seconds left, by host, of the pauses that any fetcher has reported since this fetcher's last report.
    """

    limits: dict[str, tuple[int, float]]
    pauses: dict[str, float]


@dataclass
class _Fetcher:
    heard: float
    report: Report = Report({})
    holds: dict[str, int] = field(default_factory=dict)
    told: float = 0.0


class HostLedger:
    """Grants each host at most `per_host` requests at a time and `rate` per second (None: no limit), over all fetchers.

    A fetcher that has not reported for `forget` seconds is dropped, and its slots are free. A ledger that replaces a
    lost one does not know the other fetchers yet. So for `grace` seconds each fetcher keeps what it holds and gets no
    more. `clock` returns seconds.
    """

    def __init__(
        self,
        per_host: int,
        rate: float | None = None,
        *,
        forget: float = _FORGET_SECONDS,
        grace: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_host = per_host
        self._rate = rate
        self._forget = forget
        self._clock = clock
        self._strict_until = clock() + grace
        self._fetchers: dict[str, _Fetcher] = {}
        self._pauses: dict[str, tuple[float, float]] = {}

    def exchange(self, fetcher: str, report: Report) -> Grant:
        """Take a fetcher's report. Returns what it may do until its next report."""
        now = self._clock()
        self._drop_the_gone(now)
        me = self._fetchers.setdefault(fetcher, _Fetcher(now))
        me.heard, me.report = now, report
        for host, seconds in report.pauses.items():
            until = max(now + seconds, self._pauses.get(host, (0.0, 0.0))[0])
            self._pauses[host] = (until, now)
        limits = {host: self._limit(fetcher, host, now) for host in report.wants}
        me.holds = {host: max(slots, report.wants[host][1]) for host, (slots, _) in limits.items()}
        news = {host: until - now for host, (until, heard) in self._pauses.items() if until > now and heard >= me.told}
        me.told = now
        return Grant(limits, news)

    def clear(self) -> None:
        """Free the slots of all fetchers, because they have ended. The pauses of hosts stay."""
        self._fetchers.clear()

    def totals(self) -> tuple[int, int]:
        """Return (hosts that make requests wait, requests in progress), over all fetchers."""
        reports = [fetcher.report for fetcher in self._fetchers.values()]
        return sum(r.waiting for r in reports), sum(r.running for r in reports)

    def _limit(self, fetcher: str, host: str, now: float) -> tuple[int, float]:
        wants = {name: f.report.wants[host][0] for name, f in self._fetchers.items() if host in f.report.wants}
        fair = fair_shares(self._per_host, wants, int(now / _ROTATION_SECONDS))[fetcher]
        others = sum(f.holds.get(host, 0) for name, f in self._fetchers.items() if name != fetcher)
        most = self._per_host - others if now >= self._strict_until else self._fetchers[fetcher].report.wants[host][1]
        slots = max(0, min(fair, most))
        if self._rate is None:
            return slots, 0.0
        return slots, self._per_host / (self._rate * slots) if slots else 0.0

    def _drop_the_gone(self, now: float) -> None:
        for name in [name for name, f in self._fetchers.items() if now - f.heard > self._forget]:
            del self._fetchers[name]
        for host in [host for host, (until, _) in self._pauses.items() if until <= now]:
            del self._pauses[host]


def fair_shares(total: int, wants: Mapping[str, int], turn: int = 0) -> dict[str, int]:
    """Deal out `total` slots in turn, in the order of names, until all wants are met. `turn` rotates the first name."""
    names = sorted(wants)
    first = turn % len(names) if names else 0
    order = names[first:] + names[:first]
    shares = dict.fromkeys(names, 0)
    left = total
    while left and (hungry := [name for name in order if shares[name] < wants[name]]):
        each = max(1, left // len(hungry))
        for name in hungry:
            more = min(each, wants[name] - shares[name], left)
            shares[name] += more
            left -= more
    return shares
