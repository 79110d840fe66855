"""The servers fixture's promises, which hold for containers and for the embedded servers alike."""

from __future__ import annotations

import asyncio

import nats
import psycopg
import pytest
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError

from infrastructure.bus import CONTROL, EVENTS, REPORTS, provision
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
def test_postgres_keeps_what_it_acknowledged(settings: Settings, name: str, value: str) -> None:
    assert shown(settings, name).replace("Etc/UTC", "UTC") == value


def test_the_services_are_no_owners_and_a_wrong_password_is_refused(settings: Settings) -> None:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE intrusion (id int)")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(settings.database_url.replace("ecolink_operator:", "ecolink_operator:x"))


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_migrated_database_of_its_own(settings: Settings, turn: int) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables").fetchall()
        connection.execute("CREATE TABLE left_behind (id int)")
    assert ("ecolink_events",) in tables
    assert ("left_behind",) not in tables


async def connected(url: str | None) -> tuple[Client, asyncio.Queue[Exception]]:
    """A client, and the errors that the server tells it of."""
    assert url is not None
    errors: asyncio.Queue[Exception] = asyncio.Queue()
    return await nats.connect(url, error_cb=errors.put), errors


@pytest.fixture
async def services(settings: Settings):
    """A services' connection to a NATS whose declared streams exist."""
    client, _ = await connected(settings.nats_url)
    jetstream = client.jetstream()
    assert await jetstream.streams_info() == []
    await provision(jetstream, ())
    yield client
    await client.close()


async def test_a_trainer_reports_and_reads_what_is_wanted_of_it(
    settings: Settings, services: Client
) -> None:
    await services.jetstream().publish("control.job.1", b"first")
    trainer, errors = await connected(settings.trainer_nats_url)
    jetstream = trainer.jetstream()
    for subject in (
        *("reports.account.job.1", "telemetry.account.job"),
        *("evaluations.account.job", "logs.account.job"),
    ):
        assert (await jetstream.publish(subject, b"said")).seq >= 1
    last = await jetstream.get_last_msg(CONTROL, "control.job.1")
    assert last.data == b"first"
    ordered = await jetstream.subscribe("control.job.1", ordered_consumer=True)
    assert (await ordered.next_msg(timeout=60)).data == b"first"
    await services.jetstream().publish("control.job.1", b"second")
    assert (await ordered.next_msg(timeout=60)).data == b"second"
    await ordered.unsubscribe()
    pull = await jetstream.pull_subscribe("control.job.1", stream=CONTROL)
    [message] = await pull.fetch(1, timeout=60)
    await message.ack_sync()
    await trainer.close()
    assert errors.empty()


@pytest.mark.parametrize(
    "subject",
    [
        "events.account.Job.1.JobApproved",
        "control.job.1",
        f"$JS.API.STREAM.DELETE.{REPORTS}",
        f"$JS.API.STREAM.MSG.GET.{EVENTS}",
        f"$JS.API.CONSUMER.CREATE.{EVENTS}",
        f"$JS.API.STREAM.PURGE.{CONTROL}",
    ],
)
async def test_a_trainer_may_say_nothing_else(
    settings: Settings, services: Client, subject: str
) -> None:
    trainer, errors = await connected(settings.trainer_nats_url)
    await trainer.publish(subject, b"{}")
    await trainer.flush()
    error = await asyncio.wait_for(errors.get(), 60)
    assert "permissions violation for publish" in str(error).lower()
    await trainer.close()
    assert (await services.jetstream().stream_info(EVENTS)).state.messages == 0


async def test_a_trainer_hears_no_events(settings: Settings, services: Client) -> None:
    trainer, errors = await connected(settings.trainer_nats_url)
    await trainer.subscribe("events.>")
    await trainer.flush()
    error = await asyncio.wait_for(errors.get(), 60)
    assert "permissions violation for subscription" in str(error).lower()
    await trainer.close()


async def test_a_large_message_passes(services: Client) -> None:
    ack = await services.jetstream().publish("reports.a.b.1", bytes(7 * 1024**2))
    assert ack.stream == REPORTS
    with pytest.raises(NoStreamResponseError):
        await services.jetstream().publish("elsewhere", b"")
