"""Parked events on the command line of an operator."""

from __future__ import annotations

from uuid import uuid4

from domain.access.role import Role
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine


def test_an_operator_replays_the_parked_events_of_an_aggregate(
    url: str, platform: Platform
) -> None:
    operator = CommandLine(url, platform.person(Role.OPERATOR).key)
    owner = CommandLine(url, platform.person().key)
    assert operator.run("events", "parked") == "No event is parked.\n"
    first, second = uuid4(), uuid4()
    with connect(platform.settings) as connection:
        for id, of in ((7, first), (8, second), (9, first)):
            connection.execute(
                "INSERT INTO parked_events VALUES ('billing', %s, %s, 'JobApproved', '[failed]')",
                [id, of],
            )
    owner.refused("events", "parked", code=3)
    owner.refused("events", "replay", "billing", "7", code=3)
    shown = operator.run("events", "replay", "billing", "7")
    assert shown == f"billing retries the parked events of {first}, in order.\n"
    lines = operator.run("events", "parked").splitlines()
    assert lines[0].startswith(f"billing 7 JobApproved of {first} at 2")
    assert lines[0].endswith(": [failed] (replay requested)")
    assert [each.endswith(" (replay requested)") for each in lines] == [True, False, True]
    parked = operator.read("events", "parked")["data"]
    assert [each["replay"] for each in parked] == [True, False, True]
    refused = operator.refused("events", "replay", "billing", "6", code=4)
    assert "billing has no parked event 6." in refused
