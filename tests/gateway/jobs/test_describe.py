"""Descriptions of a job's events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from eventsourcing.persistence import StoredEvent

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Cause, Event, because
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest
from domain.training.checkpoint import ModeDifference, RejectionReason
from domain.training.early_stopping import EarlyStop
from gateway.jobs.describe import SETTINGS, STATE_PARTS, describe
from tests.builders.examples import STATE, evaluation_result, resume_certificate
from tests.builders.scenario import allocates, crashes, running, saves
from tests.domain.test_stored_events import MAPPER, STORED

DESCRIBED = (
    *(events.JobEvent, JobRequest.Event, Meter.Event, Deployment.Event),
    *(GpuPool.GpusRequested, GpuPool.GpusRequestWithdrawn),
    *(GpuPool.GpusAllocated, GpuPool.GpusReleased),
)
CAUSE = Cause("account:test", "command-1", datetime(2026, 11, 24, 12, tzinfo=UTC))
CODE = ModeDifference(setting="code", saved="0.1.0 (ab12)", now="0.2.0 (no revision)")
THREADS = ModeDifference(setting="threads", saved="2", now="1")
RANKS = ModeDifference(setting="ranks", saved="2", now="1")


@pytest.fixture
def given() -> Iterator[Job]:
    """A job whose first segment crashed after two checkpoints, and whose second one runs."""
    with because(CAUSE):
        yield running(saves(10), saves(20), crashes(100), allocates)


@pytest.mark.parametrize("row", STORED, ids=lambda row: row.topic)
def test_every_event_of_a_timeline_has_a_sentence(row: StoredEvent) -> None:
    event = MAPPER.to_domain_event(row)
    assert isinstance(event, Event)
    text = describe(event, "ft:model").text
    assert text.endswith(".")
    assert (text == f"{event.TOPIC}.") is not isinstance(event, DESCRIBED)


def test_an_approval_has_no_ids_of_gpu_types_and_regions() -> None:
    """The settings of the job have their display names."""
    stored = [MAPPER.to_domain_event(row) for row in STORED]
    approvals = [each for each in stored if isinstance(each, events.JobApproved)]
    assert approvals
    for event in approvals:
        words = describe(event).text.replace(".", "").split()
        assert event.plan.gpu_type not in words
        assert event.plan.region not in words


@pytest.mark.parametrize(
    ("unchecked", "differences", "level", "named"),
    [
        ((), (), "info", []),
        ((), (THREADS,), "warn", ["threads"]),
        ((), (CODE, THREADS), "warn", [SETTINGS["code"], "threads"]),
        (("random",), (RANKS,), "warn", [STATE_PARTS["random"], "ranks"]),
    ],
)
def test_a_resume_names_what_differs_from_the_saved_state(
    given: Job,
    unchecked: tuple[str, ...],
    differences: tuple[ModeDifference, ...],
    level: str,
    named: list[str],
) -> None:
    certificate = resume_certificate(10, "checkpoints/1/10", STATE, unchecked, 1, differences)
    given.certify_resume(2, certificate)
    (event,) = given.collect_events()
    description = describe(event)  # type: ignore[arg-type]
    assert description.level == level
    assert all(name in description.text for name in ["step 10", *named])


def test_an_early_stop_says_that_a_threshold_decides(given: Job) -> None:
    """The loss may have fallen, but by less than the threshold."""
    stop = EarlyStop(
        step=20,
        planned_steps=30,
        evaluations=2,
        eval_loss=1.1,
        lowest_step=20,
        lowest_eval_loss=1.1,
    )
    given.start_training(2, 20, 30, 100, 5)
    given.collect_events()
    given.stop_early(2, stop)
    (event,) = given.collect_events()
    text = describe(event).text  # type: ignore[arg-type]
    assert all(each in text for each in ("2 evaluations", "threshold", "step 20", "1.1000"))


def test_a_rejection_mentions_a_credit_only_if_there_is_one(given: Job) -> None:
    """A later checkpoint contains the work of an earlier one."""
    for step in (10, 20):
        given.reject_checkpoint(2, f"checkpoints/1/{step}", RejectionReason.CORRUPT)
    earlier, last = (describe(event) for event in given.collect_events())  # type: ignore[arg-type]
    assert (earlier.level, last.level) == ("warn", "warn")
    assert "credit" in last.text
    assert "credit" not in earlier.text


def test_a_lost_best_state_is_named_with_the_registered_one(given: Job) -> None:
    given.start_training(2, 20, 20, 100, 5)
    given.start_evaluation(2, 20)
    result = evaluation_result(step=10, final_loss=2.5, lost_best_step=15, lost_best_loss=1.5)
    given.collect_events()
    given.complete_evaluation(2, result)
    (event,) = given.collect_events()
    description = describe(event)  # type: ignore[arg-type]
    assert description.level == "warn"
    for named in ("step 15", "1.5000", "step 10", "missing or damaged"):
        assert named in description.text
