"""The part of the log that a replay of charges reads."""

from __future__ import annotations

from domain.core.event_log import EventLog
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.what_if import CHARGES, TOPICS, Rounding, reprice
from extensions.invoices.what_if.charge_rows import charge_rows
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.bills import day
from tests.extensions.invoices.bills import NOVEMBER, OCTOBER, stored_rows, two_months

ALL = Period(start=day(1, 1), end=day(12, 31))


def test_a_replay_of_a_period_reads_only_its_charges_with_their_jobs(
    settings: Settings, log: EventLog
) -> None:
    two_months(log)
    every = [row for row in stored_rows(log) if row.topic in TOPICS]
    with connect(settings) as store:
        read = {period: list(charge_rows(store, period)) for period in (OCTOBER, NOVEMBER, ALL)}
    assert read[ALL] == every
    for period in (OCTOBER, NOVEMBER):
        prices = {"cpu": 1_000_000, "h100": 9_000_000}
        given = (prices, Rounding.MINUTE, period)
        assert reprice(read[period], *given) == reprice(every, *given) != {}
    charges = {
        period: {row.notification_id for row in rows if row.topic in CHARGES}
        for period, rows in read.items()
    }
    assert charges[OCTOBER] | charges[NOVEMBER] == charges[ALL]
    assert not charges[OCTOBER] & charges[NOVEMBER]
    assert not set(read[OCTOBER]) & set(read[NOVEMBER]), "no job was active in both months"


def test_a_period_without_charges_reads_nothing(settings: Settings, log: EventLog) -> None:
    with connect(settings) as store:
        assert list(charge_rows(store, NOVEMBER)) == []
        two_months(log)
        assert list(charge_rows(store, Period(start=day(1, 1), end=day(2, 1)))) == []
