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
class Answer:
    """The outcome of one request.

    `status` is a status of `images/`; ``ok`` means that `body` is complete. `again` says whether a retry may help.
    `target` is set if the request must go on at that URL.
    """

    status: str
    error: str | None = None
    body: bytes | None = None
    again: bool = False
    target: URL | None = None


def for_http_status(status: int, reason: str | None) -> Answer:
    """Return the outcome for an HTTP status that is neither 200 nor a redirect with a Location."""
    error = f"HTTP {status} {reason or ''}".strip()
    if status in (404, 410):
        return Answer("gone", error)
    if status == 429:
        return Answer("rate_limited", error, again=True)
    if status == 408:
        return Answer("timeout", error, again=True)
    if status >= 500:
        return Answer("server_error", error, again=True)
    if status >= 400:
        return Answer("forbidden", error)
    if status >= 300:
        return Answer("redirects", f"{error}, without a Location to follow")
    return Answer("not_an_image", f"{error}, without a picture")


def for_exception(error: Exception) -> Answer:
    """Return the outcome for a request that raised `error`."""
    match error:
        case RefusedURLError():
            return Answer(error.status, one_line(error))
        # aiohttp's timeouts are connection errors too, so they come first.
        case TimeoutError():
            return Answer("timeout", one_line(error), again=True)
        case aiohttp.ClientConnectorDNSError():
            temporary = error.os_error.errno == socket.EAI_AGAIN
            return Answer("dns", one_line(error), again=temporary)
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
            return Answer("connection", one_line(error))
        case aiohttp.ClientConnectorError() if error.os_error.errno == REFUSED_ERRNO:
            return Answer("blocked", error.os_error.strerror or one_line(error))
        case aiohttp.ClientPayloadError():
            return Answer("truncated", f"the connection ended before the picture: {one_line(error)}", again=True)
        case aiohttp.InvalidURL() | UnicodeError():
            return Answer("invalid_url", one_line(error))
        case aiohttp.ClientResponseError():
            return Answer("connection", f"no HTTP answer: {one_line(error)}")
        case aiohttp.ClientError() | OSError() | asyncio.IncompleteReadError():
            return Answer("connection", one_line(error), again=True)
    return Answer("connection", f"unexpected {type(error).__name__}: {one_line(error)}")
