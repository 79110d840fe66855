"""The SegmentSpec of a launch."""

from __future__ import annotations

from uuid import uuid4

from domain.estimating.estimate import Precision
from domain.jobs.job import Job
from domain.training.training_plan import ValidationFile
from infrastructure.nats_keys import KeyKind, new_seed
from infrastructure.segment_credentials import CredentialIssuer
from infrastructure.settings import Settings
from services.scheduler.segment_spec import segment_spec
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN

SETTINGS = Settings(stall_seconds=77.0, grace_seconds=5, heartbeat_seconds=0.5)


def job(**changes: object) -> Job:
    with command():
        given = Job.approve(JOB_ID, ACCOUNT_ID, PLAN.model_copy(update=changes))
        given.allocate_segment(1)
    return given


def test_a_segment_has_the_approved_plan() -> None:
    given = job(precision=Precision.NF4, gradient_checkpointing=True, gpu_count=2)
    spec = segment_spec(given, 300, SETTINGS)
    assert (spec.precision, spec.gradient_checkpointing) == (Precision.NF4, True)
    assert (spec.gpu_type, spec.gpu_count) == (PLAN.gpu_type, 2)
    assert spec.hyperparameters == PLAN.lora
    assert spec.dataset_sha256 == PLAN.dataset_sha256
    assert spec.base_manifest_sha256 == PLAN.base_manifest_sha256
    assert spec.approved_on == given.created_on.date()


def test_a_segment_evaluates_on_the_approved_validation_file() -> None:
    assert segment_spec(job(), 300, SETTINGS).validation_ref is None
    own = ValidationFile(dataset_id=uuid4(), ref="datasets/b/examples.jsonl", sha256="e" * 64)
    spec = segment_spec(job(validation=own), 300, SETTINGS)
    assert (spec.validation_ref, spec.validation_sha256) == (own.ref, own.sha256)


def test_a_segment_has_the_platforms_times() -> None:
    spec = segment_spec(job(), 300, SETTINGS)
    assert (spec.paid_seconds, spec.grace_seconds, spec.heartbeat_seconds) == (300, 5, 0.5)
    assert (spec.stall_seconds, spec.clock_speed) == (77.0, 1.0)


def test_a_segment_has_its_own_credentials() -> None:
    settings = SETTINGS.model_copy(update={"nats_trainer_seed": new_seed(KeyKind.ACCOUNT)})
    issuer = CredentialIssuer.of(settings)
    assert issuer is not None
    given = segment_spec(job(), 300, settings).credentials
    assert given is not None
    assert given.seed == issuer.issue(ACCOUNT_ID, JOB_ID, 1).seed
    assert given.seed != issuer.issue(ACCOUNT_ID, JOB_ID, 2).seed


def test_a_segment_writes_below_its_job_only() -> None:
    spec = segment_spec(job(), 300, SETTINGS)
    home = f"jobs/{ACCOUNT_ID}/{JOB_ID}"
    assert spec.checkpoint_prefix == f"{home}/checkpoints/segment-1"
    assert spec.adapter_prefix == f"{home}/adapter/segment-1"
