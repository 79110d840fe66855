"""The SegmentSpec of a launch."""

from __future__ import annotations

from uuid import uuid4

from domain.estimating.estimate import Precision
from domain.jobs.job import Job
from domain.training.training_plan import ValidationFile
from infrastructure.bus.keys import KeyKind, new_seed
from infrastructure.settings import Settings
from infrastructure.training.segment_credentials import CredentialIssuer
from services.scheduler.segment_spec import segment_spec
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN

SETTINGS = Settings(trainer_stall_timeout_seconds=77.0, grace_seconds=5, heartbeat_seconds=0.5)


def job(**changes: object) -> Job:
    with command():
        given = Job.approve(JOB_ID, ACCOUNT_ID, PLAN.model_copy(update=changes), ESTIMATE)
        given.allocate_segment(1)
    return given


def test_a_segment_has_the_approved_plan_and_the_platforms_times() -> None:
    own = ValidationFile(dataset_id=uuid4(), ref="datasets/b/examples.jsonl", sha256="e" * 64)
    given = job(precision=Precision.NF4, gradient_checkpointing=True, gpu_count=2, validation=own)
    home = f"jobs/{ACCOUNT_ID}/{JOB_ID}"
    expected = {
        "precision": Precision.NF4,
        "gradient_checkpointing": True,
        "region": PLAN.region,
        "gpu_type": PLAN.gpu_type,
        "gpu_count": 2,
        "hyperparameters": PLAN.lora,
        "dataset_sha256": PLAN.dataset_sha256,
        "validation_ref": own.ref,
        "validation_sha256": own.sha256,
        "base_manifest_sha256": PLAN.base_manifest_sha256,
        "approved_on": given.created_on.date(),
        "paid_seconds": 300,
        "grace_seconds": 5,
        "heartbeat_seconds": 0.5,
        "stall_seconds": 77.0,
        "clock_speed": 1.0,
        "checkpoint_prefix": f"{home}/checkpoints/segment-1",
        "adapter_prefix": f"{home}/adapter/segment-1",
    }
    spec = segment_spec(given, 300, SETTINGS)
    assert {name: getattr(spec, name) for name in expected} == expected
    assert segment_spec(job(), 300, SETTINGS).validation_ref is None


def test_a_segment_has_its_own_credentials() -> None:
    settings = SETTINGS.model_copy(update={"nats_trainer_seed": new_seed(KeyKind.ACCOUNT)})
    issuer = CredentialIssuer.of(settings)
    assert issuer is not None
    given = segment_spec(job(), 300, settings).credentials
    assert given is not None
    assert given.seed == issuer.issue(ACCOUNT_ID, JOB_ID, 1).seed
    assert given.seed != issuer.issue(ACCOUNT_ID, JOB_ID, 2).seed
