"""Serving engines, and their HTTP API in a thread of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn

from deploy.local.ports import free_port
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from infrastructure.http.connection_guard import ConnectionGuard
from infrastructure.http.limits import Limits
from services.serving.api import Server, create_app
from services.serving.deployed import Served
from services.serving.engine import Engine, EngineOptions
from tests.builders.platform import BASE_MODEL
from tests.polling import eventually

SECRET = "between-neighbours"


@contextmanager
def open_engine(**options: Any) -> Iterator[Engine]:
    """Open an empty engine in float32."""
    engine = Engine(EngineOptions(precision="fp32", device="cpu", **options))
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def serving_base(directory: Path, **options: Any) -> Iterator[Engine]:
    """Open an engine with the base model of `Platform.base_model` in memory."""
    with open_engine(rows=4, threads=1, **options) as engine:
        base_id = deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL)
        engine.attach(Served(base_id, BASE_MODEL, BASE_MODEL, "22", directory, None))
        yield engine


@contextmanager
def listening(engine: Engine) -> Iterator[str]:
    """Serve the API of an engine. Yield its URL."""
    port = free_port(0)
    config = uvicorn.Config(
        create_app(engine, SECRET), host="127.0.0.1", port=port, log_config=None
    )
    server = Server(config, ConnectionGuard(Limits({})))
    thread = Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
