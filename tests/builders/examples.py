"""Aggregates as tests need them, and what happened to them since."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.meter import Meter, SegmentLimits
from domain.catalog.base_model import Revision
from domain.core.aggregate import Aggregate
from domain.estimating.estimate import Estimate, PhaseEstimate, Precision
from domain.jobs.job import SegmentEnd
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import (
    ModeDifference,
    ResumeCertificate,
    SavedCheckpoint,
    StateHashes,
)
from domain.training.evaluation import EvaluationResult
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import SUPERVISED_PHASES
from domain.training.precision import Dtype
from domain.training.token_lengths import TokenLengths
from domain.training.training_plan import TrainingPlan
from domain.training.truncation import Truncation
from services.billing.settlement import LeasePolicy
from tests.builders.tiny_model import TINY_SHAPE

ACCOUNT_ID = UUID("11111111-1111-5111-8111-111111111111")
JOB_ID = UUID("22222222-2222-5222-8222-222222222222")
DATASET_ID = UUID("33333333-3333-5333-8333-333333333333")

PLAN = TrainingPlan(
    dataset_id=DATASET_ID,
    dataset_ref="datasets/a/examples.jsonl",
    dataset_sha256="d" * 64,
    validation=None,
    base_model="tiny",
    base_ref="models/tiny",
    base_manifest_sha256="b" * 64,
    region="local",
    gpu_type="cpu",
    gpu_count=1,
    rate_micros_per_hour=3_600_000,
    catalog_version="test",
    hyperparameters=Hyperparameters().stored,
    precision=Precision.BF16,
    gradient_checkpointing=False,
    dtype=Dtype.BF16,
    sequence_length=128,
    batch_tokens=2048,
    required_bytes=1_500_000_000,
    truncation=Truncation.of(TokenLengths.of([128] * 100), 128),
)
"""A plan that costs 1,000 micro-dollars a second."""

ESTIMATE = Estimate(
    rate_micros_per_hour=PLAN.rate_micros_per_hour,
    tokens=10_000,
    total_steps=30,
    calibrated_from=0,
    phases=tuple(
        PhaseEstimate(phase=phase, model_seconds=20.0, low_seconds=20.0, high_seconds=26.0)
        for phase in SUPERVISED_PHASES
    ),
)
"""120 to 156 seconds, all phases alike."""


REVISION = Revision(
    ref=PLAN.base_ref,
    manifest_sha256=PLAN.base_manifest_sha256,
    architecture="LlamaForCausalLM",
    shape=TINY_SHAPE,
)
"""The content of the base model in the plan."""

RETENTION = timedelta(days=30)
POLICY = LeasePolicy(minute_seconds=60, lease_seconds=300, extension_seconds=60)


def estimate_at(rate_micros_per_hour: int) -> Estimate:
    """Return the same estimate at another price."""
    return ESTIMATE.model_copy(update={"rate_micros_per_hour": rate_micros_per_hour})


def happened(aggregate: Aggregate) -> list[str]:
    """Topics of what happened since the last look."""
    return [type(event).TOPIC for event in aggregate.collect_events()]  # type: ignore[attr-defined]


def account(balance_micros: int = 0) -> Account:
    """An open account with some credit."""
    opened = Account.open(ACCOUNT_ID, Role.OWNER, "UTC")
    if balance_micros:
        opened.grant_credit(balance_micros, "first")
    opened.collect_events()
    return opened


def meter(
    paid_seconds: int = 0,
    *,
    job: int = 0,
    rate: int = PLAN.rate_micros_per_hour,
    key_id: UUID | None = None,
    **limits: int | None,
) -> Meter:
    """An open meter of segment 1 of one of several jobs, with a lease or without."""
    job_id = uuid5(JOB_ID, str(job)) if job else JOB_ID
    opened = Meter.open(ACCOUNT_ID, job_id, 1, rate, SegmentLimits(**limits), key_id)
    if paid_seconds:
        opened.extend_lease(paid_seconds)
    opened.collect_events()
    return opened


def revision(**changes: object) -> Revision:
    """Return the content of the base model, with some changes."""
    return REVISION.model_copy(update=changes)


def ending(reason: SegmentEnd, elapsed_seconds: int = 0, **fields: Any) -> SegmentEnding:
    """The end of a segment."""
    return SegmentEnding(reason=reason, elapsed_seconds=elapsed_seconds, **fields)


def saved_checkpoint(
    segment: int,
    step: int,
    train_loss: float = 1.5,
    elapsed_seconds: int = 10,
    ref: str = "",
    manifest_sha256: str = "c" * 64,
    **fields: Any,
) -> SavedCheckpoint:
    """Return a stored checkpoint."""
    return SavedCheckpoint(
        segment=segment,
        step=step,
        train_loss=train_loss,
        elapsed_seconds=elapsed_seconds,
        ref=ref or f"checkpoints/{segment}/{step}",
        manifest_sha256=manifest_sha256,
        **{"total_bytes": 1000} | fields,
    )


def resume_certificate(
    step: int,
    ref: str,
    state: StateHashes,
    unchecked: tuple[str, ...] = (),
    ranks: int = 1,
    differences: tuple[ModeDifference, ...] = (),
) -> ResumeCertificate:
    """The certificate of a resume."""
    return ResumeCertificate(
        step=step, ref=ref, state=state, unchecked=unchecked, ranks=ranks, differences=differences
    )


def evaluation_result(
    loss_before: float = 3.0,
    loss_after: float = 2.0,
    examples: int = 5,
    label_tokens: int = 400,
    **others: Any,
) -> EvaluationResult:
    """The result of an evaluation."""
    return EvaluationResult(
        loss_before=loss_before,
        loss_after=loss_after,
        examples=examples,
        label_tokens=label_tokens,
        **others,
    )


STATE = StateHashes(weights="1" * 64, optimizer="2" * 64, random="3" * 64, position="4" * 64)
