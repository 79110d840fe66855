"""A restore to an earlier event keeps the deliveries and notices of its events."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from extensions.backup.point_in_time import Moment
from extensions.notifications.domain.kind import CHOSEN
from extensions.notifications.notices import tables as notices
from infrastructure.postgres.store import connect
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.backup.conftest import Backups
from tests.extensions.backup.conftest import backups as backups
from tests.extensions.backup.test_point_in_time import id_of, restore

pytestmark = pytest.mark.full


def test_a_cut_keeps_the_webhooks_and_notices_of_its_events_whenever_they_were_recorded(
    backups: Backups,
) -> None:
    registered = id_of(backups, "Registered")
    endpoint = UUID(int=5)
    with connect(backups.settings) as store:
        store.execute(
            "INSERT INTO webhook_endpoints (id, account_id, url, event_types, description, "
            "enabled, created_at, after_position) "
            "VALUES (%s, %s, 'https://x.example', '{}', '', true, '2020-01-01', 0)",
            [endpoint, ACCOUNT_ID],
        )
        then = datetime(2020, 1, 1, tzinfo=UTC)
        notices.set_address(store, ACCOUNT_ID, "ada@example.com", CHOSEN, then)
        address = notices.address_of(store, ACCOUNT_ID)
        assert address is not None
        for message in (f"evt_a_{registered}", f"evt_a_{registered + 5}", "evt_test_ab"):
            store.execute(
                "INSERT INTO webhook_deliveries (endpoint_id, message_id, event_type, order_key, "
                "body, status, created_at, next_attempt_at) "
                "VALUES (%s, %s, 'x', 'a', '{}', 'pending', now(), now())",
                [endpoint, message],
            )
            store.execute(
                "INSERT INTO notices (address_id, message_id, kind, data, status, created_at) "
                "VALUES (%s, %s, 'balance.low', '{}', 'sent', now())",
                [address.id, message],
            )
    restore(backups, Moment(event=registered))
    with connect(backups.elsewhere) as store:
        for table in ("webhook_deliveries", "notices"):
            query = f"SELECT message_id FROM {table} WHERE message_id LIKE 'evt%' ORDER BY id"
            rows = store.execute(query.encode()).fetchall()
            assert [each["message_id"] for each in rows] == [f"evt_a_{registered}", "evt_test_ab"]
