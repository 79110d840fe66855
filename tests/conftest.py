"""The servers that the tests run on: containers where a Docker engine answers, else embedded."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from nats.js import JetStreamContext
from psycopg import sql
from psycopg_pool import ConnectionPool

from deploy.local import ports
from deploy.local.stack import up
from domain.core.event_log import EventLog
from infrastructure import bus
from infrastructure.settings import Settings
from infrastructure.store import Connection, open_log, open_pool
from tests.builders.tiny_model import make_tiny_model
from tests.containers import containers, docker_answers
from tests.running import EcoLinkUnderTest, running_ecolink

TEMPLATE = "ecolink_template"
CI = "ECOLINK_CI"
"""Set where nothing may be skipped for want of a program."""
EXHIBITION = {"test_states.py", "test_budget.py", "test_job_page.py"}
"""What looks at pages of a platform where nothing moves."""

OWN_STACK = "tests/e2e/test_auto_pause.py"
LONGEST = ("exhibition", "tests/e2e", OWN_STACK, "tests/browser")
"""Begun first, so that no worker is left alone with one in the end."""

STACK_SECONDS = 900
"""For a test that may be the first to start a stack or a browser: what it starts is in its time."""

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 1024**3

# A busy machine is no failure, and what fails can be made again.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How thorough the search for undocumented answers is, and where to put pictures."""
    parser.addoption("--fuzz-requests", type=int, default=250, help="At least so many requests.")
    parser.addoption("--screenshots", type=Path, help="Folder for a picture of each page's states.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of the whole product their time, if they say nothing of it."""
    for item in items:
        whole = item.path.parent.name in ("e2e", "browser")
        if whole and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STACK_SECONDS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A module is one worker's; so are modules that share what takes long to start.

    That is a stack, and the exhibition with its browser.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            folder, _, name = module.rpartition("/")
            if folder == "tests/browser" and name in EXHIBITION:
                return "exhibition"
            shares = folder in ("tests/e2e", "tests/browser") and module != OWN_STACK
            return folder if shares else module

        def _assign_work_unit(self, node: Any) -> None:
            for scope in reversed(LONGEST):
                if scope in self.workqueue:
                    self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    return ByModule(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests have measured, whichever worker ran them: no test asserts a time."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    told = [text for each in reports for name, text in each.user_properties if name == "measured"]
    if told:
        terminalreporter.section("measured")
        for text in dict.fromkeys(told):
            terminalreporter.write_line(text)


def pytest_configure() -> None:
    """Keep the developer's own configuration out of the tests."""
    for name in [name for name in os.environ if name.startswith("ECOLINK_") and name != CI]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = os.devnull  # there is no login in a folder that cannot be
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # Chosen long before a server binds it, a port must not be another worker's choice.
        number, count = int(worker[2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        own = ports.candidates()[number::count]
        ports.candidates = lambda: own


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny base model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def home() -> Iterator[Path]:
    """A new home directory."""
    with _home() as path:
        yield path


@pytest.fixture(scope="session")
def servers() -> Iterator[Settings]:
    """A PostgreSQL with a migrated database and a NATS with JetStream, for the whole run."""
    with _home() as path:
        settings = Settings(home=path, test_payments=True)
        if docker_answers():
            with containers(settings) as filled:
                _make_template(filled)
                yield filled
        else:
            with up(settings, {}) as stack:
                _make_template(stack.settings)
                yield stack.settings


@pytest.fixture(scope="session")
def ecolink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EcoLinkUnderTest]:
    """One stack for all tests of the whole product, with short minutes and quick heartbeats."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(
        home=home,
        heartbeat_seconds=0.2,
        meter_minute_seconds=5,
        silence_seconds=45,
        test_payments=True,
    )
    with running_ecolink(tmp_path_factory.mktemp("model"), settings) as under_test:
        yield under_test


@pytest.fixture
def settings(servers: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings of one test: a migrated database of its own, no streams, its own home."""
    with own_database(servers, tmp_path) as own:
        yield own


@contextmanager
def own_database(servers: Settings, home: Path) -> Iterator[Settings]:
    """The servers with a migrated database of one's own, without streams, and a home."""
    name = f"test_{uuid4().hex}"
    with ThreadPoolExecutor(1) as thread:  # a loop of its own, whatever loop the test uses
        thread.submit(asyncio.run, _delete_streams(servers)).result()
    # Copied as files: page by page, through the log, takes twice as long.
    _administer(servers, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, TEMPLATE)
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
    """Empties the event store, which has the catalog, for tests that count what they write."""
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
def pool(settings: Settings) -> Iterator[ConnectionPool[Connection]]:
    """Connections to the database of one test."""
    with open_pool(settings, max_size=4) as opened:
        yield opened


@pytest.fixture
async def js(settings: Settings) -> AsyncIterator[JetStreamContext]:
    """JetStream, in which nothing is provisioned yet."""
    connection = await bus.connect(settings)
    yield connection.jetstream()
    await connection.close()


@contextmanager
def _home() -> Iterator[Path]:
    """A folder that any user may reach, as the embedded PostgreSQL may need.

    In memory where there is enough: the servers then do all that they do elsewhere, without the
    wait for a disk. What these tests kill are processes, and the kernel keeps what those wrote.
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


def _make_template(settings: Settings) -> None:
    """A copy of the migrated database that nobody is ever connected to, so it can be cloned."""
    _administer(settings, "CREATE DATABASE {} TEMPLATE {}", TEMPLATE, "ecolink")


def _administer(settings: Settings, statement: LiteralString, *names: str) -> None:
    url = _with_database(settings.owner_database_url, "postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _with_database(url: str | None, name: str) -> str:
    assert url is not None
    return url.rpartition("/")[0] + f"/{name}"
