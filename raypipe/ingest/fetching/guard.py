"""The address guard: which URLs may be requested, and which addresses may be connected to.

URLs come from the authors of posts, and the owner of a host name controls its address. So an address is checked when
the socket is made (`socket_factory`), not at lookup. Literal addresses and redirects skip the resolver, and a DNS
answer may change between a check and the connection.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from yarl import URL

PORTS = frozenset({80, 443, 8080, 8443})
_SCHEMES = ("http", "https")
_HOSTS_REMEMBERED = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REFUSED_ERRNO = -1
"""`errno` of RefusedAddressError. Only this is left if aiohttp merges the errors of a name's addresses into one."""

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
)
# Addresses where clouds serve metadata, credentials, names or the time to their own machines, if they are public or in
# a range that `allow_private` opens. Link-local ones (169.254.0.0/16, fe80::/10: AWS, Azure, Google, Oracle, Tencent,
# OpenStack and others) and Oracle Classic's 192.0.0.192 are refused by their ranges. The sources are in the list.
_CLOUDS = tuple(
    (ipaddress.ip_network(text), cloud)
    for text, cloud in (
        # learn.microsoft.com, "What is IP address 168.63.129.16?": WireServer, DNS, health probes.
        ("168.63.129.16/32", "Azure"),
        # metal.equinix.com, "Metadata": metadata.packet.net; Kinvolk Lokomotive's Terraform files name its address.
        ("192.80.8.124/32", "Equinix Metal"),
        # cloud.ibm.com/docs/vpc, reserved ranges: "IBM services", "Cloud Service Endpoints"; not routed outside.
        ("161.26.0.0/16", "IBM Cloud"),
        ("166.8.0.0/14", "IBM Cloud"),
        # docs.aws.amazon.com, EC2 and EKS user guides: metadata ::254, DNS ::253, time ::123, EKS Pod Identity ::23.
        ("fd00:ec2::/32", "AWS"),
        # docs.cloud.google.com/compute, "View and query VM metadata": IPv6-only machines.
        ("fd20:ce::254/128", "Google Cloud"),
        # oracle/oci-python-sdk, instance_principals_security_token_signer.py.
        ("fd00:c1::a9fe:a9fe/128", "Oracle Cloud"),
        # cloud-init's data sources: aliyun, scaleway, akamai.
        ("100.100.100.200/32", "Alibaba Cloud"),
        ("fd00:100::100:200/128", "Alibaba Cloud"),
        ("fd00:42::42/128", "Scaleway"),
        ("fd00:a9fe:a9fe::1/128", "Akamai"),
        # volcengine/cello, pkg/provider/credential.
        ("100.96.0.96/32", "Volcano Engine"),
        # docs.ucloud.cn/uhost, "metadata-server".
        ("100.80.80.80/32", "UCloud"),
        # Lists of such addresses for security tests; Tencent's own documents name only 169.254.0.23.
        ("100.88.222.5/32", "Tencent Cloud"),
    )
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Blocks of IANA's special-purpose registries that some versions of Python's ipaddress treat as public, fully or
# partly: protocol assignments (RFC 6890, RFC 2928), the relay of 6to4 (RFC 7526), documentation (RFC 9637).
_NOT_PUBLIC = tuple(ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20"))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# The upper half of an ISATAP interface identifier (RFC 5214, section 6.1); the lower half is an IPv4 address.
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


class RefusedURLError(Exception):
    """A URL that must not be requested. `status` is ``blocked`` or ``invalid_url``."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RefusedAddressError(OSError):
    """An address that must not be connected to."""

    def __init__(self, reason: str) -> None:
        super().__init__(REFUSED_ERRNO, reason)


@dataclass(frozen=True)
class AddressGuard:
    """Checks URLs before a request and addresses before a connection.

    `allow_private` permits loopback, RFC 1918, unique local and carrier-grade NAT addresses. Internal addresses of
    clouds, and link-local, multicast and reserved ones, are always refused. They serve no pictures.
    """

    allow_private: bool = False
    allow_ports: Sequence[int] = ()
    make_socket: Callable[..., socket.socket] = field(default=socket.socket, repr=False)

    def check_url(self, text: str) -> URL:
        """Return `text` as a URL. Raises RefusedURLError if it is invalid or must not be requested."""
        url = _parse(text)
        if url.scheme not in _SCHEMES:
            raise RefusedURLError("blocked", f"scheme {url.scheme!r} is not http or https")
        if not url.host:
            raise RefusedURLError("invalid_url", "has no host")
        if url.user is not None or url.password is not None:
            raise RefusedURLError("blocked", "contains a user name or password")
        self._check_port(url.port)
        reason = self._refusal_of_host(url.host)
        if reason:
            raise RefusedURLError("blocked", reason)
        return url

    @cached_property
    def _refusal_of_host(self) -> Callable[[str], str | None]:
        # Cached, because millions of URLs name few hosts.
        @lru_cache(_HOSTS_REMEMBERED)
        def reason_for_host(host: str) -> str | None:
            literal = _literal_address(host)
            return None if literal is None else self.refusal_reason(literal)

        return reason_for_host

    def _check_port(self, port: int | None) -> None:
        if port not in PORTS and port not in self.allow_ports:
            raise RefusedURLError("blocked", f"port {port} is not allowed (--ingest.allow_ports {port} allows it)")

    def refusal_reason(self, address: Address) -> str | None:
        """Return why an address must not be connected to, or None if it may be."""
        for inner in reachable_addresses(address):
            cloud = next((cloud for network, cloud in _CLOUDS if inner in network), None)
            if cloud is not None:
                return f"{_named(address, inner)} is an internal address of {cloud}"
            if any(inner in network for network in _PRIVATE):
                if not self.allow_private:
                    return f"{_named(address, inner)} is not public (--ingest.allow_private allows it)"
            elif not _is_public(inner):
                return f"{_named(address, inner)} is not a public address"
        return None

    def socket_factory(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Make a socket for an entry of getaddrinfo. aiohttp's TCPConnector then connects to exactly this address.

        Raises RefusedAddressError before a socket is made, if the address must not be connected to.
        """
        family, kind, protocol, _, target = address_info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise RefusedAddressError(f"address family {family} is not IP")
        literal = _literal_address(str(target[0]))
        reason = f"{target[0]!r} is not an IP address" if literal is None else self.refusal_reason(literal)
        if reason:
            raise RefusedAddressError(reason)
        return self.make_socket(family=family, type=kind, proto=protocol)


def reachable_addresses(address: Address) -> tuple[Address, ...]:
    """Return the addresses that packets to `address` may reach. IPv4 in IPv6 is unwrapped: mapped, NAT64, 6to4, Teredo.

    An ISATAP address is returned with the IPv4 address inside it, because packets may go to either.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    half, ipv4 = divmod(int(address) & (2**64 - 1), 2**32)
    inside = (ipaddress.IPv4Address(ipv4),) if half in _ISATAP else ()
    return (*_unwrapped(address), *inside)


def _unwrapped(address: ipaddress.IPv6Address) -> tuple[Address, ...]:
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    return (address,)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _named(address: Address, inner: Address) -> str:
    return str(address) if address == inner else f"{address} (contains {inner})"


def _parse(text: str) -> URL:
    stripped = text.strip()
    if not stripped:
        raise RefusedURLError("invalid_url", "is empty")
    try:
        url = URL(stripped)
        _ = url.port, url.host
    except (ValueError, TypeError, IndexError) as error:
        raise RefusedURLError("invalid_url", f"is not a valid URL: {error}") from error
    if not url.scheme:
        raise RefusedURLError("invalid_url", "has no scheme such as https://")
    return url


def _literal_address(host: str) -> Address | None:
    # A scope (`fe80::1%eth0`) names the interface, not the host. A dot at the end does not change the host.
    try:
        return ipaddress.ip_address(host.partition("%")[0].rstrip("."))
    except ValueError:
        return None
