"""The gateway process: HTTP in front of the use cases and the read models."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from gateway import api, v1
from gateway.api.datasets import UPLOAD_PATH
from gateway.backend import open_backend
from gateway.errors import Errors
from gateway.requests import Requests
from infrastructure.settings import Settings

SHUTDOWN_SECONDS = 5


def create_app(settings: Settings) -> FastAPI:
    """The application; it connects when it starts to serve."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        with open_backend(settings) as backend:
            app.state.backend = backend
            yield

    app = FastAPI(
        title="EcoLink",
        summary="Fine-tuning jobs, metered by the minute.",
        version="1",
        openapi_url="/api/openapi.json",
        # Their pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    errors = Errors({v1.PREFIX: v1.errors.answer})
    errors.install(app)
    app.add_middleware(Requests, errors=errors, streamed=frozenset({UPLOAD_PATH, v1.UPLOAD_PATH}))
    app.include_router(api.router)
    app.include_router(v1.router)
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises RuntimeError if it cannot start."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.gateway_host,
            port=settings.gateway_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
    # After a graceful end uvicorn raises the signal again, which would kill the process.
    signal.signal(signal.SIGTERM, server.handle_exit)
    server.run()
    if not server.started:
        raise RuntimeError("the gateway could not start; its log says why")
