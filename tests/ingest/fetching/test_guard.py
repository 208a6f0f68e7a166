"""The address guard. No test connects: the sockets only record that they were made."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.ingest.fetching.guard import (
    REFUSED_ERRNO,
    AddressGuard,
    RefusedAddressError,
    RefusedURLError,
    reachable_addresses,
)
from tests.ingest.asking import RecordingSocket

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
NEVER += ["192.0.2.1", "198.51.100.1", "203.0.113.1", "192.0.0.1", "192.0.0.170", "192.88.99.1"]
NEVER += ["2001:db8::1", "3fff::1", "3fff:fff::1", "2001:2::1", "2001:10::1", "2001:20::1", "5f00::1", "100::1"]
# Not unicast, or invalid IPv4 in IPv6: IPv4-compatible, IPv4-translated, NAT64 with a local prefix.
NEVER += ["4000::1", "::7f00:1", "::101:101", "::ffff:0:1.1.1.1", "64:ff9b:1::1", "64:ff9b:1:ffff::a00:1"]
# Services of clouds for their own machines, refused by range: AWS (metadata, tasks, pods, DNS, time), Tencent,
# Scaleway, Kubernetes (node DNS), OpenStack over IPv6, Oracle Classic.
NEVER += ["169.254.170.2", "169.254.170.23", "169.254.169.253", "169.254.169.123", "169.254.0.23", "169.254.42.42"]
NEVER += ["169.254.20.10", "fe80::a9fe:a9fe", "192.0.0.192"]
# Such services on public addresses, or in ranges that `allow_private` permits.
CLOUDS = {
    "168.63.129.16": "Azure",
    "192.80.8.124": "Equinix Metal",
    "161.26.0.10": "IBM Cloud",
    "166.8.0.1": "IBM Cloud",
    "166.11.255.254": "IBM Cloud",
    "fd00:ec2::254": "AWS",
    "fd00:ec2::253": "AWS",
    "fd00:ec2::123": "AWS",
    "fd00:ec2::23": "AWS",
    "fd20:ce::254": "Google Cloud",
    "fd00:c1::a9fe:a9fe": "Oracle Cloud",
    "100.100.100.200": "Alibaba Cloud",
    "fd00:100::100:200": "Alibaba Cloud",
    "fd00:42::42": "Scaleway",
    "fd00:a9fe:a9fe::1": "Akamai",
    "100.96.0.96": "Volcano Engine",
    "100.80.80.80": "UCloud",
    "100.88.222.5": "Tencent Cloud",
}
PUBLIC = ["1.1.1.1", "93.184.216.34", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
PUBLIC += ["64:ff9b::101:101", "2002:101:101::1", "2606:4700::5efe:101:101"]
# Neighbours of the addresses of clouds and of reserved ranges.
PUBLIC += ["168.63.129.15", "168.63.129.17", "161.27.0.1", "166.12.0.1", "192.80.8.125", "192.0.1.1", "198.17.255.255"]
PUBLIC += ["198.20.0.1", "223.255.255.255", "2001:200::1", "3ffe::1"]
# Google serves public pictures on these addresses in some networks (Private Google Access).
PUBLIC += ["199.36.153.4", "199.36.153.8", "2600:2d00:2:1000::1", "2600:2d00:2:2000::1"]


def guard(recording: type[RecordingSocket], **options: Any) -> AddressGuard:
    return AddressGuard(make_socket=recording, **options)  # type: ignore[arg-type]


def address_info(address: str, port: int = 80) -> tuple[Any, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)


def teredo(server: str, client: str) -> str:
    """The Teredo address of a client behind a NAT. The client's IPv4 is stored inverted (RFC 4380, section 4)."""
    inverted = int(ipaddress.IPv4Address(client)) ^ 0xFFFFFFFF
    number = (0x20010000 << 96) | (int(ipaddress.IPv4Address(server)) << 64) | inverted
    return str(ipaddress.IPv6Address(number))


def wrapped(address: str) -> list[str]:
    """`address`, and for IPv4 also the IPv6 addresses that lead to it."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        return [address]
    high, low = f"{int(ip) >> 16:x}", f"{int(ip) & 0xFFFF:x}"
    inside = [f"::ffff:{address}", f"64:ff9b::{high}:{low}", f"2002:{high}:{low}::1", teredo("1.1.1.1", address)]
    isatap = [f"2606:4700::5efe:{high}:{low}", f"2606:4700::200:5efe:{high}:{low}"]
    return [address, *inside, *isatap, f"2002:101:101::5efe:{high}:{low}"]


def url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER, teredo("1.1.1.1", "10.0.0.1"), teredo("10.0.0.1", "1.1.1.1")])
def test_non_public_addresses_are_refused(recording: type[RecordingSocket], address: str) -> None:
    with pytest.raises(RefusedAddressError) as refused:
        guard(recording).socket_factory(address_info(address))
    assert refused.value.errno == REFUSED_ERRNO
    assert address in str(refused.value) or str(ipaddress.ip_address(address)) in str(refused.value)
    assert recording.made == []


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_get_socket_of_right_family(recording: type[RecordingSocket], address: str) -> None:
    guard(recording).socket_factory(address_info(address))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert recording.made == [{"family": family, "type": socket.SOCK_STREAM, "proto": 6}]


@pytest.mark.parametrize("address", PRIVATE)
def test_allow_private_permits_private_addresses(recording: type[RecordingSocket], address: str) -> None:
    guard(recording, allow_private=True).socket_factory(address_info(address))
    assert len(recording.made) == 1


@pytest.mark.parametrize("address", NEVER)
def test_allow_private_still_refuses_non_host_addresses(recording: type[RecordingSocket], address: str) -> None:
    with pytest.raises(RefusedAddressError, match="not a public address"):
        guard(recording, allow_private=True).socket_factory(address_info(address))
    assert recording.made == []


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize(("address", "cloud"), CLOUDS.items())
def test_cloud_service_addresses_are_refused(
    recording: type[RecordingSocket], address: str, cloud: str, allow_private: bool
) -> None:
    for outer in wrapped(address):
        with pytest.raises(RefusedAddressError, match=f"an internal address of {cloud}"):
            guard(recording, allow_private=allow_private).socket_factory(address_info(outer))
    assert recording.made == []


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.0.0.192", "198.18.0.1"])
def test_address_wrapped_in_ipv6_is_refused(recording: type[RecordingSocket], address: str) -> None:
    for outer in wrapped(address):
        with pytest.raises(RefusedAddressError, match=re.escape(address)):
            guard(recording).socket_factory(address_info(outer))
    assert recording.made == []


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER, *CLOUDS])
def test_url_with_refused_address_is_blocked(address: str) -> None:
    hosts = [f"[{address}]", f"[{address}%25eth0]"] if ":" in address else [address, f"{address}."]
    for host in hosts:
        with pytest.raises(RefusedURLError, match=r"public address|not public|internal address") as refused:
            AddressGuard().check_url(f"http://{host}/a.jpg")
        assert refused.value.status == "blocked"


def test_text_that_is_no_address_is_refused(recording: type[RecordingSocket]) -> None:
    for text in ("2130706433", "127.1", "metadata.google.internal"):
        with pytest.raises(RefusedAddressError, match="is not an IP address"):
            guard(recording).socket_factory(address_info(text))
    assert recording.made == []


def test_scoped_link_local_address_is_refused(recording: type[RecordingSocket]) -> None:
    with pytest.raises(RefusedAddressError):
        guard(recording).socket_factory(address_info("fe80::1%eth0"))


def test_non_ip_socket_families_are_refused(recording: type[RecordingSocket]) -> None:
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
        ("http://xn--/", "invalid_url"),
        ("http://xn--a.b/x", "invalid_url"),
        ("https://a.xn--0.example/", "invalid_url"),
    ],
)
def test_unacceptable_urls_are_refused_with_status(url: str, status: str) -> None:
    with pytest.raises(RefusedURLError) as refused:
        AddressGuard().check_url(url)
    assert refused.value.status == status
    assert str(refused.value)


@example("", "[]@")
@given(st.sampled_from(["", "xn--", "a.xn--"]), st.text() | st.text("xn-.a0:[]%@/?#é\u200b\u3002", max_size=9))
def test_any_text_is_accepted_or_refused_cleanly(start: str, text: str) -> None:
    # Only RefusedURLError is accepted.
    with contextlib.suppress(RefusedURLError):
        assert AddressGuard().check_url(f"http://{start}{text}").host


@pytest.mark.parametrize("port", [80, 443, 8080, 8443])
def test_usual_ports_are_allowed(port: int) -> None:
    assert AddressGuard().check_url(f"http://example.com:{port}/a.jpg").port == port


def test_other_ports_need_allow_ports() -> None:
    assert AddressGuard(allow_ports=[8471]).check_url("http://example.com:8471/a").port == 8471
    with pytest.raises(RefusedURLError, match=r"port 8472 .*--ingest\.allow_ports 8472"):
        AddressGuard(allow_ports=[8471]).check_url("http://example.com:8472/a")


def test_host_names_pass_url_check() -> None:
    # 127.1 and similar forms are names in a URL. Only the system's resolver reads them as addresses.
    for host in ("2130706433", "127.1", "0x7f.1", "localhost"):
        assert AddressGuard().check_url(f"http://{host}/").host == host


# Loopback, 169.254.169.254 and 168.63.129.16 in forms that resolvers read as addresses.
ODD_NAMES = ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "017700000001", "0x7f000001", "localhost"]
ODD_NAMES += ["2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376"]
ODD_NAMES += ["2822734096", "0xa83f8110", "0250.077.0201.020", "168.63.33040"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_resolving_to_refused_addresses_are_refused(recording: type[RecordingSocket], name: str) -> None:
    found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM, flags=0)
    assert found
    for info in found:
        with pytest.raises(RefusedAddressError):
            guard(recording).socket_factory(info)
    assert recording.made == []


@given(st.ip_addresses(v=4))
def test_wrapped_ipv4_address_is_treated_like_plain_one(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    wrapped = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ]
    plain = AddressGuard().refusal_reason(address)
    for outer in wrapped:
        assert reachable_addresses(outer) == (address,)
        assert (AddressGuard().refusal_reason(outer) is None) == (plain is None)


@given(st.ip_addresses())
def test_only_global_unicast_addresses_pass(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if AddressGuard().refusal_reason(address) is None:
        for inner in reachable_addresses(address):
            assert inner.is_global
            assert not inner.is_multicast
            assert not inner.is_loopback
            assert not inner.is_private
