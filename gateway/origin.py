"""Where browsers and programs find the gateway: as its operator says, else as they ask for it."""

from __future__ import annotations

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


def _public(connection: HTTPConnection) -> str | None:
    backend: Backend = connection.app.state.backend
    return backend.settings.public_url
