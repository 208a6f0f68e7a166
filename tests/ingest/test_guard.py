"""The address guard. Nothing here dials: sockets are of a class that records and cannot connect."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.ingest.guard import REFUSED_ERRNO, AddressGuard, RefusedAddressError, RefusedURLError, carried_addresses

PRIVATE = ["127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "::1"]
PRIVATE += ["::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1", "fd00::1"]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
]
NEVER += ["::", "fe80::1", "fec0::1", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"]
NEVER += ["192.0.2.1", "2001:db8::1", "::7f00:1", "64:ff9b:1::1", "100::1"]
PUBLIC = ["1.1.1.1", "93.184.216.34", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
PUBLIC += ["64:ff9b::101:101", "2002:101:101::1"]


class RecordingSocket:
    """Stands where a socket would and notes that one was made; it has nothing that could connect."""

    made: list[dict[str, Any]]

    def __init__(self, **kind: Any) -> None:
        type(self).made.append(kind)


@pytest.fixture
def recording() -> type[RecordingSocket]:
    return type("Recording", (RecordingSocket,), {"made": []})


def guard(recording: type[RecordingSocket], **options: Any) -> AddressGuard:
    return AddressGuard(make_socket=recording, **options)  # type: ignore[arg-type]


def address_info(address: str, port: int = 80) -> tuple[Any, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)


def teredo(server: str, client: str) -> str:
    """The Teredo address of a client behind a NAT (RFC 4380, section 4): the client's IPv4 is stored inverted."""
    inverted = int(ipaddress.IPv4Address(client)) ^ 0xFFFFFFFF
    number = (0x20010000 << 96) | (int(ipaddress.IPv4Address(server)) << 64) | inverted
    return str(ipaddress.IPv6Address(number))


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER, teredo("1.1.1.1", "10.0.0.1"), teredo("10.0.0.1", "1.1.1.1")])
def test_addresses_that_are_not_public_are_not_dialled(recording: type[RecordingSocket], address: str) -> None:
    with pytest.raises(RefusedAddressError) as refused:
        guard(recording).socket_factory(address_info(address))
    assert refused.value.errno == REFUSED_ERRNO
    assert address in str(refused.value) or str(ipaddress.ip_address(address)) in str(refused.value)
    assert recording.made == []


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_get_a_socket_of_their_family(recording: type[RecordingSocket], address: str) -> None:
    guard(recording).socket_factory(address_info(address))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert recording.made == [{"family": family, "type": socket.SOCK_STREAM, "proto": 6}]


@pytest.mark.parametrize("address", PRIVATE)
def test_allow_private_lets_private_addresses_through(recording: type[RecordingSocket], address: str) -> None:
    guard(recording, allow_private=True).socket_factory(address_info(address))
    assert len(recording.made) == 1


@pytest.mark.parametrize("address", NEVER)
def test_allow_private_does_not_open_what_is_no_host(recording: type[RecordingSocket], address: str) -> None:
    with pytest.raises(RefusedAddressError, match="not a public address"):
        guard(recording, allow_private=True).socket_factory(address_info(address))
    assert recording.made == []


@pytest.mark.parametrize("address", ["fd00:ec2::254", "100.100.100.200", "::ffff:100.100.100.200"])
def test_where_clouds_keep_credentials_nobody_is_let_in(recording: type[RecordingSocket], address: str) -> None:
    with pytest.raises(RefusedAddressError, match="where a cloud keeps credentials"):
        guard(recording, allow_private=True).socket_factory(address_info(address))
    assert recording.made == []


def test_a_scope_does_not_hide_a_link_local_address(recording: type[RecordingSocket]) -> None:
    with pytest.raises(RefusedAddressError):
        guard(recording).socket_factory(address_info("fe80::1%eth0"))


def test_only_ip_is_dialled(recording: type[RecordingSocket]) -> None:
    with pytest.raises(RefusedAddressError, match="not IP"):
        guard(recording).socket_factory((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/docker.sock"))


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("ftp://example.com/a.jpg", "blocked"),
        ("file:///etc/passwd", "blocked"),
        ("data:image/png;base64,AAAA", "blocked"),
        ("http://user:secret@example.com/a.jpg", "blocked"),
        ("http://user@example.com/a.jpg", "blocked"),
        ("http://example.com:22/a.jpg", "blocked"),
        ("https://example.com:6379/", "blocked"),
        ("http://127.0.0.1/a.jpg", "blocked"),
        ("http://[::1]/a.jpg", "blocked"),
        ("http://[::ffff:10.0.0.1]/a.jpg", "blocked"),
        ("http://0.0.0.0/", "blocked"),
        ("http://169.254.169.254/latest/meta-data/", "blocked"),
        ("http://[64:ff9b::10.0.0.1]/", "blocked"),
        ("http://[fe80::1%25eth0]/", "blocked"),
        ("", "invalid_url"),
        ("   ", "invalid_url"),
        ("example.com/a.jpg", "invalid_url"),
        ("//example.com/a.jpg", "invalid_url"),
        ("http:///a.jpg", "invalid_url"),
        ("http://example.com:99999/", "invalid_url"),
        ("http://[::1/", "invalid_url"),
        ("not a url", "invalid_url"),
    ],
)
def test_urls_that_are_not_asked_for(url: str, status: str) -> None:
    with pytest.raises(RefusedURLError) as refused:
        AddressGuard().check_url(url)
    assert refused.value.status == status
    assert str(refused.value)


@pytest.mark.parametrize("port", [80, 443, 8080, 8443])
def test_usual_ports_may_be_asked(port: int) -> None:
    assert AddressGuard().check_url(f"http://example.com:{port}/a.jpg").port == port


def test_other_ports_may_be_allowed() -> None:
    assert AddressGuard(allow_ports=[8471]).check_url("http://example.com:8471/a").port == 8471
    with pytest.raises(RefusedURLError, match=r"port 8472 .*--ingest\.allow_ports 8472"):
        AddressGuard(allow_ports=[8471]).check_url("http://example.com:8472/a")


def test_names_are_left_to_the_dialling_check() -> None:
    # 127.1 and the like are names to the URL, and addresses only to the system's resolver.
    for host in ("2130706433", "127.1", "0x7f.1", "localhost"):
        assert AddressGuard().check_url(f"http://{host}/").host == host


@pytest.mark.parametrize("name", ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "localhost"])
def test_what_the_resolver_makes_of_odd_names_is_refused(recording: type[RecordingSocket], name: str) -> None:
    found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM, flags=0)
    assert found
    for info in found:
        with pytest.raises(RefusedAddressError):
            guard(recording).socket_factory(info)
    assert recording.made == []


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_however_it_is_wrapped(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    wrapped = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ]
    plain = AddressGuard().refusal(address)
    for outer in wrapped:
        assert carried_addresses(outer) == (address,)
        assert (AddressGuard().refusal(outer) is None) == (plain is None)


@given(st.ip_addresses())
def test_nothing_but_global_unicast_passes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if AddressGuard().refusal(address) is None:
        for inner in carried_addresses(address):
            assert inner.is_global
            assert not inner.is_multicast
            assert not inner.is_loopback
            assert not inner.is_private
