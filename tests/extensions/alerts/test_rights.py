"""The roles of alerts have the rights that they need, and no others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from deploy.database_roles import role_of
from domain.core.event_log import EventLog
from extensions.alerts.domain.evaluation import Silence
from extensions.alerts.tables import open_alerts, resolved_alerts, silence, unsilence
from infrastructure.postgres.store import open_pool
from infrastructure.settings import Settings
from tests.builders.history import History
from tests.deploy.test_database_roles import (  # noqa: F401
    PASSWORD,
    known_passwords,
    logged_in,
    refused,
)
from tests.extensions.alerts.process import AlertsProcess


async def test_the_process_may_run_every_check(
    settings: Settings, log: EventLog, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.run_with_a_crash()
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("alerts"), password=PASSWORD)
    own = settings.model_copy(
        update={"database_url": url, "owner_database_url": None, "disk_low_bytes": 10**18}
    )
    with open_pool(own) as pool:
        process = AlertsProcess(own, log, pool, "")
        await process.step()
        await process.step(after_seconds=61)
        assert "disk-low" in process.names()
    assert [each for each in caplog.records if "failed" in each.message] == []
    with logged_in(settings, "alerts") as connection:
        refused(connection, "INSERT INTO alert_silences VALUES ('', '', now())")


def test_the_gateway_silences_alerts(settings: Settings) -> None:
    now = datetime.now(UTC)
    with logged_in(settings, "gateway") as connection:
        connection.row_factory = dict_row
        assert open_alerts(connection, now) == resolved_alerts(connection, now, 1) == []
        silence(connection, Silence("disk-low", None, now))
        silence(connection, Silence("disk-low", None, now))
        assert unsilence(connection, "disk-low", None)
        refused(connection, "DELETE FROM alerts")
        refused(connection, "UPDATE alert_notices SET state = 'sent'")
