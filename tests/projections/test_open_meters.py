"""Open meters, which the billing ticker reads."""

from __future__ import annotations

from domain.core.identity import meter_id
from domain.jobs.job import SegmentEnd
from infrastructure.postgres.store import Connection
from projections import BILLING_LEDGER, JOB_DETAIL, OPEN_METERS
from projections.open_meters import bound_segments, burns, unbound_segments
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import BOUND_AT, History
from tests.projections.conftest import Fold


def test_a_meter_is_open_from_its_lease_until_it_is_settled(
    history: History, fold: Fold, connection: Connection
) -> None:
    def rows() -> list[dict[str, object]]:
        return fold(OPEN_METERS).execute("SELECT * FROM open_meters").fetchall()

    segment: dict[str, object] = {"job_id": JOB_ID, "segment": 1}
    row = {"meter_id": meter_id(JOB_ID, 1), "account_id": ACCOUNT_ID, **segment}
    history.run_until("leased")
    assert rows() == [row | {"bound_at": None}]
    assert (bound_segments(connection), unbound_segments(connection)) == ([], [segment])
    history.start_pod(1)
    assert rows() == [row | {"bound_at": BOUND_AT}]
    assert (bound_segments(connection), unbound_segments(connection)) == ([segment], [])
    history.end_segment(1, SegmentEnd.STOPPED, 10)
    assert rows() == []


def test_a_job_costs_nothing_once_the_guarantee_covers_it(history: History, fold: Fold) -> None:
    def rate() -> tuple[int, int]:
        for each in (JOB_DETAIL, BILLING_LEDGER, OPEN_METERS):
            connection = fold(each)
        burn = burns(connection, [ACCOUNT_ID])[ACCOUNT_ID]
        return burn.jobs, burn.rate_micros_per_hour

    history.run_covered(100, ends=False)
    assert rate() == (1, 3_600_000)
    history.bill(1, 250)
    assert rate() == (1, 0)
