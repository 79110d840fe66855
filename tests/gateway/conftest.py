"""A gateway with its own database, account holders and a projector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import httpx
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openai import OpenAI

from deploy.local.ports import free_port
from deploy.processes import environment
from gateway.app import connected, create_app
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.jobs.launch.wizard_form import Wizard
from tests.gateway.jobs.owners import ClientOf, Owner, Reader
from tests.gateway.web.signed_in import Browser, signed_in
from tests.polling import eventually
from tests.pooled_connections import Guard, refuse_waits_with_a_connection
from tests.projecting import projecting as following_projections

MEBIBYTE = 1024**2
START_SECONDS = 300.0  # generous, because the machine may be busy
UPLOAD_BYTES = int(os.environ.get("ECOLINK_TEST_UPLOAD_MIB", "60")) * MEBIBYTE
"""Size of the large upload to a gateway process. Use 512 MiB for a manual run."""


@pytest.fixture
def platform(settings: Settings) -> Iterator[Platform]:
    """The store of the gateway."""
    with open_log(settings) as log:
        yield Platform(settings, log)


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """A decorator of calls that wait for another service. Artifacts have it."""
    return refuse_waits_with_a_connection(monkeypatch)


@pytest.fixture
def projecting(settings: Settings) -> Iterator[None]:
    """Projections that follow the log, like the projector process."""
    with following_projections(settings):
        yield


@pytest.fixture
def late_client(settings: Settings) -> Iterator[TestClient]:
    """A client of a gateway whose projector is down."""
    with TestClient(application(settings), raise_server_exceptions=False) as client:
        yield client


@cache
def _prepared() -> FastAPI:
    return create_app(Settings())


def application(settings: Settings) -> FastAPI:
    """Return an application of the gateway for one test at a time.

    FastAPI analyses each route at its first call, which takes longer than most tests. So all tests
    share the application.
    """
    app = _prepared()
    app.router.lifespan_context = partial(connected, settings)
    return app


@pytest.fixture
def client(late_client: TestClient, projecting: None) -> TestClient:
    """A client of a gateway, without a key."""
    return late_client


@dataclass(frozen=True)
class Gateway:
    """A gateway process."""

    process: psutil.Process
    url: str


@pytest.fixture
def gateway(settings: Settings, projecting: None) -> Iterator[Gateway]:
    """A gateway process."""
    with running_gateway(settings) as running:
        yield running


@contextmanager
def running_gateway(settings: Settings, *, status: int = 0) -> Iterator[Gateway]:
    """Run a gateway process, which must exit with a status on SIGTERM, by default cleanly."""
    filled = settings.model_copy(
        update={"gateway_port": free_port(0), "dataset_max_bytes": UPLOAD_BYTES + 4 * MEBIBYTE}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.run", "gateway"], env=os.environ | environment(filled)
    )
    url = f"http://127.0.0.1:{filled.gateway_port}"
    try:
        eventually(lambda: healthy(url), START_SECONDS)
        yield Gateway(psutil.Process(process.pid), url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == status
    finally:
        process.kill()
        process.wait()


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def client_of(client: TestClient) -> ClientOf:
    """Return a client of a person, without automatic retries."""

    def make(person: Person) -> OpenAI:
        return OpenAI(
            api_key=person.key, base_url="http://testserver/v1", http_client=client, max_retries=0
        )

    return make


@pytest.fixture
def browser(client: TestClient, platform: Platform) -> Browser:
    """The browser of a user with $20, which all pages show already."""
    person = platform.person(dollars=20)
    platform.project()
    return signed_in(client, person)


@pytest.fixture
def wizard(browser: Browser, platform: Platform) -> Wizard:
    """The wizard of a user with a dataset of ten examples and $20."""
    platform.base_model()
    wizard = Wizard(browser, platform, platform.dataset(browser.person))
    platform.project()
    wizard.open()
    return wizard


@pytest.fixture
def owner(client: TestClient, platform: Platform) -> Owner:
    """A user with $10 and one job."""
    return Owner(client, platform)


@pytest.fixture
def reader(client: TestClient, platform: Platform) -> Reader:
    """A user with $10 on the page of their job."""
    return Reader(client, platform)
