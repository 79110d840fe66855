"""Connections leave a server of several as soon as another one is promoted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from infrastructure.postgres import primary
from infrastructure.postgres.database_url import connection_parameters
from infrastructure.postgres.leadership import SESSION_NAME
from infrastructure.postgres.primary import (
    WATCH_NAME,
    Primary,
    PrimaryConnection,
    Servers,
    Timeline,
    connect_async,
    servers_of,
    timeline_of,
)
from infrastructure.postgres.store import open_pool
from infrastructure.settings import Settings
from tests.polling import eventually

ATTEMPTS = 10
"""Attempts of a pool, which would take minutes if the pause doubled each time."""


def test_a_promotion_ends_the_timeline_before_of_the_same_cluster() -> None:
    first, second = Timeline.parsed("7345/00000009"), Timeline.parsed("7345/0000000A")
    assert str(second) == "7345/0000000A"
    assert first.is_before(second)
    assert not second.is_before(first)
    assert not first.is_before(first)
    assert not first.is_before(Timeline.parsed("9999/0000000A"))


@pytest.fixture
def parameters(settings: Settings) -> dict[str, Any]:
    """Parameters that name the server of the tests, and one on which nothing listens."""
    assert settings.database_url is not None
    found = connection_parameters(settings.database_url)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return found | {"host": f"127.0.0.1,{found['host']}", "port": f"{port},{found['port']}"}


@pytest.fixture
def known(parameters: dict[str, Any]) -> Servers:
    found = servers_of(parameters)
    assert found is not None
    assert servers_of(parameters) is found
    return found


def promote_another(known: Servers, connection: psycopg.Connection[Any]) -> None:
    timeline = timeline_of(connection)
    assert timeline is not None
    later = replace(timeline, number=timeline.number + 1)
    known._note(Primary(later, "127.0.0.1", "1"))


def test_one_server_is_not_watched(settings: Settings) -> None:
    assert settings.database_url is not None
    assert servers_of(connection_parameters(settings.database_url)) is None


def test_the_primary_comes_first_after_the_first_look(
    parameters: dict[str, Any], known: Servers
) -> None:
    reachable = parameters["port"].rpartition(",")[2]
    ordered = known.primary_first(parameters)
    assert ordered["port"].startswith(f"{reachable},")
    assert set(ordered["port"].split(",")) == set(parameters["port"].split(","))


def test_a_connection_that_waits_ends_when_another_server_is_promoted(
    parameters: dict[str, Any], known: Servers
) -> None:
    busy = "SELECT count(*) AS count FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'"
    with (
        PrimaryConnection.connect(autocommit=True, **parameters) as waiting,
        psycopg.connect(autocommit=True, **parameters) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        sleeping = thread.submit(lambda: waiting.execute("SELECT pg_sleep(600)"))
        eventually(lambda: other.execute(busy).fetchone() != (0,))
        promote_another(known, other)
        with pytest.raises(psycopg.OperationalError):
            sleeping.result(60)
        with pytest.raises(psycopg.OperationalError, match="former primary"):
            PrimaryConnection.connect(**parameters)


def test_a_new_connection_ends_if_its_server_freezes_before_it_states_its_timeline(
    parameters: dict[str, Any], known: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = "SELECT pg_sleep(600)::text"
    busy = "SELECT FROM pg_stat_activity WHERE query = %s AND application_name <> %s"
    PrimaryConnection.connect(**parameters).close()
    with (
        psycopg.connect(autocommit=True, **parameters) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        timeline = timeline_of(other)
        assert timeline is not None
        monkeypatch.setattr(primary, "TIMELINE", never)
        opening = thread.submit(PrimaryConnection.connect, **parameters)
        eventually(lambda: other.execute(busy, [never, WATCH_NAME]).rowcount)
        known._note(Primary(replace(timeline, number=timeline.number + 1), "127.0.0.1", "1"))
        with pytest.raises(psycopg.OperationalError):
            opening.result(60)


async def test_a_listening_connection_is_refused_by_a_former_primary(
    parameters: dict[str, Any], known: Servers
) -> None:
    async with await connect_async(parameters):
        with psycopg.connect(autocommit=True, **parameters) as other:
            promote_another(known, other)
    with pytest.raises(psycopg.OperationalError, match="former primary"):
        await connect_async(parameters)


def test_the_watch_has_no_session_that_counts_as_a_standby(parameters: dict[str, Any]) -> None:
    lead = SESSION_NAME % "relay"
    names = "SELECT count(*) AS count FROM pg_stat_activity WHERE application_name = %s"
    with (
        PrimaryConnection.connect(autocommit=True, application_name=lead, **parameters),
        psycopg.connect(autocommit=True, **parameters) as other,
    ):
        eventually(lambda: other.execute(names, [WATCH_NAME]).fetchone() != (0,))
        assert other.execute(names, [lead]).fetchone() == (1,)


def test_the_watch_keeps_its_session_until_an_error(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(primary, "WATCH_SECONDS", 0.05)
    sessions = (
        "SELECT pid, query_start FROM pg_stat_activity "
        "WHERE application_name = %s AND datname = current_database()"
    )
    with (
        PrimaryConnection.connect(autocommit=True, **parameters),
        psycopg.connect(autocommit=True, **parameters) as other,
    ):

        def watch() -> tuple[int, Any]:
            eventually(lambda: other.execute(sessions, [WATCH_NAME]).rowcount == 1)
            ((pid, asked),) = other.execute(sessions, [WATCH_NAME]).fetchall()
            return pid, asked

        first, began = watch()
        for _ in range(3):
            eventually(lambda: watch()[1] > began)  # noqa: B023
            pid, began = watch()
            assert pid == first
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
        eventually(lambda: other.execute(sessions, [WATCH_NAME]).rowcount == 1)
        assert watch()[0] != first


def test_a_transaction_can_begin_on_a_new_connection(parameters: dict[str, Any]) -> None:
    with PrimaryConnection.connect(**parameters) as connection:
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        connection.autocommit = True


@pytest.fixture
def attempts() -> Iterator[tuple[int, list[str]]]:
    """A port that refuses each client at once, and the clients."""
    clients: list[str] = []

    def accept() -> None:
        while True:
            try:
                client, (host, _) = listener.accept()
            except OSError:  # closed
                return
            clients.append(host)
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()[1], clients
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_a_pool_keeps_the_same_pause_between_its_attempts(
    settings: Settings, attempts: tuple[int, list[str]]
) -> None:
    port, clients = attempts
    url = f"postgresql://someone@127.0.0.1:{port}/ecolink"
    with open_pool(settings.model_copy(update={"database_url": url})):
        eventually(lambda: len(clients) >= ATTEMPTS, 30)
