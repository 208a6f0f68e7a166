"""Exceptions are mapped to statuses of `images/`."""

from __future__ import annotations

import aiohttp
import pytest

from raypipe.ingest.fetching.answers import for_exception


@pytest.mark.parametrize(
    ("error", "expected", "again"),
    [
        (aiohttp.SocketTimeoutError("slow"), "timeout", True),
        (aiohttp.ServerDisconnectedError(), "connection", True),
        (ConnectionResetError(), "connection", True),
        (aiohttp.InvalidURL("x"), "invalid_url", False),
        (KeyError("surprise"), "connection", False),
    ],
)
def test_exceptions_are_mapped_to_statuses(error: Exception, expected: str, again: bool) -> None:
    answer = for_exception(error)
    assert (answer.status, answer.again) == (expected, again)
    assert answer.error
