"""Serving's HTTP API in a thread of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import httpx
import uvicorn

from deploy.local.ports import free_port
from infrastructure.connection_guard import ConnectionGuard
from infrastructure.limits import Limits
from services.serving.api import Server, create_app
from services.serving.engine import Engine
from tests.polling import eventually

SECRET = "between-neighbours"


@contextmanager
def listening(engine: Engine) -> Iterator[str]:
    """URL of an engine's API."""
    port = free_port(0)
    config = uvicorn.Config(
        create_app(engine, SECRET), host="127.0.0.1", port=port, log_config=None
    )
    server = Server(config, ConnectionGuard(Limits({})))
    thread = Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: server.started)
        yield url
    finally:
        server.should_exit = True
        thread.join()


def client_of(url: str, secret: str = SECRET) -> httpx.Client:
    """An HTTP client of the API."""
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {secret}"})
