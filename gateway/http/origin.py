"""Where browsers and programs find the gateway: as its operator says, else as they ask for it."""

from __future__ import annotations

from ipaddress import ip_address

from starlette.requests import HTTPConnection

from gateway.backend import Backend


def base_url(connection: HTTPConnection) -> str:
    """Scheme, host and port, without a slash at the end."""
    return _public(connection) or str(connection.base_url).rstrip("/")


def is_secure(connection: HTTPConnection) -> bool:
    """Whether a browser comes by TLS, which may end at a reverse proxy."""
    return base_url(connection).startswith("https:")


def same_origin(connection: HTTPConnection) -> bool:
    """Whether a browser asks from one of our own pages; true for what is no browser."""
    origin = connection.headers.get("origin")
    if origin is None:
        return True
    if public := _public(connection):
        return origin == public
    return origin.partition("://")[2] == connection.headers.get("host")


def client_address(connection: HTTPConnection) -> str:
    """The client's IP address, as the socket or a trusted proxy names it."""
    return connection.client.host if connection.client else "unknown"


FORWARDING_HEADERS = frozenset({
    "cf-connecting-ip",
    "fastly-client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-real-ip",
})  # fmt: skip
"""Headers that proxies add to a request, besides those with a prefix below."""

FORWARDING_PREFIXES = ("x-forwarded", "x-original-", "x-envoy-")


def on_this_host(connection: HTTPConnection) -> bool:
    """Return True for a client on the gateway's host that connects to it directly.

    The peer must be a loopback address, and the client must ask for a loopback address and the
    gateway's own port, which the clients of a TCP relay do not. A relay's client that forges the
    Host header cannot be told from a local one.
    """
    if _public(connection) or any(_is_forwarding(name) for name in connection.headers):
        return False
    client, server = connection.scope.get("client"), connection.scope.get("server")
    if client is None or server is None:
        return False
    url = connection.base_url
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return port == server[1] and all(_is_loopback(each) for each in (client[0], url.hostname or ""))


def _is_forwarding(header: str) -> bool:
    return header in FORWARDING_HEADERS or header.startswith(FORWARDING_PREFIXES)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _public(connection: HTTPConnection) -> str | None:
    backend: Backend = connection.app.state.backend
    return backend.settings.public_url
