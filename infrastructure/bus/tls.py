"""TLS to NATS: a client verifies the server's certificate and its host name, and never falls back.

nats-py uses TLS only if the server asks for it. With a URL that starts with `tls://`, this module
makes it refuse a server without TLS, before it sends its credentials. It also ends the wait for a
connection whose handshake failed.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from infrastructure.settings import Settings

SCHEME = "tls"

OTHER_HOST = {62, 64}
"""Codes of OpenSSL: another host name, and another address."""


class PlainServer(NatsError):
    """The NATS server offers no TLS, although its URL starts with `tls://`."""


class UntrustedServer(NatsError):
    """The TLS connection to NATS failed. The message names the setting and the fix."""


def tls_context(urls: str, authority: str | None) -> ssl.SSLContext | None:
    """Return the TLS context of a client of these servers, or None if no URL starts with `tls://`.

    `authority` has certificates of authorities (PEM); None: those of the system. Raise RuntimeError
    if they are invalid, or if a server of another URL could be used without TLS.
    """
    schemes = [urlsplit(each.strip()).scheme == SCHEME for each in urls.split(",")]
    if authority is not None and not all(schemes):
        raise RuntimeError(
            "ECOLINK_NATS_CA is set, but a URL in ECOLINK_NATS_URL or ECOLINK_TRAINER_NATS_URL "
            "does not start with `tls://`. Change the URL, or unset ECOLINK_NATS_CA."
        )
    if not any(schemes):
        return None
    try:
        return ssl.create_default_context(cadata=authority)
    except ssl.SSLError as error:
        raise RuntimeError(
            f"ECOLINK_NATS_CA contains no valid certificates: {error.reason or error}. Set it to a "
            "PEM file."
        ) from error


def nats_authority(settings: Settings) -> str | None:
    """Return the certificates in ECOLINK_NATS_CA, or None. Raise RuntimeError."""
    path: Path | None = settings.nats_ca
    try:
        return None if path is None else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RuntimeError(
            f"Cannot read ECOLINK_NATS_CA, {path}: {error}. Set it to a PEM file."
        ) from error


def tls_problem(error: BaseException) -> str | None:
    """Return what is wrong with a TLS connection to NATS and the fix, or None for other errors."""
    if isinstance(error, PlainServer):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        if error.verify_code in OTHER_HOST:
            return (
                f"The NATS server has a certificate for another host: {reason}. Use a host name of "
                "the certificate in ECOLINK_NATS_URL, or issue a certificate for this host."
            )
        return (
            f"The certificate of the NATS server is not trusted: {reason}. Set ECOLINK_NATS_CA to "
            "a file with the certificate of its authority."
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS to NATS failed: {error.reason or error}. Correct ECOLINK_NATS_URL."
    return None


_process_info = Client._process_info


async def _require_tls(
    self: Client, info: dict[str, Any], initial_connection: bool = False
) -> None:
    server = self._current_server
    wanted = server is not None and server.uri.scheme == SCHEME
    if initial_connection and wanted and not info.get("tls_required"):
        assert server is not None
        raise PlainServer(
            f"The NATS server at {server.uri.hostname}:{server.uri.port} offers no TLS. Turn on "
            "TLS at the server, or change `tls://` to `nats://` in ECOLINK_NATS_URL."
        )
    await _process_info(self, info, initial_connection)


Client._process_info = _require_tls  # type: ignore[method-assign]


CLOSE_SECONDS = 1.0
"""Maximum wait for the end of a connection. After a failed handshake, Python 3.11 waits forever."""

_wait_closed = TcpTransport.wait_closed


async def _wait_briefly(self: TcpTransport) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(_wait_closed(self), CLOSE_SECONDS)


TcpTransport.wait_closed = _wait_briefly  # type: ignore[method-assign]
