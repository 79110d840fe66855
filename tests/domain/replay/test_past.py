"""States as of a moment."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.jobs.lifecycle import JobStatus
from domain.replay.account_state import AccountState
from domain.replay.entry import Entry
from domain.replay.job_state import JobState
from domain.replay.past import Moment, Past, state_at
from tests.builders.entries import Entries, damaged, entries_of
from tests.builders.history import History
from tests.simulation.story import SECOND_MICROS, Story, told


@pytest.fixture(scope="module")
def story() -> Story:
    """A job that was paused at zero, topped up, resumed and registered."""
    return told(EventLog())


@pytest.fixture(scope="module")
def log(story: Story) -> Entries:
    return Entries(entries_of(story.platform.log))


def job_at(log: Entries, moment: Moment = Moment()) -> Past[JobState]:
    return state_at(JobState(), log.entries, moment)


def account_at(log: Entries, moment: Moment = Moment()) -> Past[AccountState]:
    return state_at(AccountState(), log.entries, moment)


def status(past: Past[JobState]) -> JobStatus:
    assert past.state.job is not None
    return past.state.job.status


def test_the_state_at_the_end_is_that_of_the_log(story: Story, log: Entries) -> None:
    job, account = job_at(log), account_at(log)
    assert status(job) is JobStatus.REGISTERED
    assert job.state.charged_micros == 230 * SECOND_MICROS
    assert account.state.account is not None
    assert account.state.account.balance_micros == 870 * SECOND_MICROS
    assert account.state.totals.topped_up == 1_100 * SECOND_MICROS
    assert account.state.totals.charged == 230 * SECOND_MICROS
    assert (job.next, job.problem) == (None, None)
    assert job.last == log.entries[-1]


def test_a_moment_can_be_an_event_which_is_included(log: Entries) -> None:
    paused = log.last("JobPaused")
    at, before = job_at(log, Moment(event=paused.id)), job_at(log, Moment(event=paused.id - 1))
    assert status(at) is JobStatus.PAUSED
    assert status(before) is JobStatus.TRAINING
    assert before.next == paused


def test_a_moment_can_be_a_time_which_is_included(log: Entries) -> None:
    minute = log.all("MinuteMetered")[0]
    at = minute.event.timestamp
    assert job_at(log, Moment(at)).state.charged_micros == 60 * SECOND_MICROS
    assert job_at(log, Moment(at - timedelta(microseconds=1))).state.charged_micros == 0


def test_a_state_ends_before_the_first_event_that_is_later_than_the_moment(log: Entries) -> None:
    """A service whose clock is behind can save an event after a later one."""
    entries = list[Entry](log.entries)
    paused = log.last("JobPaused")
    index = entries.index(paused)
    late = paused.event.timestamp + timedelta(hours=1)
    entries[index] = Recorded.of(paused.id, paused.event.model_copy(update={"timestamp": late}))
    past = job_at(Entries(entries), Moment(paused.event.timestamp + timedelta(minutes=1)))
    assert past.next == entries[index]
    assert status(past) is JobStatus.TRAINING


def test_a_missing_event_ends_the_state_with_a_problem(log: Entries) -> None:
    gone = log.all("MinuteMetered")[0]
    past = job_at(Entries([each for each in log.entries if each != gone]))
    assert past.problem is not None
    assert "Events are missing" in past.problem
    assert past.state.charged_micros == 0


def test_a_damaged_event_ends_the_state_with_a_problem(log: Entries) -> None:
    paused = log.last("JobPaused")
    entries = [damaged(each) if each == paused else each for each in log.entries]
    past = job_at(Entries(entries))
    assert past.problem == f"Event {paused.id} (JobPaused) is damaged: the state is not JSON."
    assert status(past) is JobStatus.TRAINING


def test_an_event_that_contradicts_the_state_is_a_problem(log: Entries) -> None:
    trained = log.all("TrainingStarted")[0]
    forged = Recorded.of(trained.id, trained.event.model_copy(update={"segment": 7}))
    entries = [forged if each == trained else each for each in log.entries]
    assert "contradicts" in (job_at(Entries(entries)).problem or "")


def test_a_job_has_its_segments_with_their_meters(log: Entries) -> None:
    first, second = job_at(log).state.segments.values()
    assert (first.number, second.number) == (1, 2)
    assert first.ending is not None
    assert first.ending.reason == "lease_ended"
    assert first.meter is not None
    assert first.meter.billed_seconds == 100
    assert (first.charged_micros, second.charged_micros) == (
        100 * SECOND_MICROS,
        130 * SECOND_MICROS,
    )


def test_lost_work_is_credited_to_its_segment() -> None:
    history = History(EventLog())
    history.run_with_a_crash()
    state = job_at(Entries(entries_of(history.log))).state
    assert state.credited_micros == 60 * SECOND_MICROS
    assert state.charged_micros == 230 * SECOND_MICROS
    assert state.segments[2].credited_micros == 0


def test_an_account_has_its_keys_and_reservations() -> None:
    history = History(EventLog())
    history.run_until("training")
    key = history.issue_key()
    state = account_at(Entries(entries_of(history.log))).state
    assert state.keys[key.id].revoked_at is None
    assert state.account is not None
    assert [meter.job_id for meter in state.open_meters] == [history.job_id]
    assert state.account.reserved_micros == 300 * SECOND_MICROS


def test_a_revoked_key_has_the_time_of_its_revocation() -> None:
    history = History(EventLog())
    history.open_account(SECOND_MICROS)
    key = history.issue_key()
    with history.changing_account():
        key.revoke()
        history.log.commit(key)
    (found,) = account_at(Entries(entries_of(history.log))).state.keys.values()
    assert found.revoked_at is not None
