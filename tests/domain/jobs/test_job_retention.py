"""The checkpoints of a stopped job, until they are promoted or expire."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from domain.core.errors import WrongState
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, JobStatus
from tests.builders.examples import RETENTION
from tests.builders.scenario import (
    CANCELLED,
    PAUSED,
    RUNNING,
    Step,
    cancelled,
    cancels,
    crashes,
    fact,
    job,
    later,
    saves,
    when,
)

KEPT_SECONDS = RETENTION.total_seconds()
DECADE = 10 * 365 * 86400
PROMOTED = fact(
    "AdapterPromoted",
    model="ft:tiny:222222222222",
    adapter_ref="checkpoints/1/10",
    manifest_sha256="c" * 64,
)
EXPIRED = fact("AdapterExpired", adapter_ref="checkpoints/1/10", manifest_sha256="c" * 64)


FAILED = (*RUNNING, saves(10), crashes(60, FailureClass.LOSS_DIVERGED))


@pytest.mark.parametrize(
    ("given", "steps", "then"),
    [
        pytest.param(
            CANCELLED, [Job.promote, Job.promote], [PROMOTED], id="a checkpoint is promoted once"
        ),
        pytest.param(
            FAILED,
            [later(DECADE, Job.expire_adapter), later(DECADE, Job.promote)],
            [PROMOTED],
            id="the checkpoints of a failed job never expire",
        ),
        pytest.param(
            PAUSED, [later(DECADE, Job.expire_adapter)], [], id="nor do those of a paused one"
        ),
        pytest.param(
            CANCELLED,
            [later(KEPT_SECONDS - 1, Job.expire_adapter)],
            [],
            id="those of a cancelled job are kept for the retention time",
        ),
        pytest.param(
            CANCELLED,
            [later(KEPT_SECONDS, Job.expire_adapter)] * 2,
            [EXPIRED],
            id="and expire once",
        ),
        pytest.param(
            CANCELLED,
            [Job.promote, later(KEPT_SECONDS + 1, Job.expire_adapter), Job.promote],
            [PROMOTED],
            id="a promoted checkpoint stays",
        ),
        pytest.param(
            CANCELLED,
            [Job.promote, Job.delete_model, Job.delete_model],
            [PROMOTED, fact("ModelDeleted", model="ft:tiny:222222222222")],
            id="a model is deleted once",
        ),
    ],
)
def test_checkpoints_are_kept(given: Sequence[Step], steps: list[Step], then: list[fact]) -> None:
    given_job = job(*given)
    status = given_job.status
    assert when(given_job, *steps) == then
    assert given_job.status is status


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        pytest.param((cancels,), Job.promote, id="promote without a checkpoint"),
        pytest.param(
            (
                *RUNNING,
                crashes(60, FailureClass.BAD_DATA),
            ),
            Job.promote,
            id="after a failure too",
        ),
        pytest.param(RUNNING, Job.promote, id="promote a running job"),
        pytest.param(PAUSED, Job.promote, id="promote a paused job"),
        pytest.param(
            CANCELLED, later(KEPT_SECONDS, Job.promote), id="promote after the retention time"
        ),
        pytest.param(
            (
                *RUNNING,
                saves(10),
                cancels,
                crashes(),
                later(KEPT_SECONDS, Job.expire_adapter),
            ),
            Job.promote,
            id="promote an expired checkpoint",
        ),
        pytest.param(CANCELLED, Job.delete_model, id="delete a model that does not exist"),
    ],
)
def test_a_stopped_job_refuses(given: Sequence[Step], refused: Step) -> None:
    with pytest.raises(WrongState):
        refused(job(*given))


def test_a_deleted_model_is_not_promoted_again() -> None:
    given = cancelled()
    when(given, Job.promote)
    assert given.status is JobStatus.CANCELLED
    assert given.model is not None
    when(given, Job.delete_model)
    with pytest.raises(WrongState):
        given.promote()
