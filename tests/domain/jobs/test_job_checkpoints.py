"""Job: what it has saved, resumes from, loses and no longer needs."""

from __future__ import annotations

import pytest

from domain.core.errors import Invalid, StaleSegment
from domain.jobs import events
from domain.jobs.job import Job, SegmentEnd
from domain.training.checkpoint import RejectionReason, StateHashes, best
from tests.builders.examples import (
    STATE,
    ending,
    evaluation_result,
    happened,
    resume_certificate,
    running,
    save_checkpoint,
)


def relaunched(given: Job, segment: int, elapsed_seconds: int) -> None:
    """The running segment is lost after so long, and the next one runs."""
    given.end_segment(segment, ending(SegmentEnd.CRASHED, elapsed_seconds))
    given.allocate_segment(segment + 1)
    given.collect_events()


def refs(given: Job) -> list[str]:
    return [each.ref for each in given.checkpoints]


def test_a_checkpoint_is_known_by_the_hashes_of_its_state() -> None:
    given = running()
    save_checkpoint(given, 1, 10, eval_loss=1.25)
    (saved,) = given.checkpoints
    assert given.checkpoints.newest is saved
    assert (saved.step, saved.state, saved.eval_loss) == (10, STATE, 1.25)


def test_a_rejected_checkpoint_gives_way_to_the_one_before_it() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=40)
    save_checkpoint(given, 1, 20, elapsed_seconds=70)
    relaunched(given, 1, 90)
    assert given.usage.paid_seconds == 70
    for _ in range(2):
        given.reject_checkpoint(2, "checkpoints/1/20", RejectionReason.CORRUPT)
    (event,) = given.collect_events()
    assert isinstance(event, events.CheckpointRejected)
    assert (event.step, event.reason, event.saved_in) == (20, "corrupt", 1)
    assert event.kept_seconds == 40
    assert (refs(given), given.step) == (["checkpoints/1/10"], 10)
    assert given.usage.paid_seconds == 40
    given.reject_checkpoint(2, "checkpoints/1/10", RejectionReason.MISSING)
    (event,) = given.collect_events()
    assert isinstance(event, events.CheckpointRejected)
    assert event.kept_seconds == 0
    assert (given.checkpoints.newest, given.step) == (None, 0)
    assert (given.usage.paid_seconds, given.usage.paid_micros) == (0, 0)


def test_no_work_is_lost_with_a_checkpoint_that_a_newer_one_stands_in_for() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=40)
    save_checkpoint(given, 1, 20, elapsed_seconds=70)
    relaunched(given, 1, 90)
    given.reject_checkpoint(2, "checkpoints/1/10", RejectionReason.MISSING)
    (event,) = given.collect_events()
    assert isinstance(event, events.CheckpointRejected)
    assert event.kept_seconds is None
    assert (refs(given), given.usage.paid_seconds) == (["checkpoints/1/20"], 70)


def test_a_rejected_checkpoint_of_a_segment_before_leaves_the_one_between_alone() -> None:
    given = running()
    save_checkpoint(given, 1, 10, elapsed_seconds=40)
    relaunched(given, 1, 50)
    save_checkpoint(given, 2, 20, elapsed_seconds=30)
    relaunched(given, 2, 35)
    given.reject_checkpoint(3, "checkpoints/2/20", RejectionReason.STATE_DIFFERS)
    (event,) = given.collect_events()
    assert isinstance(event, events.CheckpointRejected)
    assert (event.saved_in, event.kept_seconds) == (2, 0)
    assert given.usage.paid_seconds == 40


def test_what_is_saved_again_after_a_rejection_is_no_progress() -> None:
    """Or a store that damages all it gets would have a job relaunched for ever."""
    given = running()
    save_checkpoint(given, 1, 10)
    relaunched(given, 1, 50)
    given.reject_checkpoint(2, "checkpoints/1/10", RejectionReason.CORRUPT)
    save_checkpoint(given, 2, 10)
    assert given.crashes == 1
    save_checkpoint(given, 2, 11)
    assert given.crashes == 0


def test_only_the_running_segment_rejects_and_certifies() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    relaunched(given, 1, 50)
    with pytest.raises(StaleSegment):
        given.reject_checkpoint(1, "checkpoints/1/10", RejectionReason.CORRUPT)
    with pytest.raises(StaleSegment):
        given.certify_resume(1, resume_certificate(10, "checkpoints/1/10", STATE, (), 1, ()))


def test_a_resume_is_certified_once_a_segment() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    relaunched(given, 1, 50)
    for _ in range(2):
        given.certify_resume(2, resume_certificate(10, "checkpoints/1/10", STATE, (), 1, ()))
    (event,) = given.collect_events()
    assert isinstance(event, events.ResumeCertified)
    assert (event.step, event.state) == (10, STATE)
    relaunched(given, 2, 20)
    given.certify_resume(3, resume_certificate(10, "checkpoints/1/10", STATE, ("random",), 2, ()))
    assert happened(given) == ["ResumeCertified"]


@pytest.mark.parametrize(
    ("step", "ref", "state"),
    [
        (10, "checkpoints/1/20", STATE),
        (20, "checkpoints/1/10", STATE),
        (10, "checkpoints/1/10", STATE.model_copy(update={"random": "5" * 64})),
    ],
)
def test_what_is_not_what_was_saved_is_not_certified(
    step: int, ref: str, state: StateHashes
) -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    relaunched(given, 1, 50)
    with pytest.raises(Invalid):
        given.certify_resume(2, resume_certificate(step, ref, state, (), 1, ()))
    assert happened(given) == []


def test_a_part_that_was_compared_with_nothing_may_differ() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    relaunched(given, 1, 50)
    other = STATE.model_copy(update={"random": "5" * 64})
    given.certify_resume(2, resume_certificate(10, "checkpoints/1/10", other, ("random",), 2, ()))
    assert happened(given) == ["ResumeCertified"]


def test_the_best_is_the_first_of_those_with_the_lowest_loss() -> None:
    given = running()
    for step, eval_loss in ((10, 1.5), (20, None), (30, 1.2), (40, 1.2)):
        save_checkpoint(given, 1, step, eval_loss=eval_loss)
    lowest = best(given.checkpoints)
    assert lowest is not None
    assert lowest.step == 30
    assert best(given.checkpoints[1:2]) is None


def test_the_last_two_checkpoints_and_the_best_are_kept() -> None:
    given = running()
    for step, eval_loss in ((10, 1.5), (20, 1.2), (30, 1.3), (40, 1.4), (50, None)):
        save_checkpoint(given, 1, step, eval_loss=eval_loss)
        given.prune_checkpoints()
    assert [each.step for each in given.checkpoints] == [20, 40, 50]
    pruned = [e for e in given.collect_events() if isinstance(e, events.CheckpointPruned)]
    assert [(e.step, e.ref) for e in pruned] == [(10, "checkpoints/1/10"), (30, "checkpoints/1/30")]
    given.prune_checkpoints()
    assert happened(given) == []


@pytest.mark.parametrize(("loss_after", "kept"), [(1.25, [10, 30]), (1.15, [30])])
def test_a_finished_job_keeps_the_last_and_the_best(loss_after: float, kept: list[int]) -> None:
    """The last holds the state that was evaluated in the end: it may be the best."""
    given = running()
    for step, eval_loss in ((10, 1.2), (20, 1.3), (30, None)):
        save_checkpoint(given, 1, step, eval_loss=eval_loss)
    given.start_evaluation(1, 30)
    given.complete_evaluation(1, evaluation_result(3.0, loss_after, 5, 400))
    given.register(1, "adapter", "a" * 64)
    given.prune_checkpoints()
    assert [each.step for each in given.checkpoints] == kept


def test_what_was_promoted_is_never_pruned() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    given.end_segment(1, ending(SegmentEnd.CRASHED, 50))
    for segment in (2, 3, 4):
        given.allocate_segment(segment)
        given.end_segment(segment, ending(SegmentEnd.CRASHED, 50))
    given.promote()
    given.prune_checkpoints()
    assert refs(given) == ["checkpoints/1/10"]


def test_overfitting_is_suspected_once_the_held_out_loss_stalls() -> None:
    given = running()
    for step, loss in ((5, 1.5), (10, 1.25), (15, 1.25), (20, None), (22, 1.5)):
        save_checkpoint(given, 1, step, eval_loss=loss)
    assert "OverfittingSuspected" not in happened(given)
    for step in (25, 28):
        save_checkpoint(given, 1, step, eval_loss=1.75)
    _, suspected, _ = given.collect_events()
    assert isinstance(suspected, events.OverfittingSuspected)
    assert (suspected.step, suspected.eval_loss) == (25, 1.75)
    assert (suspected.best_step, suspected.best_eval_loss) == (10, 1.25)
