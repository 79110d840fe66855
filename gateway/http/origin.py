"""Origin of the gateway and address of its clients. The operator's settings take precedence."""

from __future__ import annotations

import re
from ipaddress import ip_address

from starlette.requests import HTTPConnection

from gateway.backend import Backend


def base_url(connection: HTTPConnection) -> str:
    """Return scheme, host and port, without a trailing slash."""
    return _public(connection) or str(connection.base_url).rstrip("/")


def is_secure(connection: HTTPConnection) -> bool:
    """Return True for a TLS connection, which may end at a reverse proxy."""
    return base_url(connection).startswith("https:")


def same_origin(connection: HTTPConnection) -> bool:
    """Return True for a request from the gateway's own pages or from a non-browser client."""
    origin = connection.headers.get("origin")
    if origin is None:
        return True
    if public := _public(connection):
        return origin == public
    return origin.partition("://")[2] == connection.headers.get("host")


def client_address(connection: HTTPConnection) -> str:
    """Return the client's IP address, from the socket or a trusted proxy."""
    return connection.client.host if connection.client else "unknown"


FORWARDING_HEADERS = frozenset((
    *("cdn-loop", "client-ip", "fastly-client-ip", "forwarded", "front-end-https"),
    *("proxy-connection", "true-client-ip", "via", "x-amzn-trace-id", "x-client-ip"),
    *("x-cluster-client-ip", "x-proxyuser-ip", "x-real-ip", "x-scheme", "x-url-scheme"),
))  # fmt: skip
"""Headers that proxies add, in addition to those with a prefix below."""

FORWARDING_PREFIXES = (
    *("cf-", "fly-", "tailscale-", "x-appengine-", "x-arr-", "x-azure-", "x-envoy-"),
    *("x-forwarded", "x-original-", "x-vercel-"),
)

LOCAL_HOST = re.compile(r"(localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::([0-9]{1,5}))?")


def on_this_host(connection: HTTPConnection) -> bool:
    """Return True if the client is on the gateway's host and connects directly.

    The peer address must be a loopback address. The only Host header must be a loopback address and
    the gateway's own port, which rules out ordinary clients of a TCP relay. A relayed client that
    forges the Host header cannot be distinguished from a local one.
    """
    if _public(connection) or any(_is_forwarding(name) for name in connection.headers):
        return False
    client, server = connection.scope.get("client"), connection.scope.get("server")
    hosts = [LOCAL_HOST.fullmatch(each) for each in connection.headers.getlist("host")]
    if client is None or server is None or len(hosts) != 1 or hosts[0] is None:
        return False
    return int(hosts[0][2] or 80) == server[1] and _is_loopback(client[0])


def _is_forwarding(header: str) -> bool:
    return header in FORWARDING_HEADERS or header.startswith(FORWARDING_PREFIXES)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _public(connection: HTTPConnection) -> str | None:
    backend: Backend = connection.app.state.backend
    return backend.settings.public_url
