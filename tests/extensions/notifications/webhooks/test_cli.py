"""`ecolink webhooks` against a gateway and the work of the webhooks process."""

from __future__ import annotations

import pytest

from tests.extensions.notifications.webhooks.conftest import URL, Process
from tests.gateway.cli.conftest import Owner, meanwhile
from tests.gateway.cli.conftest import me as me
from tests.gateway.cli.conftest import url as url
from tests.polling import eventually


def created(me: Owner, *options: str) -> str:
    """Create a webhook, and return its ID."""
    return me.read("webhooks", "create", URL, *options)["id"]


def test_a_webhook_is_created_listed_changed_and_deleted(me: Owner) -> None:
    secret = me.run("webhooks", "create", URL, "--description", "builds").strip()
    assert secret.startswith("whsec_")
    listed = me.run("webhooks", "list")
    assert URL in listed
    assert "builds" in listed
    (webhook,) = me.read("webhooks", "list")["data"]
    id = webhook["id"]
    assert me.run("webhooks", "rotate", id).strip() not in ("", secret)
    off = me.read("webhooks", "update", id, "--disable", "--event", "balance.low")
    assert (off["enabled"], off["event_types"]) == (False, ["balance.low"])
    on = me.read("webhooks", "update", id, "--enable", "--all-events")
    assert (on["enabled"], on["event_types"]) == (True, [])
    assert "enabled" in me.run("webhooks", "show", id)
    me.run("webhooks", "delete", id)
    assert me.read("webhooks", "list")["data"] == []
    assert "Unknown webhook" in me.refused("webhooks", "show", id, code=4)


@pytest.mark.parametrize(("status", "error", "code"), [(200, None, 0), (500, "Status 500.", 1)])
def test_a_test_event_shows_the_response(
    me: Owner, process: Process, status: int, error: str | None, code: int
) -> None:
    id = created(me)
    sent = meanwhile(lambda: eventually(lambda: process.attempt(status, error)))
    shown = me.result("webhooks", "test", id, code=code)
    sent.join()
    assert "webhook.test" in shown.stdout
    assert str(status) in shown.stdout


def test_deliveries_are_listed_and_replayed(me: Owner, process: Process) -> None:
    id = created(me)
    process.record(id, "evt_1")
    process.exhaust()
    (failed,) = me.read("webhooks", "deliveries", id, "--status", "failed")["data"]
    assert "Status 500." in me.run("webhooks", "deliveries", id)
    me.run("webhooks", "update", id, "--enable")
    replayed = me.read("webhooks", "replay", id, "--since", "2020-01-01")
    assert replayed == {"replayed": 1}
    assert process.attempt() == [URL]
    again = me.read("webhooks", "replay", id, str(failed["id"]))
    assert again["status"] == "pending"


@pytest.mark.parametrize("arguments", [(), ("1", "--since", "2026-11-24"), ("--since", "soon")])
def test_a_replay_needs_either_a_delivery_or_a_time(me: Owner, arguments: tuple[str, ...]) -> None:
    me.refused("webhooks", "replay", "0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f", *arguments, code=2)
