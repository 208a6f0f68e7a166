"""Redirects, names and the addresses they resolve to are checked when the client connects."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from raypipe.config.data_options import IngestOptions
from raypipe.ingest.fetching.client import FetchResult
from raypipe.ingest.fetching.fetch import Fetcher
from raypipe.ingest.fetching.guard import Address, AddressGuard
from tests.ingest.asking import LoopbackSocket, RecordingSocket, fetch, fetch_one
from tests.ingest.conftest import (
    WebServer,
    body,
    picture,
    redirect,
)
from tests.ingest.fetching.test_guard import CLOUDS, NEVER, PRIVATE, teredo, url_host, wrapped

pytestmark = pytest.mark.usefixtures("little_patience")

PICTURE = picture()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: WebServer, options: IngestOptions, code: int) -> None:
    server.behave("/one", redirect("/two", code))
    server.behave("/two", redirect(server.url("/three"), code))
    server.behave("/three", body(PICTURE))
    result = fetch_one(options, server.url("/one"))
    assert (result.status, result.http_status, result.attempts, result.body) == ("ok", 200, 1, PICTURE)
    assert result.url == server.url("/one")


def test_too_many_redirects_give_redirects_status(server: WebServer, options: IngestOptions) -> None:
    result = fetch_one(options, server.behave("/loop", redirect("/loop")))
    assert (result.status, result.http_status, result.attempts) == ("redirects", 302, 1)
    assert server.requests["/loop"] == 4
    assert fetch_one(options.model_copy(update={"max_redirects": 0}), server.url("/loop")).status == "redirects"
    assert server.requests["/loop"] == 5


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://169.254.169.254/latest/meta-data/", "blocked"),
        ("http://[::ffff:169.254.169.254]/", "blocked"),
        ("http://0.0.0.0/", "blocked"),
        ("ftp://127.0.0.1/a", "blocked"),
        ("file:///etc/passwd", "blocked"),
        ("http://127.0.0.1:22/", "blocked"),
        ("http://u:p@127.0.0.1/", "blocked"),
        ("http://127.0.0.1:99999/", "invalid_url"),
    ],
)
def test_each_redirect_is_checked(
    server: WebServer, options: IngestOptions, loopback: type[LoopbackSocket], target: str, expected: str
) -> None:
    guard = AddressGuard(True, (server.port,), make_socket=loopback)
    result = fetch_one(options, server.behave("/a", redirect(target)), guard=guard)
    assert (result.status, result.attempts) == (expected, 1)
    assert "redirected to" in str(result.error)


class Door(AddressGuard):
    """A guard that also allows the one address of a test server."""

    address = "127.77.0.1"

    def refusal_reason(self, address: Address) -> str | None:
        return None if str(address) == self.address else super().refusal_reason(address)


@pytest.mark.parametrize(
    "inside",
    [
        "127.0.0.1",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
        "100.64.0.1",
        "100.127.255.254",
        "10.0.0.1",
        "169.254.169.254",
        "2130706433",
        "127.1",
        "0x7f.1",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        f"[{teredo('1.1.1.1', '127.0.0.1')}]",
    ],
)
def test_redirect_to_private_address_is_blocked(
    options: IngestOptions, loopback: type[LoopbackSocket], inside: str
) -> None:
    server = WebServer(Door.address)
    guard = Door(allow_ports=(server.port,), make_socket=loopback)
    try:
        url = server.behave("/a", redirect(f"http://{inside}:{server.port}/b"))
        result = fetch_one(options, url, guard=guard)
    finally:
        server.close()
    # The client reads some spellings of an address as an invalid host.
    odd = "not a canonical IPv4 address" in str(result.error)
    assert (result.status, result.body) == ("invalid_url" if odd else "blocked", None)
    assert odd or "is not public" in str(result.error) or "is not a public address" in str(result.error)
    # The only connection goes to the server that redirects.
    assert loopback.asked == [Door.address]
    assert dict(server.requests) == {"/a": 1}


# Every refused address, and its IPv6 forms.
INSIDE = [outer for address in [*PRIVATE, *NEVER, *CLOUDS] for outer in wrapped(address)]
# Addresses that are refused even if private addresses are allowed.
INSIDE_EVER = [outer for address in [*NEVER, *CLOUDS] for outer in wrapped(address)]


@pytest.mark.parametrize(("allow_private", "addresses"), [(False, INSIDE), (True, INSIDE_EVER)])
def test_redirect_to_refused_address_is_blocked(
    options: IngestOptions, loopback: type[LoopbackSocket], allow_private: bool, addresses: list[str]
) -> None:
    server = WebServer(Door.address)
    guard = Door(allow_private, (server.port,), make_socket=loopback)
    try:
        urls = [
            server.behave(f"/{i}", redirect(f"http://{url_host(address)}:{server.port}/b"))
            for i, address in enumerate(addresses)
        ]
        results = fetch(options, *urls, guard=guard)
    finally:
        server.close()
    assert {address: result.status for address, result in zip(addresses, results, strict=True)} == dict.fromkeys(
        addresses, "blocked"
    )
    assert set(loopback.asked) == {Door.address}
    assert sum(server.requests.values()) == len(addresses)


@pytest.mark.parametrize(("allow_private", "addresses"), [(False, INSIDE), (True, INSIDE_EVER)])
def test_name_resolving_to_refused_address_is_blocked(
    recording: type[RecordingSocket], allow_private: bool, addresses: list[str]
) -> None:
    guard = AddressGuard(allow_private, make_socket=recording)  # type: ignore[arg-type]
    names = Names({f"n{i}.example": [[address]] for i, address in enumerate(addresses)})
    urls = [f"http://{name}/a.jpg" for name in names.answers]
    results = fetch(IngestOptions(attempts=3), *urls, guard=guard, resolver=names)
    found = {address: (result.status, result.attempts) for address, result in zip(addresses, results, strict=True)}
    assert found == dict.fromkeys(addresses, ("blocked", 1))
    assert recording.made == []


@pytest.mark.parametrize("inside", ["169.254.169.254", "168.63.129.16", "10.0.0.1", "[fd00:ec2::254]"])
def test_guard_also_checks_robots_txt_requests(
    options: IngestOptions, loopback: type[LoopbackSocket], inside: str
) -> None:
    server = WebServer(Door.address)
    guard = Door(allow_ports=(server.port,), make_socket=loopback)
    names = Names({"innocent.example": [[inside.strip("[]")]]})
    asking = options.model_copy(update={"robots": True, "attempts": 1})
    try:
        server.behave("/robots.txt", redirect(f"http://{inside}:{server.port}/robots.txt"))
        by_redirect = fetch_one(asking, server.behave("/a", body(PICTURE)), guard=guard)
        by_name = fetch_one(asking, f"http://innocent.example:{server.port}/a", guard=guard, resolver=names)
    finally:
        server.close()
    # No picture is requested if robots.txt is unreachable.
    assert (by_redirect.status, by_name.status) == ("connection", "connection")
    assert set(loopback.asked) == {Door.address}
    assert dict(server.requests) == {"/robots.txt": 1}


class Names(AbstractResolver):
    """A resolver with a list of answers per host. The last answer is repeated."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:  # noqa: ARG002
        answers = self.answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [self._entry(host, port, address) for address in addresses]

    @staticmethod
    def _entry(host: str, port: int, address: str) -> ResolveResult:
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1", "10.0.0.2", "::1"],
        ["0.0.0.0"],
        ["100.64.0.1"],
        ["169.254.169.254"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::a00:1"],
        ["2002:7f00:1::"],
        [teredo("1.1.1.1", "10.0.0.1")],
    ],
)
def test_name_resolving_to_private_address_is_blocked(recording: type[RecordingSocket], addresses: list[str]) -> None:
    guard = AddressGuard(make_socket=recording)  # type: ignore[arg-type]
    names = Names({"innocent.example": [addresses]})
    result = fetch_one(IngestOptions(attempts=3), "http://innocent.example/a.jpg", guard=guard, resolver=names)
    assert (result.status, result.attempts, result.fetched_at) == ("blocked", 1, None)
    assert "public" in str(result.error)
    assert recording.made == []


def test_dns_rebinding_is_blocked(server: WebServer, options: IngestOptions, loopback: type[LoopbackSocket]) -> None:
    # The first lookup gives the test server, which the guard allows. The second gives a refused address.
    names = Names({"rebinding.example": [["127.0.0.1"], ["169.254.169.254"]]})
    guard = AddressGuard(True, (server.port,), make_socket=loopback)

    async def work() -> list[FetchResult]:
        url = f"http://rebinding.example:{server.port}/a"
        results = []
        for _ in range(2):
            async with Fetcher(options, resolver=names, guard=guard) as fetcher:
                results += await fetcher.fetch_many([("p", url)])
        return results

    first, second = asyncio.run(work())
    assert (first.status, second.status) == ("ok", "blocked")
    assert loopback.asked == ["127.0.0.1"]


def test_private_address_is_skipped_for_public_one(
    server: WebServer, options: IngestOptions, loopback: type[LoopbackSocket]
) -> None:
    names = Names({"mixed.example": [["169.254.169.254", "127.0.0.1"]]})
    guard = AddressGuard(True, (server.port,), make_socket=loopback)
    result = fetch_one(options, f"http://mixed.example:{server.port}/a", guard=guard, resolver=names)
    assert result.status == "ok"
    assert loopback.asked == ["127.0.0.1"]


def test_unknown_host_name_gives_dns_status() -> None:
    names = Names({"nowhere.example": [[]]})
    result = fetch_one(IngestOptions(), "http://nowhere.example/a.jpg", resolver=names)
    assert (result.status, result.attempts, result.host) == ("dns", 1, "nowhere.example")


@pytest.mark.parametrize(
    ("url", "expected"), [("", "invalid_url"), ("http://", "invalid_url"), ("ftp://x/", "blocked")]
)
def test_unusable_urls_get_a_status_without_request(url: str, expected: str) -> None:
    result = fetch_one(IngestOptions(), url)
    assert (result.status, result.attempts, result.fetched_at, result.http_status) == (expected, 0, None, None)
    assert result.error


def test_loopback_is_blocked_by_default(server: WebServer) -> None:
    result = fetch_one(IngestOptions(allow_ports=[server.port]), server.url("/a"))
    assert (result.status, result.attempts) == ("blocked", 0)
    assert "--ingest.allow_private" in str(result.error)
    assert not server.requests


def test_proxy_environment_variables_are_ignored(
    server: WebServer, options: IngestOptions, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port}")
    assert fetch_one(options, server.url("/a")).status == "ok"
