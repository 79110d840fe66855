"""The page of parked events."""

from __future__ import annotations

from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in


@pytest.fixture
def parked(settings: Settings) -> None:
    """Two parked events of one aggregate, and one of another."""
    aggregate = uuid4()
    with connect(settings) as connection:
        for id, of in ((7, aggregate), (9, aggregate), (8, uuid4())):
            connection.execute(
                "INSERT INTO parked_events VALUES ('billing', %s, %s, 'JobApproved', '<failed>')",
                [id, of],
            )


def test_no_event_is_parked(operator: Browser) -> None:
    assert 'data-empty="parked"' in shown(operator, "/ops/parked")


def test_a_replay_retries_the_parked_events_of_an_aggregate(
    operator: Browser, parked: None, settings: Settings
) -> None:
    page = shown(operator, "/ops/parked")
    assert row(page, 'data-parked="billing 7"').startswith("JobApproved 7 <failed> billing ")
    path = "/ops/parked/billing/7/replay"
    page = operator.client.post(path, headers=operator.htmx).text
    requested = {id: "requested" in row(page, f'data-parked="billing {id}"') for id in (7, 8, 9)}
    assert requested == {7: True, 8: False, 9: True}
    with connect(settings) as connection:
        connection.execute("DELETE FROM parked_events WHERE notification_id = 7")
    assert 'role="alert"' in operator.client.post(path, headers=operator.htmx).text


def test_an_auditor_reads_parked_events_and_cannot_replay_them(
    client: TestClient, platform: Platform, parked: None
) -> None:
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    assert 'data-parked="billing 7"' in shown(auditor, "/ops/parked")
    path = "/ops/parked/billing/7/replay"
    assert 'role="alert"' in auditor.client.post(path, headers=auditor.htmx).text
    assert "requested" not in shown(auditor, "/ops/parked")
