"""`ecolink events tail` stops after a job's last event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.operator.events import Ending
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from tests.builders.history import History
from tests.deploy.operator.command_line import ecolink
from tests.logs import envelopes


def cancelled_in_the_queue(history: History) -> None:
    history.run_until("approved")
    history.cancel()


def cancelled_while_it_runs(history: History) -> None:
    history.run_until("training")
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)


def cancelled_after_a_pause(history: History) -> None:
    history.run_until("training")
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    history.cancel()


@pytest.mark.parametrize(
    ("tell", "last"),
    [
        (History.run_with_a_crash, "MeterClosed"),
        (cancelled_in_the_queue, "JobCancelled"),
        (cancelled_while_it_runs, "MeterClosed"),
        (cancelled_after_a_pause, "JobCancelled"),
    ],
)
def test_following_a_job_ends_with_its_last_event(
    log: EventLog, tell: Callable[[History], None], last: str
) -> None:
    tell(History(log))
    ending = Ending()
    reached = [(ending.reached(each), each.topic) for each in envelopes(log)]
    assert next(topic for over, topic in reached if over) == last
    assert [over for over, _ in reached] == sorted(over for over, _ in reached)


def test_a_malformed_job_id_is_refused() -> None:
    assert "'nonsense'" in ecolink("events", "tail", "--job", "nonsense", exit_code=2)
