"""Host names in URLs, and Retry-After in answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.fetching.hosts import backoff, host_of, retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (" 30 ", 30.0),
        ("-3", 0.0),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90.0),
        ("Sun Mar  1 12:01:30 2026", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_any_retry_after_text_is_handled(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.COM/a.jpg", "example.com"),
        ("https://example.com./a.jpg", "example.com"),
        (" http://user@h:81/ ", "h"),
        ("http://[::1]/x", "::1"),
        ("http://[broken/x", None),
        ("no url", None),
        ("", None),
    ],
)
def test_host_is_read_from_url(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_waits_double_with_jitter_up_to_a_limit() -> None:
    for attempt, middle in ((1, 0.5), (2, 1.0), (3, 2.0), (20, 30.0)):
        waits = {backoff(attempt) for _ in range(200)}
        assert min(waits) >= 0.5 * middle
        assert max(waits) <= 1.5 * middle
        assert len(waits) > 100
