"""The client against a misbehaving server, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip
import time

import aiohttp
import pytest
from aiohttp import web

from raypipe.config.data_options import IngestOptions
from raypipe.ingest.fetching.client import PictureClient, user_agent
from tests.ingest.asking import fetch, fetch_one
from tests.ingest.conftest import (
    WebServer,
    body,
    break_off,
    drip,
    endless,
    picture,
    reset,
    status,
)

pytestmark = pytest.mark.usefixtures("little_patience")

PICTURE = picture()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_picture_bytes_arrive_unchanged(server: WebServer, options: IngestOptions, format: str) -> None:
    data = picture(format)
    result = fetch_one(options, server.behave("/a", body(data, f"image/{format.lower()}")))
    assert (result.status, result.http_status, result.attempts, result.error) == ("ok", 200, 1, None)
    assert result.body == data
    assert result.host == "127.0.0.1"
    assert result.fetched_at is not None
    assert result.seconds > 0


def test_request_headers_name_raypipe_and_refuse_encoding(server: WebServer, options: IngestOptions) -> None:
    fetch_one(options.model_copy(update={"contact": "https://lab.example/bot"}), server.url("/a"))
    _, _, headers = server.asked[0]
    assert headers["User-Agent"].startswith("raypipe/")
    assert headers["User-Agent"].endswith(" (+https://lab.example/bot)")
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


def test_user_agent_works_without_contact_and_if_replaced() -> None:
    assert user_agent(IngestOptions()).startswith("raypipe/")
    assert "(" not in user_agent(IngestOptions())
    assert user_agent(IngestOptions(user_agent="study {x}{contact}", contact="me@x")) == "study {x} (+me@x)"


@pytest.mark.parametrize(
    ("code", "expected", "attempts"),
    [
        (404, "gone", 1),
        (410, "gone", 1),
        (401, "forbidden", 1),
        (403, "forbidden", 1),
        (451, "forbidden", 1),
        (418, "forbidden", 1),
        (408, "timeout", 3),
        (429, "rate_limited", 3),
        (500, "server_error", 3),
        (503, "server_error", 3),
        (204, "not_an_image", 1),
        (304, "redirects", 1),
    ],
)
def test_http_codes_are_mapped_to_statuses(
    server: WebServer, options: IngestOptions, code: int, expected: str, attempts: int
) -> None:
    result = fetch_one(options, server.behave("/a", status(code)))
    assert (result.status, result.http_status, result.attempts) == (expected, code, attempts)
    assert f"HTTP {code}" in str(result.error)
    assert result.body is None
    assert server.requests["/a"] == attempts


@pytest.mark.parametrize("code", [429, 500, 503])
def test_temporary_errors_are_retried(server: WebServer, options: IngestOptions, code: int) -> None:
    result = fetch_one(options, server.behave("/a", status(code, times=2, data=PICTURE)))
    assert (result.status, result.http_status, result.attempts, result.body) == ("ok", 200, 3, PICTURE)


def test_drip_feeding_host_hits_deadline(server: WebServer, options: IngestOptions) -> None:
    # Each byte arrives within the read timeout. Only the whole picture takes too long.
    url = server.behave("/drip", drip(PICTURE, pause=0.1))
    options = options.model_copy(update={"deadline": 0.5, "attempts": 2})
    began = time.monotonic()
    result = fetch_one(options, url)
    assert time.monotonic() - began < 3
    assert (result.status, result.attempts) == ("timeout", 2)
    assert "no complete answer within 0.5 s" in str(result.error)


def test_slow_answer_within_deadline_succeeds(server: WebServer, options: IngestOptions) -> None:
    assert fetch_one(options, server.behave("/drip", drip(PICTURE, pause=0.005))).body == PICTURE


def test_silent_server_gives_timeout(server: WebServer, options: IngestOptions) -> None:
    server.delay = 1
    result = fetch_one(options.model_copy(update={"read_timeout": 0.2, "attempts": 1}), server.url("/a"))
    assert (result.status, result.attempts, result.http_status) == ("timeout", 1, None)


def test_time_and_code_of_an_earlier_answer_are_not_kept(server: WebServer, options: IngestOptions) -> None:
    async def fail_then_hang(_: web.Request, before: int) -> web.StreamResponse:
        await asyncio.sleep(5 * before)
        return web.Response(status=503)

    options = options.model_copy(update={"read_timeout": 0.2, "attempts": 2})
    result = fetch_one(options, server.behave("/a", fail_then_hang))
    assert (result.status, result.attempts, result.http_status, result.fetched_at) == ("timeout", 2, None, None)


def test_cut_off_answer_is_truncated_after_retries(server: WebServer, options: IngestOptions) -> None:
    result = fetch_one(options, server.behave("/a", break_off(PICTURE, len(PICTURE) // 2)))
    assert (result.status, result.http_status, result.attempts) == ("truncated", 200, 3)
    assert result.body is None


def test_connection_reset_is_retried(server: WebServer, options: IngestOptions) -> None:
    # aiohttp repeats a request once per attempt (RFC 9112, section 9.3.1), so three resets are 1.5 attempts.
    always, once = server.behave("/always", reset()), server.behave("/once", reset(times=3, data=PICTURE))
    for_ever, passing = fetch(options, always, once)
    assert (for_ever.status, for_ever.attempts, for_ever.http_status) == ("connection", 3, None)
    assert (passing.status, passing.attempts) == ("ok", 2)


def test_closed_port_gives_connection_status(options: IngestOptions, free_port: int) -> None:
    options = options.model_copy(update={"allow_ports": [free_port]})
    result = fetch_one(options, f"http://127.0.0.1:{free_port}/a")
    assert (result.status, result.attempts) == ("connection", 3)
    assert result.fetched_at is None


def test_too_large_content_length_is_refused_before_reading(server: WebServer, options: IngestOptions) -> None:
    result = fetch_one(options, server.behave("/a", body(b"x" * 1_000_001)))
    assert (result.status, result.attempts) == ("too_large", 1)
    assert "Content-Length is 1,000,001 bytes, 1,000,000 are allowed" in str(result.error)


def test_endless_body_is_cut_off(server: WebServer, options: IngestOptions) -> None:
    result = fetch_one(options, server.behave("/a", endless(b"x" * 10_000)))
    assert (result.status, result.body) == ("too_large", None)
    assert server.requests["/a"] == 1


def test_picture_of_exactly_max_bytes_passes(server: WebServer, options: IngestOptions) -> None:
    result = fetch_one(options, server.behave("/a", body(b"x" * 1_000_000)))
    assert (result.status, len(result.body or b"")) == ("ok", 1_000_000)


def test_encoded_answer_is_not_decompressed(server: WebServer, options: IngestOptions) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    result = fetch_one(options, server.behave("/a", body(bomb, **{"Content-Encoding": "gzip"})))
    assert (result.status, result.body) == ("not_an_image", None)
    assert "encoded as gzip" in str(result.error)


def test_unexpected_exception_becomes_a_row(
    server: WebServer, options: IngestOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_self: PictureClient, _response: aiohttp.ClientResponse) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(PictureClient, "_read", broken)
    result = fetch_one(options, server.url("/a"))
    assert (result.status, result.attempts) == ("connection", 1)
    assert "unexpected KeyError" in str(result.error)
