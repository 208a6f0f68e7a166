"""The rules of a host for robots: robots.txt (RFC 9309) and the X-Robots-Tag header. Opens no connection itself."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from protego import Protego
from yarl import URL

READ_BYTES = 500 * 1024
"""Bytes of a robots.txt that are read. RFC 9309 (section 2.5) requires at least this number."""

_LONGEST_DELAY = 60.0
_VALID_SECONDS, _RETRY_SECONDS = 24 * 3600.0, 300.0
# Parsed rules take about 10 times the bytes of the file, and 120 times if the file is malicious.
_KEPT_BYTES, _LEAST_BYTES = 8 * 2**20, 1024

_AGENT_LINE = re.compile(r"\s*user(?:-|\s*)agent(?:\s*:|\s)\s*([^#]*)", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_.-]+")
_US, _OTHERS = "us", "others"
_COMPATIBLE = re.compile(r"\(compatible;\s*([^\s;/)]+)", re.IGNORECASE)

_FORBIDDING = ("noai", "noimageai", "noindex", "noimageindex", "none")
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_PREFIX = re.compile(r"\s*([\w.*-]*[a-z*][\w.*-]*)\s*:", re.IGNORECASE)

FetchRobots = Callable[[URL], Awaitable[tuple[int | None, bytes]]]
"""Fetches a robots.txt and follows redirects. Returns its HTTP status (None if there is no answer) and body."""


def product_token(user_agent: str) -> str:
    """Return a User-Agent's name in robots.txt: ``raypipe`` for ``raypipe/0.1.0 (+https://example.org)``.

    For a User-Agent like ``Mozilla/5.0 (compatible; Somebot/2.0)``, it is the name after ``compatible``.
    """
    named = _COMPATIBLE.search(user_agent)
    words = re.split(r"[\s/(;]", user_agent.strip(), maxsplit=1)
    return named[1] if named and words[0].lower() == "mozilla" else words[0]


def robots_url(url: URL) -> URL:
    """Return the URL of the robots.txt for `url`: the same scheme, host and port."""
    origin = url.origin()
    return (origin.with_port(None) if origin.is_default_port() else origin).with_path("/robots.txt")


class RobotsRules:
    """The rules of one robots.txt, from its HTTP `status` (None: no answer) and `body`.

    Follows RFC 9309 (section 2.3.1). 2xx: the rules in the first 500 KiB apply. 4xx: everything is allowed. Anything
    else: nothing is allowed, and `unreachable` is true. The group with the robot's full name applies, else the group
    ``*``. The longest matching rule decides. If an Allow and a Disallow are of the same length, the Allow decides.
    """

    def __init__(self, status: int | None, body: bytes = b"") -> None:
        found = status is not None and 200 <= status < 300
        self.status = status
        self.unreachable = not found and not (status is not None and 400 <= status < 500)
        self._text = body[:READ_BYTES].decode("utf-8-sig", errors="replace") if found else ""
        self._parsed: dict[str, Protego] = {}

    def allows(self, url: str, user_agent: str) -> bool:
        """Whether a robot with this User-Agent may fetch `url`."""
        return not self.unreachable and bool(self._rules_for(user_agent).can_fetch(url, _US))

    def _rules_for(self, user_agent: str) -> Protego:
        name = product_token(user_agent).lower()
        if name not in self._parsed:
            self._parsed = {
                name: Protego.parse("\n".join(_rename_agent(line, name) for line in self._text.splitlines()))
            }
        return self._parsed[name]

    def delay(self, user_agent: str) -> float | None:
        """Return the seconds between two requests that the host asks for, or None if it asks for no delay.

        It is the longer of Crawl-delay and Request-rate (whose time of day is ignored), but at most 60. Some hosts
        write a delay of one day to keep robots away. The right way to do this is a Disallow.
        """
        rules = self._rules_for(user_agent)
        rate = rules.request_rate(_US)
        delays = [rules.crawl_delay(_US) or 0.0, rate.seconds / rate.requests if rate else 0.0]
        longest = max((seconds for seconds in delays if seconds > 0), default=None)
        return None if longest is None else min(longest, _LONGEST_DELAY)


def _rename_agent(line: str, ours: str) -> str:
    # Protego also applies a group whose name is only a prefix of ours. It stores each rule once per robot of its group,
    # which grows with the square of the file's length. With only two names in the file, neither happens.
    found = _AGENT_LINE.match(line)
    value = found[1].strip().lower() if found else ""
    if value in ("", "*"):
        return line
    name = _NAME.match(value)
    return f"User-agent: {_US if name and name[0] == ours else _OTHERS}"


def forbidding_directive(values: Iterable[str], user_agent: str) -> str | None:
    """Return the directive of X-Robots-Tag headers that forbids keeping the picture, or None.

    Each value is a list of directives. An optional ``robot:`` limits the directives after it to that robot. Directives
    without a robot, or with ``*``, apply to all. ``noai``, ``noimageai``, ``noindex``, ``noimageindex`` and ``none``
    forbid.
    """
    ours = ("*", product_token(user_agent).lower())
    for value in values:
        robot = "*"
        for part in re.split("[,;]", value.lower()):
            rest = part
            while (prefix := _PREFIX.match(rest)) and prefix[1] not in _WITH_VALUE:
                robot, rest = prefix[1], rest[prefix.end() :]
            if robot in ours:
                for word in rest.split():
                    if word in _FORBIDDING:
                        return word
    return None


@dataclass
class _PendingFetch:
    task: asyncio.Task[RobotsRules]
    waiting: int = 0


class RobotsCache:
    """The rules of each origin (scheme, host, port). They are fetched once per day, also for many callers at a time.

    If a host could not be reached, its rules are fetched again after five minutes. Once the files add up to more than
    8 MiB, the least recently used rules are dropped. All calls must be made on one event loop. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cached: OrderedDict[URL, tuple[RobotsRules, float, int]] = OrderedDict()
        self._pending: dict[URL, _PendingFetch] = {}
        self._bytes = 0

    async def rules(self, url: URL, fetch: FetchRobots) -> RobotsRules:
        """Return the rules for `url`, fetched with `fetch` if they are not known. Raises what `fetch` raises."""
        robots_txt = robots_url(url)
        if known := self._cached.get(robots_txt):
            if self._clock() < known[1]:
                self._cached.move_to_end(robots_txt)
                return known[0]
            self._forget(robots_txt)
        pending = self._pending.get(robots_txt)
        if pending is None:
            pending = self._pending[robots_txt] = _PendingFetch(asyncio.create_task(self._fetch(robots_txt, fetch)))
        pending.waiting += 1
        try:
            # If one caller is cancelled, the others must still get the answer.
            return await asyncio.shield(pending.task)
        finally:
            pending.waiting -= 1
            if not pending.waiting:
                pending.task.cancel()
                self._pending.pop(robots_txt)

    async def _fetch(self, robots_txt: URL, fetch: FetchRobots) -> RobotsRules:
        status, body = await fetch(robots_txt)
        rules = RobotsRules(status, body)
        size = max(_LEAST_BYTES, min(len(body), READ_BYTES))
        valid = _RETRY_SECONDS if rules.unreachable else _VALID_SECONDS
        self._cached[robots_txt] = rules, self._clock() + valid, size
        self._bytes += size
        while self._bytes > _KEPT_BYTES:
            self._forget(next(iter(self._cached)))
        return rules

    def forget(self, url: URL) -> None:
        """Drop the rules for `url`, so that the next call of `rules` fetches them again."""
        if robots_url(url) in self._cached:
            self._forget(robots_url(url))

    def _forget(self, robots_txt: URL) -> None:
        self._bytes -= self._cached.pop(robots_txt)[2]
