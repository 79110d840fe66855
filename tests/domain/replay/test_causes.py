"""Causes of events, in a job that the real services ran."""

from __future__ import annotations

import pytest

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.job_request import JobRequest
from domain.replay.causes import Basis, Explanation, Origin, explain
from tests.builders.commands import NOW
from tests.builders.entries import Entries, damaged, entries_of
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.builders.history import History
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.simulation.story import STORY_PLAN, approved, told


@pytest.fixture(scope="module")
def log() -> Entries:
    """The log of a job that was paused at zero, topped up, resumed and registered."""
    events = EventLog()
    told(events)
    return Entries(entries_of(events))


def topics(found: Explanation) -> list[str]:
    return [step.item.event.TOPIC for step in found.steps]


def commands(found: Explanation) -> list[str]:
    """Return the topics of the events that people caused."""
    return [step.item.event.TOPIC for step in found.steps if step.origin is Origin.COMMAND]


def without(log: Entries, event: Recorded) -> Entries:
    return Entries([each for each in log.entries if each != event])


def changed(item: Recorded, **fields: object) -> Recorded:
    return Recorded.of(item.id, item.event.model_copy(update=fields))


def test_a_charge_leads_back_to_the_click_that_approved_the_job(log: Entries) -> None:
    found = explain(log.all("MinuteMetered")[0], log)
    assert topics(found) == [
        "JobApproved",
        "SegmentAllocated",
        "LeaseGranted",
        "PodStarted",
        "MinuteMetered",
    ]
    assert commands(found) == ["JobApproved"]


def test_a_charge_after_a_resume_leads_back_to_the_click_that_resumed_the_job(
    log: Entries,
) -> None:
    assert commands(explain(log.last("MinuteMetered"), log)) == ["JobResumed"]


def test_the_charge_of_an_account_leads_to_the_minutes_that_were_saved_with_it(
    log: Entries,
) -> None:
    settled = log.last("UsageSettled")
    found = explain(settled, log)
    (last,) = (step for step in found.steps if step.item == settled)
    assert found.steps[-1] == last
    (minute,) = (link.id for link in last.links if link.basis is Basis.SAVED_TOGETHER)
    assert minute == log.last("MinuteMetered").id
    assert "PodStarted" in topics(found)


def test_every_event_of_the_log_has_a_cause_or_is_a_command(log: Entries) -> None:
    for entry in log.entries:
        assert isinstance(entry, Recorded)
        found = explain(entry, log)
        assert found.steps[-1].item == entry
        assert Origin.UNKNOWN not in [step.origin for step in found.steps], entry
        assert [link for step in found.steps for link in step.links if link.problem] == [], entry
        assert commands(found), entry


def test_causes_are_sorted_from_the_oldest(log: Entries) -> None:
    ids = [step.item.id for step in explain(log.last("MinuteMetered"), log).steps]
    assert ids == sorted(ids)


def test_a_pause_at_zero_follows_the_end_of_its_segment(log: Entries) -> None:
    found = explain(log.last("JobPaused"), log)
    assert topics(found)[-2:] == ["SegmentEnded", "JobPaused"]
    assert found.steps[-1].links[0].basis is Basis.RULE


def test_the_effects_of_an_event_name_it_as_their_cause(log: Entries) -> None:
    allocated = log.all("SegmentAllocated")[0]
    effects = [each for each in explain(allocated, log).effects if isinstance(each, Recorded)]
    assert [each.event.TOPIC for each in effects] == ["MeterOpened", "LeaseGranted", "UsageSettled"]


def test_events_of_one_save_are_listed(log: Entries) -> None:
    saved = explain(log.all("SegmentAllocated")[0], log).saved_together
    topics = [each.event.TOPIC for each in saved if isinstance(each, Recorded)]
    assert topics == ["GpusRequested", "GpusAllocated"]


def test_gpus_that_another_job_released_are_named_but_not_followed() -> None:
    events = EventLog()
    story = approved(events, seconds_of_money=1_000)
    waiting = story.platform.approve(story.account_id, "another", STORY_PLAN)
    story.work(60)
    story.complete()
    log = Entries(entries_of(events))
    allocated = log.last("SegmentAllocated")
    assert allocated.event.originator_id == waiting
    found = explain(allocated, log)
    (released,) = (step for step in found.steps if step.item.event.TOPIC == "GpusReleased")
    assert not released.followed
    assert {each.item.event.originator_id for each in found.steps} >= {waiting}
    assert story.job_id not in {each.item.event.originator_id for each in found.steps}
    assert commands(found) == ["JobApproved"]


def test_the_end_of_a_segment_that_its_owner_paused_names_the_request() -> None:
    events = EventLog()
    story = approved(events)
    story.work(10)
    story.platform.command_job(story.job_id, Job.pause)
    story.platform.end_finished()
    log = Entries(entries_of(events))
    found = explain(log.last("JobPaused"), log)
    assert commands(found) == ["JobApproved", "PauseRequested"]


def test_the_pause_of_a_suspended_account_names_the_suspension() -> None:
    events = EventLog()
    history = History(events, command=lambda id: because(Cause("service:test", id, NOW)))
    history.run_until("training")
    queued = history.another_job()
    queued.approve_job()
    history.suspend()
    for each in (history, queued):
        with each.changing_job() as job:
            job.suspend()
    history.end_segment(1, SegmentEnd.STOPPED)
    log = Entries(entries_of(events))
    assert topics(explain(log.last("PauseRequested"), log)) == [
        "AccountSuspended",
        "PauseRequested",
    ]
    of_queued, of_running = log.all("JobPaused")
    assert topics(explain(of_queued, log)) == ["JobApproved", "AccountSuspended", "JobPaused"]
    assert "AccountSuspended" in topics(explain(of_running, log))


def test_a_job_that_was_requested_before_its_files_were_ready_leads_to_the_request() -> None:
    events = EventLog()
    with because(Cause("account:a", "request", NOW)):
        request = JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER)
        events.commit(request)
    with because(Cause("account:a", "approval", NOW, f"{request.id}:1")):
        events.commit(Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE))
    log = Entries(entries_of(events))
    found = explain(log.last("JobApproved"), log)
    assert topics(found) == ["JobRequested", "JobApproved"]
    assert commands(found) == ["JobRequested"]


def test_a_cause_that_the_log_lacks_is_reported(log: Entries) -> None:
    opened = log.last("MeterOpened")
    cause = log.named(opened.event.causation_id or "")
    assert isinstance(cause, Recorded)
    found = explain(opened, without(log, cause))
    (link, *_) = found.steps[-1].links
    assert (link.id, link.event_id) == (None, cause.event.event_id)
    assert link.problem is not None
    assert cause.event.event_id in link.problem


def test_a_damaged_cause_is_reported(log: Entries) -> None:
    opened = log.last("MeterOpened")
    entries = [damaged(each) if _is_cause(each, opened) else each for each in log.entries]
    (link, *_) = explain(opened, Entries(entries)).steps[-1].links
    assert link.id is not None
    assert link.problem == f"Event {link.id} is damaged: the state is not JSON"


def test_a_cause_that_is_later_than_its_effect_is_reported(log: Entries) -> None:
    opened = log.last("MeterOpened")
    forged = changed(opened, causation_id=log.last("MeterClosed").event.event_id)
    (link, *_) = explain(forged, log).steps[-1].links
    assert "which is later" in (link.problem or "")


def test_a_service_event_whose_cause_is_gone_has_an_unknown_origin(log: Entries) -> None:
    minute = log.all("MinuteMetered")[0]
    found = explain(minute, Entries([minute]))
    assert [step.origin for step in found.steps] == [Origin.UNKNOWN]


def _is_cause(entry: object, effect: Recorded) -> bool:
    return isinstance(entry, Recorded) and entry.event.event_id == effect.event.causation_id


def test_a_limit_keeps_the_newest_causes_and_the_first_effects(log: Entries) -> None:
    minute = log.last("MinuteMetered")
    whole = explain(minute, log)
    assert whole.has_all_causes
    assert explain(minute, log, len(whole.steps) - 1) == explain(minute, log, 1_000) == whole
    cut = explain(minute, log, 2)
    assert cut.steps == whole.steps[-3:]
    assert not cut.has_all_causes

    approved = log.last("JobApproved")
    entries = Entries([*log.entries, *(effect(approved, id) for id in range(10_001, 10_006))])
    effects = explain(approved, entries).effects
    assert len(effects) >= 5
    few = explain(approved, entries, 3)
    assert (few.effects, few.has_all_effects) == (effects[:3], False)
    assert explain(approved, entries, len(effects)).has_all_effects


def effect(cause: Recorded, id: int) -> Recorded:
    return Recorded.of(id, cause.event.model_copy(update={"causation_id": cause.event.event_id}))
