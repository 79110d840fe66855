"""Permitted URLs and addresses of endpoints.

EcoLink connects to URLs that account holders choose. Without these rules, they could reach services
of the operator's own network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from domain.core.errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 2_000
WEB_PORTS = (80, 443)
FIRST_FREE_PORT = 1024
"""Ports below it belong to services that do not speak HTTP, such as mail. Only WEB_PORTS do."""

NAT64 = IPv6Network("64:ff9b::/96")
SPECIAL = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16"))
)
"""Networks that some versions of Python consider public: of protocols, relays and documents."""
COMPATIBLE = IPv6Network("::/96")
"""Deprecated notation of an IPv4 address in an IPv6 address."""


@dataclass(frozen=True)
class TargetPolicy:
    """Targets that an operator permits beyond public HTTPS servers."""

    networks: Sequence[Network] = ()
    """Networks with permitted addresses that are not public."""
    http: bool = False
    """True if URLs without TLS are permitted."""

    def require_url(self, url: str) -> None:
        """Raise Invalid for a forbidden URL. Addresses of its host are checked at connections."""
        if len(url) > MAX_URL:
            raise _invalid(f"The URL has {len(url):,} characters. Use at most {MAX_URL:,}.")
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise _invalid("The URL contains a space or a character outside ASCII. Encode it.")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _invalid(f"{url!r} is not a URL: {error}.") from error
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise _invalid(f"{url!r} is not a web address. Enter one that begins with https://.")
        if parts.scheme == "http" and not self.http:
            raise _invalid(f"{url!r} is not encrypted. Enter a URL that begins with https://.")
        if parts.username is not None or parts.password is not None:
            raise _invalid("The URL contains a user name. Put a token in the path or the query.")
        if "#" in url:
            raise _invalid("The URL contains a fragment (#), which HTTP does not send. Remove it.")
        if port is not None and port not in WEB_PORTS and port < FIRST_FREE_PORT:
            raise _invalid(f"The port {port} is reserved. Use 80, 443, or 1024 and above.")
        try:
            address = ip_address(parts.hostname)
        except ValueError:
            if "[" in parts.netloc:
                raise _invalid(f"{parts.hostname!r} is not an IPv6 address.") from None
            return
        if not self.permits(address):
            raise _invalid(f"{address} is not a public address. Enter a public one.")

    def permits(self, address: Address) -> bool:
        """Return True if EcoLink may connect to this address."""
        real = embedded_ipv4(address)
        if any(real in network for network in self.networks if network.version == real.version):
            return True
        return is_public(real)


def embedded_ipv4(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address reaches, or otherwise the address."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in NAT64 or (address in COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Return True for a unicast address of the public internet."""
    special = (
        any(address in network for network in SPECIAL)
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or (isinstance(address, IPv6Address) and address.is_site_local)
    )
    return address.is_global and not special


def parsed_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in a comma-separated list. Raise ValueError."""
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


def _invalid(message: str) -> Invalid:
    return Invalid(message, field="url")
