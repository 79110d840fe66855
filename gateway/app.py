"""The gateway process, which provides HTTP access to the use cases and the read models."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import psycopg
import uvicorn
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Scope

from gateway.audit.verification.process import open_verifications
from gateway.backend import Backend, open_backend
from gateway.chat.serving import open_serving
from gateway.datasets import uploads
from gateway.datasets.previews import open_previews
from gateway.events.feed import EventFeed
from gateway.http import openai_errors, openapi
from gateway.http.errors import Errors, answer
from gateway.http.health import DatabaseCheck
from gateway.http.lockout import Lockout
from gateway.http.permissions import declared_routes
from gateway.http.requests import Requests
from gateway.jobs.pages.live_jobs import LiveJobs
from gateway.jobs.requests import settle_until_cancelled
from gateway.routes import include_routes
from gateway.web import assets
from gateway.web import errors as page_errors
from infrastructure.accounts import security_log
from infrastructure.accounts.key_uses import STORE_SECONDS, KeyUses
from infrastructure.extensions import installed
from infrastructure.http.connection_guard import ConnectionGuard, GuardedServer
from infrastructure.http.limits import Limits
from infrastructure.postgres.log_identity import LogReplaced
from infrastructure.process.progress import PROGRESS
from infrastructure.settings import Settings

log = logging.getLogger("gateway")

SHUTDOWN_SECONDS, FAREWELL_SECONDS = 5, 0.1
"""Seconds in which requests may end, and in which clients that wait for events leave."""

INTERRUPT_SECONDS = 5.0
"""Seconds after which a stopping gateway ends the remaining chats with a clear error."""

DRAIN_SECONDS = 1.0
"""Seconds in which a stopping gateway still responds, and asks its clients to reconnect.

A client that finds its idle connection closed while it sends a request cannot know whether the
request was handled.
"""

SWITCH_SECONDS = 0.0005
"""Longest hold of the interpreter lock, so that sends do not wait for rendering threads."""

SECRET_BELOW = (
    f"{page_errors.SIGN_IN}/",
    *(path for extension in installed() for path in extension.secret_paths),
)
"""Prefixes of paths whose rest is secret. It is neither logged nor traced."""

UNTRACED = ("/healthz", f"{assets.router.prefix}/", *SECRET_BELOW)
"""Prefixes of the paths of requests without a span."""

MESSAGE_BYTES = 16 * 1024
"""Maximum size in bytes of a message from a WebSocket client. Clients send nothing useful."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application. It connects to its stores at startup."""
    app = FastAPI(
        title=openapi.TITLE,
        version="1",
        openapi_url="/api/openapi.json",
        # FastAPI's own pages load scripts from other hosts; gateway.reference does not.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
        lifespan=partial(connected, settings),
        telemetry={
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": is_untraced,
        },
    )
    native = dict.fromkeys(("/api", "/healthz", "/payments"), answer)
    errors = Errors(
        native | {openapi.V1_PREFIX: openai_errors.answer},
        page_errors.answer,
        page_errors.recognize,
    )
    errors.install(app)
    app.add_middleware(
        Requests,
        errors=errors,
        streamed=frozenset({uploads.NATIVE_PATH, uploads.OPENAI_PATH}),
        secret_below=SECRET_BELOW,
    )
    app.state.stops = False
    assets.assets()  # fail at startup if an asset is missing
    include_routes(app)
    declared_routes(app)  # fail at startup if a route declares no permission
    app.state.paths = {
        route.endpoint: route.path_format or route.path for route in iter_route_contexts(app.routes)
    }
    openapi.install(app)
    return app


def is_untraced(scope: Scope) -> bool:
    """Return True for connections without a span, because their paths contain a secret."""
    return scope["type"] != "http" or scope["path"].startswith(UNTRACED)


@asynccontextmanager
async def connected(settings: Settings, app: FastAPI) -> AsyncGenerator[None]:
    """Open the connections and start the background tasks of the application."""
    with open_backend(settings) as backend:
        app.state.backend = backend
        app.state.lockout = Lockout(backend.quotas.limits, partial(record_security_event, backend))
        app.state.key_uses = KeyUses()
        app.state.feed = EventFeed(backend)
        app.state.live_jobs = LiveJobs(app.state.feed)
        app.state.database_check = DatabaseCheck(settings)
        works = (
            partial(_follow, app.state.feed),
            app.state.live_jobs.run,
            partial(settle_until_cancelled, backend),
            partial(_store_key_uses, app.state.key_uses, backend),
            PROGRESS.beat,
        )
        tasks = [asyncio.create_task(work()) for work in works]
        async with (
            open_serving(settings) as app.state.serving,
            open_previews() as app.state.previews,
            open_verifications() as app.state.verifications,
        ):
            yield
        await app.state.database_check.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def record_security_event(backend: Backend, kind: str, address: str, detail: str) -> None:
    """Store a security event. The process log has no retention limit, so it omits the address."""
    log.warning("security event %s: %s; `ecolink security events` has the address", kind, detail)
    try:
        with backend.pool.connection() as connection:
            security_log.record(connection, kind, address, detail)
    except psycopg.Error as error:
        log.warning("cannot store the security event: %s", error)


async def _store_key_uses(uses: KeyUses, backend: Backend) -> None:
    """Store the last use of API keys once a minute, and when the gateway stops."""
    try:
        while True:
            await asyncio.sleep(STORE_SECONDS)
            await asyncio.to_thread(_store_uses, uses, backend)
    finally:
        _store_uses(uses, backend)


def _store_uses(uses: KeyUses, backend: Backend) -> None:
    try:
        with backend.pool.connection() as connection:
            uses.store(connection)
    except psycopg.Error as error:
        log.warning("cannot store the last use of API keys; trying again: %s", error)


async def _follow(feed: EventFeed) -> None:
    """Follow the event log. If it was replaced, stop the process, because its caches are wrong."""
    try:
        await feed.run()
    except LogReplaced as error:
        log.critical("%s The gateway stops, to be restarted.", error)
        signal.raise_signal(signal.SIGTERM)


class Server(GuardedServer):
    """An HTTP server that stops soon, even while clients wait for events."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close connections only after their clients had time to use other ones.

        Wake the clients that wait for events first, because uvicorn waits for their responses.
        """
        app = self.config.app
        assert isinstance(app, FastAPI)
        loop = asyncio.get_running_loop()
        loop.call_later(INTERRUPT_SECONDS, app.state.serving.interrupt)
        app.state.stops = True  # each response closes its connection
        app.state.feed.close()
        await asyncio.sleep(FAREWELL_SECONDS)
        for _ in range(round(DRAIN_SECONDS / FAREWELL_SECONDS)):
            if self.server_state.connections:
                await asyncio.sleep(FAREWELL_SECONDS)
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raise RuntimeError if the gateway cannot start."""
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings)
    guard = ConnectionGuard(Limits(settings.limits), exempt=settings.proxies)
    server = Server(server_config(app, settings, guard), guard)
    # After a graceful stop, uvicorn raises the signal again, which would kill the process.
    signal.signal(signal.SIGTERM, server.handle_exit)
    server.run()
    if not server.started:
        raise RuntimeError("The gateway could not start. See its log.")


def server_config(app: ASGIApp, settings: Settings, guard: ConnectionGuard) -> uvicorn.Config:
    """Return uvicorn's configuration. It reads the client's address from a trusted proxy."""
    return uvicorn.Config(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port or 0,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        # Events are small. Compressing every event for every client would cost more than it saves.
        ws_per_message_deflate=False,
        ws_max_size=MESSAGE_BYTES,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=",".join(map(str, settings.proxies)),
        **guard.protocols(),
    )
