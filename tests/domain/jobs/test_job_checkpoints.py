"""The checkpoints of a job: saved, rejected, certified and pruned."""

from __future__ import annotations

from typing import Any

import pytest

from domain.core.errors import Invalid, StaleSegment
from domain.jobs.job import Job, SegmentEnd
from domain.training.checkpoint import RejectionReason, best
from domain.training.early_stopping import EarlyStop
from tests.builders.examples import (
    ACCOUNT_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    STATE,
    evaluation_result,
    resume_certificate,
)
from tests.builders.scenario import (
    Step,
    allocates,
    crashes,
    ends,
    fact,
    registers,
    running,
    saves,
    starts_evaluation,
    topics,
    trains,
    when,
)

OTHER_STATE = STATE.model_copy(update={"random": "5" * 64})


def rejects(ref: str, reason: RejectionReason = RejectionReason.CORRUPT) -> Step:
    return lambda given: given.reject_checkpoint(given.segment, ref, reason)


def certifies(step: int = 10, ref: str = "checkpoints/1/10", **fields: Any) -> Step:
    certificate = resume_certificate(**{"step": step, "ref": ref, "state": STATE, **fields})
    return lambda given: given.certify_resume(given.segment, certificate)


def refs(given: Job) -> list[str]:
    return [each.ref for each in given.checkpoints]


def test_a_checkpoint_has_the_hashes_of_its_state() -> None:
    given = running(saves(10, eval_loss=1.25))
    (saved,) = given.checkpoints
    assert given.checkpoints.newest is saved
    assert (saved.step, saved.state, saved.eval_loss) == (10, STATE, 1.25)


def test_a_rejected_checkpoint_gives_way_to_the_one_before_it() -> None:
    saved = (saves(10, elapsed_seconds=40), saves(20, elapsed_seconds=70))
    given = running(*saved, crashes(90), allocates)
    assert given.usage.paid_seconds == 70
    assert when(given, rejects("checkpoints/1/20"), rejects("checkpoints/1/20")) == [
        fact("CheckpointRejected", step=20, reason="corrupt", saved_in=1, kept_seconds=40)
    ]
    assert (refs(given), given.step) == (["checkpoints/1/10"], 10)
    assert given.usage.paid_seconds == 40
    assert when(given, rejects("checkpoints/1/10")) == [fact("CheckpointRejected", kept_seconds=0)]
    assert (given.checkpoints.newest, given.step) == (None, 0)
    assert (given.usage.paid_seconds, given.usage.paid_micros) == (0, 0)


def test_no_work_is_lost_with_a_checkpoint_that_is_not_the_newest() -> None:
    saved = (saves(10, elapsed_seconds=40), saves(20, elapsed_seconds=70))
    given = running(*saved, crashes(90), allocates)
    assert when(given, rejects("checkpoints/1/10")) == [
        fact("CheckpointRejected", kept_seconds=None)
    ]
    assert (refs(given), given.usage.paid_seconds) == (["checkpoints/1/20"], 70)


def test_a_rejection_reduces_only_the_segment_that_saved_the_checkpoint() -> None:
    given = running(
        *(saves(10, elapsed_seconds=40), crashes(50), allocates),
        *(saves(20, elapsed_seconds=30), crashes(35), allocates),
    )
    assert when(given, rejects("checkpoints/2/20")) == [
        fact("CheckpointRejected", saved_in=2, kept_seconds=0)
    ]
    assert given.usage.paid_seconds == 40


def test_a_rejection_without_another_checkpoint_costs_the_user_nothing() -> None:
    """The checkpoint of the first segment is pruned, or it was rejected before the newest one."""
    given = running(
        *(saves(10, elapsed_seconds=3600), crashes(3600), allocates),
        *(saves(20, elapsed_seconds=30), crashes(35), allocates),
        *(rejects("checkpoints/1/10"), rejects("checkpoints/2/20")),
    )
    assert (given.step, given.usage.paid_seconds) == (0, 0)


def test_segments_after_the_checkpoint_that_is_left_cost_the_user_nothing() -> None:
    given = running(
        *(saves(10, elapsed_seconds=40), crashes(50), allocates),
        *(ends(SegmentEnd.LEASE_ENDED, 3600), allocates),
        *(saves(20, elapsed_seconds=30), crashes(35), allocates),
    )
    assert given.usage.paid_seconds == 40 + 3600 + 30
    when(given, rejects("checkpoints/3/20"))
    assert given.usage.paid_seconds == 40


def test_a_step_that_is_saved_again_after_a_rejection_is_no_progress() -> None:
    """Otherwise, a store that damages all files would have a job relaunched forever."""
    given = running(saves(10), crashes(50), allocates, rejects("checkpoints/1/10"), saves(10))
    assert given.crashes == 1
    when(given, saves(11))
    assert given.crashes == 0


def test_only_the_running_segment_rejects_and_certifies() -> None:
    given = running(saves(10), crashes(50), allocates)
    with pytest.raises(StaleSegment):
        given.reject_checkpoint(1, "checkpoints/1/10", RejectionReason.CORRUPT)
    with pytest.raises(StaleSegment):
        given.certify_resume(1, resume_certificate(10, "checkpoints/1/10", STATE))


def test_a_resume_is_certified_once_a_segment() -> None:
    given = running(saves(10), crashes(50), allocates)
    assert when(given, certifies(), certifies()) == [fact("ResumeCertified", step=10, state=STATE)]
    # Parts of the state without a saved hash may differ.
    unchecked = certifies(state=OTHER_STATE, unchecked=("random",), ranks=2)
    assert topics(when(given, crashes(20), allocates, unchecked))[-1] == "ResumeCertified"


@pytest.mark.parametrize(
    "wrong", [{"ref": "checkpoints/1/20"}, {"step": 20}, {"state": OTHER_STATE}]
)
def test_a_resume_from_another_state_is_not_certified(wrong: dict[str, Any]) -> None:
    given = running(saves(10), crashes(50), allocates)
    with pytest.raises(Invalid):
        when(given, certifies(**wrong))
    assert given.collect_events() == []


def test_the_best_is_the_first_of_those_with_the_lowest_loss() -> None:
    losses = ((10, 1.5), (20, None), (30, 1.2), (40, 1.2))
    given = running(*[saves(step, eval_loss=loss) for step, loss in losses])
    lowest = best(given.checkpoints)
    assert lowest is not None
    assert lowest.step == 30
    assert best(given.checkpoints[1:2]) is None


def test_the_last_two_checkpoints_and_the_best_are_kept() -> None:
    losses = ((10, 1.5), (20, 1.2), (30, 1.3), (40, 1.4), (50, None))
    given = running(*[saves(step, eval_loss=loss) for step, loss in losses])
    assert when(given, Job.prune_checkpoints, Job.prune_checkpoints) == [
        fact("CheckpointPruned", step=10, ref="checkpoints/1/10"),
        fact("CheckpointPruned", step=30, ref="checkpoints/1/30"),
    ]
    assert [each.step for each in given.checkpoints] == [20, 40, 50]


@pytest.mark.parametrize(("loss_after", "kept"), [(1.25, [10, 30]), (1.15, [30])])
def test_a_finished_job_keeps_the_last_and_the_best(loss_after: float, kept: list[int]) -> None:
    """The last one has the state that was evaluated in the end, which may be the best."""
    losses = ((10, 1.2), (20, 1.3), (30, None))
    given = running(*[saves(step, eval_loss=loss) for step, loss in losses], starts_evaluation)
    given.complete_evaluation(1, evaluation_result(loss_after=loss_after))
    when(given, registers, Job.prune_checkpoints)
    assert [each.step for each in given.checkpoints] == kept


def test_a_promoted_checkpoint_is_never_pruned() -> None:
    given = running(saves(10), crashes(50), *[allocates, crashes(50)] * 3)
    when(given, Job.promote, Job.prune_checkpoints)
    assert refs(given) == ["checkpoints/1/10"]


def test_overfitting_is_suspected_once_when_the_held_out_loss_stalls() -> None:
    losses = ((5, 1.5), (10, 1.25), (15, 1.25), (20, None), (22, 1.5), (25, 1.75), (28, 1.75))
    happened = when(running(), *[saves(step, eval_loss=loss) for step, loss in losses])
    assert [each for each in happened if each.TOPIC != "CheckpointSaved"] == [
        fact(
            "OverfittingSuspected",
            step=25,
            eval_loss=1.75,
            best_step=10,
            best_eval_loss=1.25,
        )
    ]


STOP = EarlyStop(
    step=20,
    planned_steps=30,
    evaluations=2,
    eval_loss=1.4,
    lowest_step=10,
    lowest_eval_loss=1.2,
)


def stops_early(given: Job) -> None:
    given.stop_early(given.segment, STOP)


def test_an_early_stop_is_the_end_of_the_training() -> None:
    given = running(saves(10, eval_loss=1.2), saves(20, eval_loss=1.4))
    assert not given.trained
    assert when(given, stops_early, stops_early) == [
        fact("TrainingStoppedEarly", segment=1, step=20, planned_steps=30, lowest_step=10)
    ]
    assert (given.total_steps, given.trained, given.stopped_early) == (20, True, STOP)
    when(given, starts_evaluation)
    given.complete_evaluation(1, evaluation_result(loss_after=1.2, step=10, final_loss=1.4))
    assert [each.eval_loss for each in given.checkpoints] == [1.2, 1.4]
    assert topics(when(given, registers)) == ["Registered"]


def test_a_job_that_lost_the_checkpoint_of_its_early_stop_repeats_the_stop() -> None:
    saved = (saves(10, eval_loss=1.2), saves(20, eval_loss=1.4))
    given = running(*saved, stops_early, crashes(90), allocates)
    when(given, rejects("checkpoints/1/20"), trains(10))
    assert (given.stopped_early, given.total_steps, given.trained) == (None, 30, False)
    assert topics(when(given, saves(20, eval_loss=1.4), stops_early)) == [
        "CheckpointSaved",
        "TrainingStoppedEarly",
    ]


def test_a_resume_after_an_early_stop_keeps_it() -> None:
    given = running(saves(20, eval_loss=1.4), stops_early, crashes(90), allocates)
    when(given, lambda it: it.start_training(it.segment, 20, 20, 100, 5))
    assert when(given, stops_early) == []
    assert given.trained


def test_the_evaluation_of_a_saved_step_replaces_its_checkpoint() -> None:
    """The segment had to end before the evaluation, so it had saved the step without a loss."""

    def evaluated(given: Job) -> None:
        newest = given.checkpoints[-1]
        given.save_checkpoint(newest.model_copy(update={"ref": "again", "eval_loss": 1.1}))

    given = running(saves(10, eval_loss=1.2), saves(20))
    assert topics(when(given, evaluated, evaluated)) == ["CheckpointSaved"]
    assert (given.best_step, given.best_eval_loss) == (20, 1.1)
    when(given, saves(20))  # a repeated report
    when(given, Job.prune_checkpoints)
    assert refs(given) == ["checkpoints/1/10", "again"]


@pytest.mark.parametrize(
    ("wanted", "while_running", "after"),
    [(None, [20, 40, 50], [20, 50]), (1, [20, 40, 50], [20, 50]), (3, [20, 30, 40, 50], None)],
)
def test_a_job_keeps_the_chosen_number_of_checkpoints_and_the_best(
    wanted: int | None, while_running: list[int], after: list[int] | None
) -> None:
    losses = ((10, 1.5), (20, 1.2), (30, 1.3), (40, 1.4), (50, 1.4))
    chosen = PLAN.hyperparameters | ({"n_checkpoints": wanted} if wanted else {})
    given = Job.approve(
        JOB_ID, ACCOUNT_ID, PLAN.model_copy(update={"hyperparameters": chosen}), ESTIMATE
    )
    when(given, allocates, trains(), *[saves(step, eval_loss=loss) for step, loss in losses])
    when(given, Job.prune_checkpoints)
    assert [each.step for each in given.checkpoints] == while_running
    when(given, starts_evaluation)
    given.complete_evaluation(1, evaluation_result(loss_after=1.4))
    when(given, registers, Job.prune_checkpoints)
    assert [each.step for each in given.checkpoints] == (after or while_running)
