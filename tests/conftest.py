"""Test servers: containers if a Docker engine is available, otherwise embedded servers."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import typer.testing
from nats.aio.client import Client
from nats.js import JetStreamContext
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from psycopg import sql
from psycopg_pool import ConnectionPool

from deploy.database_roles import create_roles
from deploy.local import ports, postgres
from deploy.local.home import Home
from deploy.local.stack import up
from domain.core.event_log import EventLog
from infrastructure.bus import streams as bus
from infrastructure.postgres.store import Connection, open_log, open_pool
from infrastructure.process import tracing
from infrastructure.settings import Settings
from tests.builders.history import History
from tests.builders.tiny_model import make_tiny_model
from tests.builders.traces import Collector
from tests.bus_administrator import as_administrator
from tests.containers import WANTED, containers
from tests.gate import Gate, gate_to
from tests.object_store import BUCKET, ObjectStore, running_object_store
from tests.running import EcoLinkUnderTest, running_ecolink

TEMPLATE = "ecolink_template"
CI = "ECOLINK_CI"
"""Set if a missing program must fail a test instead of skipping it."""
TEST_PREFIX = "ECOLINK_TEST_"
"""Prefix of the variables that choose the servers and images of tests."""
STACK_SECONDS = 900
"""Timeout of a test that may start a stack or a browser first."""

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 1024**3

# No deadline, because the machine may be busy. The printed blob reproduces a failure.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for the number of fuzz requests and the folder of screenshots."""
    parser.addoption(
        "--fuzz-requests", type=int, default=250, help=("Minimum number of fuzz requests.")
    )
    parser.addoption(
        "--screenshots", type=Path, help=("Folder for a screenshot of each page's states.")
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name long bytes after their argument: compressed data may differ between two processes."""
    return argname if isinstance(val, bytes) and len(val) > 100 else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests of the whole product a longer timeout, unless they set their own.

    If servers in containers are wanted, run only the tests that use them.
    """
    if os.environ.get(WANTED):
        used = {each for each in items if "servers" in getattr(each, "fixturenames", ())}
        config.hook.pytest_deselected(items=[each for each in items if each not in used])
        items[:] = [each for each in items if each in used]
    for item in items:
        whole = item.path.parent.name in ("e2e", "browser")
        if whole and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STACK_SECONDS))


def pytest_collection_finish() -> None:
    """Exclude the collected objects from each garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run each module on one worker."""
    from tests.scheduling import ByModule

    return ByModule(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the measurements of all workers. No test asserts a time."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    told = [text for each in reports for name, text in each.user_properties if name == "measured"]
    if told:
        terminalreporter.section("measured")
        for text in dict.fromkeys(told):
            terminalreporter.write_line(text)


def pytest_configure() -> None:
    """Isolate the tests from the developer's configuration."""
    gc.disable()  # until the end of the collection, which only creates objects
    for name in [name for name in os.environ if name.startswith("ECOLINK_")]:
        if name != CI and not name.startswith(TEST_PREFIX):
            del os.environ[name]
    os.environ["ECOLINK_GATEWAY_PORT"] = "0"  # several stacks run at the same time
    os.environ["XDG_CONFIG_HOME"] = os.devnull  # the null device has no login
    # Typer would make all commands again for each call, in 0.1 s.
    typer.testing._get_command = cache(typer.testing._get_command)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # Servers bind their ports late, so workers must not choose the same ports.
        number, count = int(worker[2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        own = ports.candidates()[number::count]
        ports.candidates = lambda: own


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the tiny base model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An S3 server for all tests of the session. It starts in about 3 s."""
    with _home() as folder, running_object_store(folder) as running:
        yield running


@pytest.fixture
def s3_url(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty artifact store on S3. The environment has its endpoint and keys."""
    for name, value in object_store.variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture
def gate(object_store: ObjectStore, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate between the clients and the object store."""
    with gate_to(object_store.port) as opened:
        monkeypatch.setenv("AWS_ENDPOINT_URL", opened.url)
        yield opened


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a new home directory."""
    with _home() as path:
        yield path


@pytest.fixture(scope="session")
def servers() -> Iterator[Settings]:
    """Run a PostgreSQL with a migrated database and a NATS with JetStream for the whole session.

    Tests publish, create and delete anything, so they connect to NATS as an administrator.
    They are the embedded ones, or containers if ECOLINK_TEST_CONTAINERS is set.
    """
    with _home() as path:
        settings = Settings(home=path, test_payments=True)
        if os.environ.get(WANTED):
            with containers(settings) as filled:
                _make_template(filled)
                yield filled
        else:
            with up(settings, {}) as stack:
                _hasten_logins(stack.settings)
                _make_template(stack.settings)
                yield as_administrator(stack.settings)


@contextmanager
def whole_product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EcoLinkUnderTest]:
    """Run a stack for the tests of a folder, with short minutes and fast heartbeats.

    It ends with the folder, because its idle processes would slow all tests down.
    """
    home = tmp_path_factory.mktemp("home")
    settings = Settings(
        home=home,
        heartbeat_seconds=0.2,
        meter_minute_seconds=5,
        guarantee_factor=100,  # a busy machine pauses no job
        trainer_silence_timeout_seconds=45,
        test_payments=True,
        webhook_networks="127.0.0.0/8",
        webhook_http=True,
    )
    with running_ecolink(tmp_path_factory.mktemp("model"), settings) as under_test:
        yield under_test


@pytest.fixture
def settings(servers: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings of one test: its own migrated database, no streams, its own home."""
    with own_database(servers, tmp_path) as own:
        yield own


@contextmanager
def own_database(servers: Settings, home: Path) -> Iterator[Settings]:
    """Yield settings with a separate migrated database, no streams, and a home."""
    with ThreadPoolExecutor(1) as thread:  # a separate event loop, whatever loop the test uses
        thread.submit(asyncio.run, _delete_streams(servers)).result()
    with _database(servers, home, TEMPLATE) as own:
        yield own


@contextmanager
def empty_database(servers: Settings, home: Path) -> Iterator[Settings]:
    """Yield settings with a separate database without tables, and a home."""
    with _database(servers, home, "template0") as own:
        yield own


@contextmanager
def _database(servers: Settings, home: Path, template: str) -> Iterator[Settings]:
    name = f"test_{uuid4().hex}"
    # Copying files takes half the time of copying pages through the WAL.
    _administer(servers, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
    yield servers.model_copy(
        update={
            "home": home,
            "artifacts_url": (home / "artifacts").as_uri(),
            "database_url": _with_database(servers.database_url, name),
            "owner_database_url": _with_database(servers.owner_database_url, name),
        }
    )
    _administer(servers, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def unseeded(settings: Settings) -> None:
    """Empty the event store, which contains the catalog, for tests that count their writes."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE ecolink_events RESTART IDENTITY")


@pytest.fixture
def log(settings: Settings) -> Iterator[EventLog]:
    """The event log of one test."""
    opened = open_log(settings)
    yield opened
    opened.close()


@pytest.fixture
def history(log: EventLog) -> History:
    """The history of one job, empty at first."""
    return History(log)


@pytest.fixture
def pool(settings: Settings) -> Iterator[ConnectionPool[Connection]]:
    """Connections to the database of one test."""
    with open_pool(settings, max_size=4) as opened:
        yield opened


@pytest.fixture
async def nats(settings: Settings) -> AsyncIterator[Client]:
    """A connection to a bus without streams."""
    connection = await bus.connect(settings)
    yield connection
    await connection.close()


@pytest.fixture
def js(nats: Client) -> JetStreamContext:
    """JetStream without streams."""
    return nats.jetstream()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    """Turn tracing on, in the process `test`. Return the collector of the spans."""
    collector = Collector()
    found = tracing.Tracing("test", SimpleSpanProcessor(collector))
    monkeypatch.setattr(tracing, "_tracing", found)
    return collector


@contextmanager
def _home() -> Iterator[Path]:
    """Return a folder that any user can access, as the embedded PostgreSQL may need.

    The folder is in memory if there is enough, to avoid waiting for a disk. Tests kill only
    processes, so the kernel keeps all writes.
    """
    roomy = MEMORY.exists() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    with TemporaryDirectory(prefix="ecolink-", dir=MEMORY if roomy else None) as folder:
        yield Path(folder)


async def _delete_streams(settings: Settings) -> None:
    connection = await bus.connect(settings)
    try:
        jetstream = connection.jetstream()
        for stream in await jetstream.streams_info():
            assert stream.config.name is not None
            await jetstream.delete_stream(stream.config.name)
    finally:
        await connection.close()


def _hasten_logins(settings: Settings) -> None:
    """Store the same passwords with one round of SCRAM. With 4,096, each login takes 3 ms."""
    found = Home(settings.home).passwords()
    connection = _administrator(settings.owner_database_url)
    connection.execute("SET scram_iterations = 1")
    create_roles(connection, {postgres.OWNER: found.postgres_owner, **found.database_roles})


def _make_template(settings: Settings) -> None:
    """Create a copy of the migrated database without connections, so that it can be cloned."""
    _administer(settings, "CREATE DATABASE {} TEMPLATE {}", TEMPLATE, "ecolink")
    # The first connection stores a cache of the catalog, which each clone then has too.
    psycopg.connect(_with_database(settings.owner_database_url, TEMPLATE)).close()


def _administer(settings: Settings, statement: LiteralString, *names: str) -> None:
    connection = _administrator(settings.owner_database_url)
    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@cache
def _administrator(owner_url: str | None) -> psycopg.Connection:
    """Return a connection for the whole session."""
    return psycopg.connect(_with_database(owner_url, "postgres"), autocommit=True)


def _with_database(url: str | None, name: str) -> str:
    assert url is not None
    return url.rpartition("/")[0] + f"/{name}"
