"""Each control of the pages names the right that it needs."""

from __future__ import annotations

from fastapi.testclient import TestClient

from extensions.notifications.domain.kind import CHOSEN
from extensions.notifications.notices import tables as notices
from infrastructure.postgres.store import connect
from tests.builders.commands import NOW
from tests.builders.platform import Platform
from tests.gateway.web.test_needed_rights import require_marks, signed_in


def test_each_control_of_webhooks_names_its_right(client: TestClient, platform: Platform) -> None:
    owner = platform.person()
    signed_in(client, owner)
    form = {"url": "https://example.com/"}
    made = client.post("/api/webhooks", json=form, headers=owner.headers).json()["id"]
    client.post(f"/api/webhooks/{made}/test", headers=owner.headers)
    require_marks(client, "/webhooks", f"/webhooks/{made}")


def test_each_control_of_notices_names_its_right(client: TestClient, platform: Platform) -> None:
    owner = platform.person()
    signed_in(client, owner)
    require_marks(client, "/notices")
    with connect(platform.settings) as connection:
        notices.set_address(connection, owner.account_id, "ada@example.com", CHOSEN, NOW)
    require_marks(client, "/notices")
