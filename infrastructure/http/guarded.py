"""HTTP requests to servers that account holders choose, only to addresses that the policy permits.

Each request looks up the host, checks all its addresses, and connects to one that it has checked.
A name server therefore cannot change the answer in between.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Protocol

import httpx

from domain.core.target import Address, TargetPolicy

CONNECT_SECONDS = 5.0
"""Time to connect to one address."""

ADDRESSES = 3
"""Addresses of a host name that one request tries."""

LOOKUPS = 256
"""Threads that look up host names. A name server can keep each of them waiting for long."""


class Resolve(Protocol):
    """Looks up the addresses of a host name. Raises OSError."""

    async def __call__(self, host: str, port: int) -> list[Address]: ...


class Refused(Exception):
    """EcoLink does not connect to the server. The message is for the account holder."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends each request to an address that it has checked, without redirects or limits."""

    def __init__(self, policy: TargetPolicy, resolve: Resolve | None = None) -> None:
        self._policy = policy
        self._resolve = resolve or _Resolver()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context(), limits=limits, trust_env=False
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raise Refused or an error of httpx."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._addresses(url.host, port)
        content = await request.aread()
        for number, address in enumerate(addresses, 1):
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=str(address), port=port),
                headers=request.headers,
                content=content,
                # The certificate must be that of the host name, not of the address.
                extensions={
                    "sni_hostname": url.host,
                    "timeout": {"connect": CONNECT_SECONDS, "read": None, "write": None},
                },
            )
            try:
                return await self._transport.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise AssertionError("the last address returns or raises")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """Return a host's addresses if all are permitted, or the same error as for none."""
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = []
        if not found or not all(map(self._policy.permits, found)):
            raise Refused(f"The host name {host!r} does not have only public addresses.")
        return found[:ADDRESSES]


class _Resolver:
    """Looks up names with the system's resolver, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, "guarded-names")

    async def __call__(self, host: str, port: int) -> list[Address]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(ip_address(each[4][0]) for each in found))


def printable(text: str, most: int) -> str:
    """Return a text of a server without control characters, which could change a terminal."""
    shown = "".join(each if each.isprintable() else " " for each in text)
    return shown[:most].strip()
