"""The host name of a URL, and the seconds to wait before the next request to a host."""

from __future__ import annotations

import email.utils
import random
from datetime import UTC, datetime
from urllib.parse import urlsplit

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


def host_of(url: str) -> str | None:
    """Return the host of a URL, by which requests are counted and limited, or None if there is none."""
    try:
        host = urlsplit(url.strip()).hostname
    except (ValueError, AttributeError):
        return None
    return host.rstrip(".") or None if host else None


def backoff(attempt: int) -> float:
    """Return the seconds to wait after failure `attempt` (from 1): doubling, capped, times a jitter of 0.5 to 1.5."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (seconds or an HTTP date, RFC 9110 section 10.2.3), or
    None if there is no header or it cannot be parsed.
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
