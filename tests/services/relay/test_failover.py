"""A failover of PostgreSQL to a standby that lacks the last events, which the bus has."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from eventsourcing.persistence import PersistenceError
from nats.aio.client import Client
from nats.js import JetStreamContext

from infrastructure.postgres.log_identity import LogReplaced, LogWatch
from infrastructure.settings import Settings
from tests.clusters.postgres_pair import postgres_pair
from tests.logs import envelopes
from tests.polling import eventually, eventually_async
from tests.services.relay.test_publisher import contents
from tests.services.relay.test_restore import (
    acknowledged,
    balance,
    consuming,
    credit,
    is_balance,
    opened,
    publish,
)

pytestmark = pytest.mark.full


@pytest.mark.usefixtures("streams")
async def test_the_stream_and_its_consumers_follow_the_log_of_the_new_primary(
    settings: Settings, home: Path, nats: Client, js: JetStreamContext
) -> None:
    """Events that the new primary lacks leave the stream, and reach no read model there."""
    with postgres_pair(home, synchronous=False) as pair:
        servers = settings.model_copy(
            update={
                "database_url": pair.settings.database_url,
                "owner_database_url": pair.settings.owner_database_url,
            }
        )
        with opened(servers) as (log, _):
            watch = LogWatch(log)
            credit(log, 10, 2)
            await publish(servers, nats)
            async with consuming(servers) as consumer:
                await eventually_async(lambda: is_balance(servers, 20))
            pair.detach()
            credit(log, 99, 3)
            await publish(servers, nats)
            watch.check()
            pair.fail_over()
            with pytest.raises(LogReplaced):
                eventually(lambda: watched(watch))
        with opened(servers) as (log, _):
            credit(log, 7, 4)
            expected = envelopes(log)
        async with consuming(servers):
            await eventually_async(lambda: acknowledged(js, consumer.durable.name))
            assert balance(servers) in (20, 48), "a lost event was applied"
            await publish(servers, nats)
            await eventually_async(lambda: is_balance(servers, 48))
        assert await contents(js) == expected


def watched(watch: LogWatch) -> bool:
    """Check the log, whose server may not be reachable yet."""
    with suppress(PersistenceError, psycopg.Error):
        watch.check()
    return False
