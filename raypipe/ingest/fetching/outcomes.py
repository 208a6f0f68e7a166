"""Outcomes of a request: the statuses of `images/` for HTTP statuses and for exceptions."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import aiohttp
from yarl import URL

from raypipe.errors import one_line
from raypipe.ingest.fetching.guard import REFUSED_ERRNO, RefusedURLError

REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """The outcome of one request.

    `status` is a status of `images/`; ``ok`` means that `body` is complete. `retryable` says whether a retry may help.
    `target` is set if the request must continue at that URL.
    """

    status: str
    error: str | None = None
    body: bytes | None = None
    retryable: bool = False
    target: URL | None = None


def outcome_for_status(status: int, reason: str | None) -> RequestOutcome:
    """Return the outcome for an HTTP status that is neither 200 nor a redirect with a Location."""
    error = f"HTTP {status} {reason or ''}".strip()
    if status in (404, 410):
        return RequestOutcome("gone", error)
    if status == 429:
        return RequestOutcome("rate_limited", error, retryable=True)
    if status == 408:
        return RequestOutcome("timeout", error, retryable=True)
    if status >= 500:
        return RequestOutcome("server_error", error, retryable=True)
    if status >= 400:
        return RequestOutcome("forbidden", error)
    if status >= 300:
        return RequestOutcome("redirects", f"{error}, without a Location header")
    return RequestOutcome("not_an_image", f"{error}, without a picture")


def outcome_for_exception(error: Exception) -> RequestOutcome:
    """Return the outcome for a request that raised `error`."""
    match error:
        case RefusedURLError():
            return RequestOutcome(error.status, one_line(error))
        # aiohttp's timeouts are connection errors too, so they come first.
        case TimeoutError():
            return RequestOutcome("timeout", one_line(error), retryable=True)
        case aiohttp.ClientConnectorDNSError():
            temporary = error.os_error.errno == socket.EAI_AGAIN
            return RequestOutcome("dns", one_line(error), retryable=temporary)
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
            return RequestOutcome("connection", one_line(error))
        case aiohttp.ClientConnectorError() if error.os_error.errno == REFUSED_ERRNO:
            return RequestOutcome("blocked", error.os_error.strerror or one_line(error))
        case aiohttp.ClientPayloadError():
            return RequestOutcome("truncated", f"the connection ended too early: {one_line(error)}", retryable=True)
        case aiohttp.InvalidURL() | UnicodeError():
            return RequestOutcome("invalid_url", one_line(error))
        case aiohttp.ClientResponseError():
            return RequestOutcome("connection", f"no HTTP answer: {one_line(error)}")
        case aiohttp.ClientError() | OSError() | asyncio.IncompleteReadError():
            return RequestOutcome("connection", one_line(error), retryable=True)
    return RequestOutcome("connection", f"unexpected {type(error).__name__}: {one_line(error)}")
