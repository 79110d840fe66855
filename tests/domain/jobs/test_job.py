"""Job: pause, resume, cancel, an empty balance and a lost capacity, alone and in races."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain.core.aggregate import because
from domain.core.errors import StaleSegment, WrongState
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import RELAUNCH_LIMIT, Job, JobStatus, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from tests.builders.examples import (
    ESTIMATE,
    RETENTION,
    at,
    cancelled,
    complete,
    ending,
    evaluate,
    happened,
    job,
    paused,
    running,
    save_checkpoint,
)
from tests.domain.conftest import NOW

RATE = 3_600_000


def resume(given: Job, rate: int = RATE) -> None:
    given.resume(ESTIMATE, rate, "2")


def test_pause_a_running_segment_is_asked_and_the_job_is_paused_with_its_end() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    given.pause()
    assert given.status is JobStatus.TRAINING
    assert given.stop_requested
    given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
    happened_since = given.collect_events()
    assert [type(each).TOPIC for each in happened_since] == [
        "CheckpointSaved",
        "PauseRequested",
        "SegmentEnded",
        "JobPaused",
    ]
    last = happened_since[-1]
    assert isinstance(last, events.JobPaused)
    assert (last.reason, last.step) == (PauseReason.OWNER, 10)
    assert (given.status, given.next_segment) == (JobStatus.PAUSED, None)
    assert not given.stop_requested


def test_pause_a_job_that_waits_for_a_gpu_is_paused_at_once() -> None:
    given = job()
    given.pause()
    assert happened(given) == ["JobPaused"]


def test_pause_a_segment_that_was_never_launched_ends_at_no_cost() -> None:
    given = job()
    given.allocate_segment(1)
    given.pause()
    given.end_segment(1, ending(SegmentEnd.STOPPED, 0))
    assert happened(given) == [
        "SegmentAllocated",
        "PauseRequested",
        "SegmentEnded",
        "JobPaused",
    ]


def test_pause_twice_is_once() -> None:
    given = running()
    given.pause()
    given.pause()
    assert happened(given) == ["PauseRequested"]
    given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
    given.pause()
    assert happened(given) == ["SegmentEnded", "JobPaused"]


def test_pause_twice_is_once_also_when_the_trainer_went_on_meanwhile() -> None:
    given = running()
    given.pause()
    evaluate(given, 1)
    given.pause()
    assert happened(given).count("PauseRequested") == 1


def test_pause_a_trainer_that_completes_before_it_hears_registers() -> None:
    given = running()
    given.pause()
    complete(given, 1)
    assert given.status is JobStatus.REGISTERED
    assert "JobPaused" not in happened(given)


@pytest.mark.parametrize("failure", [FailureClass.NODE_LOST, FailureClass.TRAINER_CRASHED])
def test_pause_a_crash_meanwhile_is_not_relaunched(failure: FailureClass) -> None:
    given = running()
    given.pause()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=failure))
    assert happened(given) == ["PauseRequested", "SegmentEnded", "JobPaused"]


def test_pause_a_crash_that_would_come_again_fails_the_job_all_the_same() -> None:
    given = running()
    given.pause()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=FailureClass.OUT_OF_MEMORY))
    assert given.status is JobStatus.FAILED


def test_pause_paid_time_that_ends_meanwhile_is_still_the_owners_pause() -> None:
    given = running()
    given.pause()
    given.end_segment(1, ending(SegmentEnd.LEASE_ENDED, 300), can_pay=False)
    last = given.collect_events()[-1]
    assert isinstance(last, events.JobPaused)
    assert last.reason is PauseReason.OWNER


def test_pause_after_a_cancel_it_is_refused() -> None:
    given = running()
    given.cancel(RETENTION)
    with pytest.raises(WrongState):
        given.pause()


def test_deplete_paid_time_that_ends_without_money_pauses() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    given.end_segment(1, ending(SegmentEnd.LEASE_ENDED, 301, grace_seconds=1), can_pay=False)
    last = given.collect_events()[-1]
    assert isinstance(last, events.JobPaused)
    assert (last.reason, last.step) == (PauseReason.BALANCE, 10)


def test_deplete_paid_time_that_ends_while_there_is_money_is_relaunched() -> None:
    given = running()
    given.end_segment(1, ending(SegmentEnd.LEASE_ENDED, 300), can_pay=True)
    assert happened(given) == ["SegmentEnded"]
    assert given.next_segment == 2


def test_deplete_a_job_that_waits_is_paused() -> None:
    given = job()
    given.deplete()
    last = given.collect_events()[-1]
    assert isinstance(last, events.JobPaused)
    assert last.reason is PauseReason.BALANCE


def test_deplete_a_segment_that_runs_ends_itself() -> None:
    given = running()
    given.deplete()
    assert happened(given) == []


def test_deplete_a_job_that_holds_no_gpu_has_nothing_to_lose() -> None:
    for given in (paused(), cancelled()):
        given.deplete()
        assert happened(given) == []


def test_deplete_an_overrun_is_a_lease_that_ended_whose_lost_work_is_credited() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=40)
    given.end_segment(
        1,
        ending(SegmentEnd.LEASE_ENDED, 318, grace_seconds=18),
        can_pay=False,
        overran=True,
    )
    ended, last = given.collect_events()[1:]
    assert isinstance(ended, events.SegmentEnded)
    assert (ended.kept_seconds, ended.failure, given.crashes) == (40, None, 0)
    assert isinstance(last, events.JobPaused)
    assert last.reason is PauseReason.BALANCE


def test_lose_capacity_a_job_that_waits_is_paused_and_can_be_resumed() -> None:
    given = job()
    given.lose_capacity()
    (last,) = given.collect_events()
    assert isinstance(last, events.JobPaused)
    assert last.reason is PauseReason.CAPACITY
    given.lose_capacity()
    assert happened(given) == []
    resume(given)
    assert given.next_segment == 1


def test_lose_capacity_what_runs_or_is_over_stays() -> None:
    for given in (running(), cancelled(), paused()):
        given.lose_capacity()
        assert happened(given) == []


def test_launch_takes_a_minutes_money_or_what_its_gate_asked_for() -> None:
    given = job()
    assert given.launch_micros(60) == 60_000
    assert given.launch_micros(300) == ESTIMATE.high_micros
    given.pause()
    given.resume(None, 1, "2")
    assert given.launch_micros(60) == 1, "no rate is so low that nothing is enough"


def test_resume_it_goes_on_at_the_new_rate() -> None:
    given = paused()
    resume(given, 7_200_000)
    assert given.next_segment == 2
    given.allocate_segment(2)
    resumed, allocated = given.collect_events()
    assert isinstance(resumed, events.JobResumed)
    assert (resumed.rate_micros_per_hour, resumed.catalog_version) == (7_200_000, "2")
    assert resumed.estimate == ESTIMATE
    assert isinstance(allocated, events.SegmentAllocated)
    assert (allocated.segment, allocated.rate_micros_per_hour) == (2, 7_200_000)
    assert given.status is JobStatus.TRAINING


def test_resume_it_goes_on_with_the_gpus_that_were_asked_for() -> None:
    given = paused()
    assert given.gpu_count == 1
    given.resume(ESTIMATE, 7_200_000, "2", 2)
    assert given.gpu_count == 2
    assert given.plan.gpu_count == 1, "what was approved stays"
    given.allocate_segment(2)
    given.start_training(2, 10, 30, 100, 5)
    complete(given, 2)
    (scored,) = [e for e in given.collect_events() if isinstance(e, events.EstimateScored)]
    assert scored.gpu_count == 2


def test_resume_given_again_it_is_once_until_the_next_pause() -> None:
    given = paused()
    resume(given)
    resume(given)
    given.allocate_segment(2)
    resume(given)
    assert happened(given) == ["JobResumed", "SegmentAllocated"]
    given.pause()
    given.end_segment(2, ending(SegmentEnd.STOPPED, 5))
    resume(given)
    assert happened(given)[-1] == "JobResumed"


def test_resume_a_job_that_was_never_paused_refuses_it() -> None:
    with pytest.raises(WrongState):
        resume(running())


def test_resume_it_says_whether_it_would_do_anything() -> None:
    given = paused()
    assert given.must_resume()
    resume(given)
    assert not given.must_resume()
    with pytest.raises(WrongState):
        running().must_resume()


def test_resume_while_it_is_about_to_pause_it_is_refused() -> None:
    given = paused()
    resume(given)
    given.allocate_segment(2)
    given.pause()
    with pytest.raises(WrongState):
        resume(given)


def test_resume_while_it_is_being_cancelled_it_is_refused() -> None:
    given = paused()
    resume(given)
    given.allocate_segment(2)
    given.cancel(RETENTION)
    with pytest.raises(WrongState):
        resume(given)


def test_resume_a_job_paused_in_evaluation_evaluates_again() -> None:
    given = running()
    save_checkpoint(given, 1, 30, elapsed_seconds=70)
    given.start_evaluation(1, 30)
    given.pause()
    given.end_segment(1, ending(SegmentEnd.STOPPED, 75))
    assert given.trained
    resume(given)
    assert given.status is JobStatus.EVALUATING
    given.allocate_segment(2)
    given.start_training(2, 30, 30, 100, 5)
    assert given.status is JobStatus.EVALUATING


def test_resume_the_step_is_that_of_the_checkpoint() -> None:
    given = running(segment=2)
    assert (given.step, given.trained) == (0, False)
    save_checkpoint(given, 2, 10)
    given.pause()
    given.end_segment(2, ending(SegmentEnd.STOPPED, 60))
    assert (given.step, given.total_steps, given.trained) == (10, 30, False)


def test_cancel_a_running_segment_is_asked_and_settled_with_its_end() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    given.cancel(RETENTION)
    given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
    happened_since = given.collect_events()
    assert [type(each).TOPIC for each in happened_since[1:]] == [
        "CancelRequested",
        "SegmentEnded",
        "JobCancelled",
    ]
    last = happened_since[-1]
    assert isinstance(last, events.JobCancelled)
    assert (last.step, last.checkpoint_ref) == (10, "checkpoints/1/10")
    assert (last.manifest_sha256, last.expires_at) == ("c" * 64, NOW + RETENTION)
    assert (given.status, given.next_segment) == (JobStatus.CANCELLED, None)


def test_cancel_the_retention_time_counts_from_the_end() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    given.cancel(RETENTION)
    with because(at(60)):
        given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
    assert given.expires_at == NOW + RETENTION + timedelta(seconds=60)


@pytest.mark.parametrize("waiting", [job, paused])
def test_cancel_without_a_segment_it_is_at_once(waiting: object) -> None:
    assert callable(waiting)
    given = waiting()
    given.cancel(RETENTION)
    assert happened(given) == ["JobCancelled"]


def test_cancel_before_any_checkpoint_nothing_is_kept() -> None:
    given = running()
    given.cancel(RETENTION)
    given.end_segment(1, ending(SegmentEnd.STOPPED, 5))
    last = given.collect_events()[-1]
    assert isinstance(last, events.JobCancelled)
    assert (last.checkpoint_ref, last.manifest_sha256, last.expires_at) == (None, None, None)


def test_cancel_twice_is_once() -> None:
    given = running()
    given.cancel(RETENTION)
    given.cancel(RETENTION)
    given.end_segment(1, ending(SegmentEnd.STOPPED, 5))
    given.cancel(RETENTION)
    assert happened(given) == ["CancelRequested", "SegmentEnded", "JobCancelled"]


def test_cancel_it_supersedes_a_pause_on_its_way() -> None:
    given = running()
    given.pause()
    given.cancel(RETENTION)
    given.end_segment(1, ending(SegmentEnd.STOPPED, 60))
    assert happened(given)[-1] == "JobCancelled"


def test_cancel_a_trainer_that_completes_all_the_same_registers_nothing() -> None:
    given = running()
    given.cancel(RETENTION)
    evaluate(given, 1)
    with pytest.raises(WrongState):
        given.register(1, "adapter", "a" * 64)
    given.end_segment(1, ending(SegmentEnd.COMPLETED, 90))
    assert happened(given)[-1] == "JobCancelled"
    assert given.model is None


def test_cancel_while_it_is_being_registered_it_is_allowed() -> None:
    given = running()
    evaluate(given, 1)
    given.cancel(RETENTION)
    given.end_segment(1, ending(SegmentEnd.COMPLETED, 90))
    assert given.status is JobStatus.CANCELLED


def test_cancel_a_crash_meanwhile_cancels_even_after_the_last_relaunch() -> None:
    given = job()
    for number in range(1, RELAUNCH_LIMIT + 1):
        given.allocate_segment(number)
        given.end_segment(number, ending(SegmentEnd.CRASHED, 1))
    given.allocate_segment(RELAUNCH_LIMIT + 1)
    given.cancel(RETENTION)
    given.end_segment(RELAUNCH_LIMIT + 1, ending(SegmentEnd.CRASHED, 1))
    assert given.status is JobStatus.CANCELLED


def test_cancel_reports_that_come_later_are_refused() -> None:
    with pytest.raises(StaleSegment):
        save_checkpoint(cancelled(), 1, 20)
