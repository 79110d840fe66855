"""A job's history from its events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import Job, SegmentEnd
from domain.training.checkpoint import ModeDifference, RejectionReason
from infrastructure.artifacts.store import Manifest
from services.scheduler.job_history import JobHistory, StoredModel, provenance_of
from services.scheduler.model_card import model_card
from services.scheduler.provenance import CostFacts
from tests.builders.commands import NOW, command
from tests.builders.examples import (
    ACCOUNT_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    STATE,
    ending,
    resume_certificate,
)
from tests.builders.scenario import saves

RANKS = ModeDifference(setting="ranks", saved="1", now="2")


@pytest.fixture(autouse=True)
def cause() -> Iterator[None]:
    with command("tell"):
        yield


@pytest.fixture
def changed() -> Job:
    """A job with half the micro-batch after running out of memory, and two GPUs after a pause."""
    size = PLAN.lora.micro_batch_size
    shortage = MemoryShortage(
        rows=size, tokens=500, micro_batch_size=size, gradient_accumulation=4, peak_bytes=10**9
    )
    job = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE)
    job.allocate_segment(1)
    job.start_training(1, 0, 30, 95, 5)
    for step in (10, 20):
        saves(step)(job)
    job.pause()
    failure = FailureClass.OUT_OF_MEMORY
    job.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=failure, shortage=shortage))
    job.resume(ESTIMATE, 7_200_000, "2", 2)
    job.allocate_segment(2)
    job.start_pod(2, "pod", NOW)
    return job


def test_segments_record_their_gpus_and_micro_batch(changed: Job) -> None:
    changed.start_training(2, 20, 30, 95, 5)
    size = PLAN.lora.micro_batch_size
    assert [each.model_dump() for each in JobHistory(changed.collect_events()).segments] == [
        {"segment": 1, "step": 0, "gpu_count": 1, "micro_batch_size": size},
        {"segment": 2, "step": 20, "gpu_count": 2, "micro_batch_size": -(-size // 2)},
    ]


def test_a_damaged_checkpoint_is_marked_as_rejected(changed: Job) -> None:
    changed.reject_checkpoint(2, "checkpoints/1/20", RejectionReason.CORRUPT)
    changed.start_training(2, 10, 30, 95, 5)
    history = JobHistory(changed.collect_events())
    assert [(each.step, each.rejected) for each in history.checkpoints] == [
        (10, None),
        (20, RejectionReason.CORRUPT),
    ]
    (resume,) = history.resumes
    assert (resume.step, resume.manifest_sha256, resume.certified) == (10, "c" * 64, False)
    assert resume.unchecked == ("weights", "optimizer", "random", "position")


def test_a_resume_with_unchecked_parts_is_not_certified(changed: Job) -> None:
    changed.certify_resume(
        2, resume_certificate(20, "checkpoints/1/20", STATE, ("random",), 2, (RANKS,))
    )
    changed.start_training(2, 20, 30, 95, 5)
    (resume,) = JobHistory(changed.collect_events()).resumes
    assert (resume.certified, resume.unchecked) == (False, ("random",))
    assert resume.differences == (RANKS,)


def test_the_card_shows_gpus_and_resumes(changed: Job) -> None:
    changed.reject_checkpoint(2, "checkpoints/1/20", RejectionReason.CORRUPT)
    changed.certify_resume(2, resume_certificate(10, "checkpoints/1/10", STATE, (), 2))
    changed.start_training(2, 10, 30, 95, 5)
    provenance = provenance_of(
        JobHistory(changed.collect_events()),
        StoredModel(Manifest(files=()), environment=None),
        model=changed.model_name,
        origins={},
        repository=None,
        cost=CostFacts(amount_micros=60_000, metered_seconds=60, segments=2),
    )
    card = model_card(provenance)
    for fact in ("1, then 2 x cpu in local", "10 of 30", "2, 1 of them resumed, 1 certified"):
        assert fact in card, fact
