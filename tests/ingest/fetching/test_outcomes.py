"""Exceptions are mapped to statuses of `images/`."""

from __future__ import annotations

import aiohttp
import pytest

from raypipe.ingest.fetching.outcomes import outcome_for_exception


@pytest.mark.parametrize(
    ("error", "expected", "retryable"),
    [
        (aiohttp.SocketTimeoutError("slow"), "timeout", True),
        (aiohttp.ServerDisconnectedError(), "connection", True),
        (ConnectionResetError(), "connection", True),
        (aiohttp.InvalidURL("x"), "invalid_url", False),
        (KeyError("surprise"), "connection", False),
    ],
)
def test_exceptions_are_mapped_to_statuses(error: Exception, expected: str, retryable: bool) -> None:
    answer = outcome_for_exception(error)
    assert (answer.status, answer.retryable) == (expected, retryable)
    assert answer.error
