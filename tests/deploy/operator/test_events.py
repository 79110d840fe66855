"""`ecolink events subscribe`: its filters, and its end after a job's last event."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from nats.js import JetStreamContext

from deploy.operator.events import Ending, Wanted, events_on_bus
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from infrastructure.bus.streams import AGGREGATE_OF, Envelope, provision
from infrastructure.settings import Settings
from tests.builders.examples import JOB_ID
from tests.builders.history import History
from tests.deploy.operator.command_line import ecolink
from tests.logs import envelopes, grow

OTHER_ID = UUID(int=9)


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
    assert "'nonsense'" in ecolink("events", "subscribe", "--job", "nonsense", exit_code=2)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--topic", "MinuteMeterd"), ("--aggregate", "Metre"), ("--account", "nobody")],
)
@pytest.mark.usefixtures("settings")
def test_an_unknown_name_is_refused(option: str, value: str) -> None:
    shown = ecolink("events", "subscribe", option, value, exit_code=2)
    assert f"Unknown {option.removeprefix('--')} '{value}'" in shown


@pytest.mark.full
async def test_filters_combine(js: JetStreamContext, log: EventLog, settings: Settings) -> None:
    await provision(js, ())
    History(log).run_with_a_crash()
    grow(log, 3, OTHER_ID)
    published = envelopes(log)
    for each in published:
        await js.publish(each.subject, each.model_dump_json().encode())

    async def shown(wanted: Wanted) -> list[int]:
        return [each.id async for each in events_on_bus(settings, wanted, follow=False)]

    def expected(condition: Callable[[Envelope], bool]) -> list[int]:
        return [each.id for each in published if condition(each)]

    assert await shown(Wanted()) == expected(lambda each: True)
    assert await shown(Wanted(account_id=OTHER_ID)) == expected(
        lambda each: each.state["account_id"] == str(OTHER_ID)
    )
    assert await shown(Wanted(aggregate="Meter", after=published[5].id)) == expected(
        lambda each: AGGREGATE_OF[each.topic] == "Meter" and each.id > published[5].id
    )
    topics = frozenset({"MinuteMetered", "PodStarted"})
    assert await shown(Wanted(job_id=JOB_ID, topics=topics)) == expected(
        lambda each: each.topic in topics
    )
    assert await shown(Wanted(topics=frozenset({"PodStarted"}))) == expected(
        lambda each: each.topic == "PodStarted"
    )


async def test_the_events_of_a_job_end_even_if_its_last_one_is_not_shown(
    js: JetStreamContext, log: EventLog, settings: Settings
) -> None:
    await provision(js, ())
    History(log).run_with_a_crash()
    for each in envelopes(log):
        await js.publish(each.subject, each.model_dump_json().encode())
    wanted = Wanted(job_id=JOB_ID, topics=frozenset({"PodStarted"}))
    shown = [each.topic async for each in events_on_bus(settings, wanted, follow=True)]
    assert set(shown) == {"PodStarted"}
