"""Guarantees of the servers fixture, for containers and embedded servers alike."""

from __future__ import annotations

import psycopg
import pytest
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError

from infrastructure.bus.streams import EVENTS, connect, provision
from infrastructure.settings import Settings


def shown(settings: Settings, name: str) -> str:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
    ],
)
def test_postgres_commits_synchronously(settings: Settings, name: str, value: str) -> None:
    assert shown(settings, name).replace("Etc/UTC", "UTC") == value


def test_services_are_not_owners_and_a_wrong_password_is_refused(settings: Settings) -> None:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE intrusion (id int)")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(settings.database_url.replace("ecolink_operator:", "ecolink_operator:x"))


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_its_own_migrated_database(settings: Settings, turn: int) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables").fetchall()
        connection.execute("CREATE TABLE left_behind (id int)")
    assert ("ecolink_events",) in tables
    assert ("left_behind",) not in tables


@pytest.fixture
async def services(settings: Settings):
    """A services' connection to a NATS server whose declared streams exist."""
    client = await connect(settings)
    jetstream = client.jetstream()
    assert await jetstream.streams_info() == []
    await provision(jetstream, ())
    yield client
    await client.close()


async def test_a_large_message_passes(services: Client) -> None:
    ack = await services.jetstream().publish("events.a.b.1", bytes(7 * 1024**2))
    assert ack.stream == EVENTS
    with pytest.raises(NoStreamResponseError):
        await services.jetstream().publish("elsewhere", b"")
