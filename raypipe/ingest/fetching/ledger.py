"""One budget for each host, shared by all fetchers of a run, wherever they are.

Each fetcher reports a few times a second what it wants and what it holds (`HostLedger.exchange`), and is told what it
may hold until the next time. Told less, it may still hold more until it has reported so: the ledger hands out only
what is left beside that, and the sum never exceeds the budget, however late a report comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_ROTATION_SECONDS = 2.0
_FORGET_SECONDS = 60.0


@dataclass(frozen=True)
class Report:
    """What a fetcher tells the ledger.

    `wants` is (requests wanted at a time, requests held) by host, where held is what runs or may start at once;
    `pauses` are seconds for which hosts asked to be
    left alone, heard since the last report; `waiting` hosts hold requests up, `running` requests are on their way.
    """

    wants: Mapping[str, tuple[int, int]]
    pauses: Mapping[str, float] = field(default_factory=dict)
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class Grant:
    """What the ledger answers: (requests at a time, seconds between two starts) by host wanted, and the seconds for
    which other fetchers have been asked to leave hosts alone.
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
    """`per_host` requests at a time and `rate` a second (None: no limit) to each host, over all fetchers.

    A fetcher that has not reported for `forget` seconds is gone, and so is what it held. A ledger that takes the place
    of one that was lost knows nothing yet: for `grace` seconds it leaves every fetcher what it holds and no more.
    `clock` is in seconds.
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
        """Take a fetcher's report; what it may do until its next."""
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
        """All fetchers have ended: what they held is free. What hosts have asked for still holds."""
        self._fetchers.clear()

    def totals(self) -> tuple[int, int]:
        """(hosts that hold requests up, requests on their way), over all fetchers."""
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
    """`total` places dealt one by one in the order of names until all wants are met; `turn` says who comes first."""
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
