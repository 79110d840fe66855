"""The audit of the charges that count against API keys."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from services.billing.settlement import MeteredSegment, close, open_meter, settle
from services.projector.key_charges import KeyChargeCheck
from services.projector.store_checks import Difference
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, POLICY, account

KEY, OTHER_KEY = (UUID(int=number) for number in (1, 2))


def billed() -> list[Event]:
    """Return the events of two segments, of which one loses its last 50 s."""
    with command():
        payer, events = account(10_000_000), list[Event]()
        meters = [
            Meter.open(ACCOUNT_ID, JOB_ID, segment, 3_600_000, key_id=key_id)
            for segment, key_id in ((1, KEY), (2, None))
        ]
        for each in meters:
            open_meter(payer, each, POLICY)
        settle(payer, [MeteredSegment(each, 100) for each in meters], POLICY)
        for each in meters:
            close(payer, each, 200, 150, POLICY)
    for each in (*meters, payer):
        events.extend(each.collect_events())  # type: ignore[arg-type]
    return events


def check(events: list[Event]) -> list[Difference]:
    found = KeyChargeCheck()
    found.take([Recorded.of(number, event) for number, event in enumerate(events, 1)])
    return list(found.differences())


def test_the_charges_of_each_key_are_those_of_its_meters() -> None:
    assert check(billed()) == []


@pytest.mark.parametrize("kind", [Account.UsageSettled, Account.ChargeReversed, Meter.MeterOpened])
def test_a_charge_of_another_key_is_reported(kind: type[Event]) -> None:
    events = billed()
    number = max(
        n
        for n, each in enumerate(events)
        if isinstance(each, kind) and str(KEY) in each.model_dump_json()
    )
    forged = events[number].model_dump_json().replace(str(KEY), str(OTHER_KEY))
    events[number] = type(events[number]).model_validate_json(forged)
    assert len(check(events)) == 2
