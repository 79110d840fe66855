"""The SegmentSpec that a trainer receives at launch."""

from __future__ import annotations

from domain.jobs.job import Job
from infrastructure.job_artifacts import job_prefix
from infrastructure.reports import SegmentSpec
from infrastructure.segment_credentials import CredentialIssuer
from infrastructure.settings import Settings


def segment_spec(job: Job, paid_seconds: int, settings: Settings) -> SegmentSpec:
    """Return the spec of the running segment of a job. Its checkpoints are newest first."""
    plan = job.plan
    issuer = CredentialIssuer.of(settings)
    home = job_prefix(job)
    return SegmentSpec(
        account_id=job.account_id,
        job_id=job.id,
        segment=job.segment,
        credentials=issuer and issuer.issue(job.account_id, job.id, job.segment),
        dataset_ref=plan.dataset_ref,
        dataset_sha256=plan.dataset_sha256,
        validation_ref=plan.validation.ref if plan.validation else None,
        validation_sha256=plan.validation.sha256 if plan.validation else None,
        base_model=plan.base_model,
        base_ref=plan.base_ref,
        base_manifest_sha256=plan.base_manifest_sha256,
        hyperparameters=plan.lora,
        precision=plan.precision,
        dtype=plan.dtype,
        gradient_checkpointing=plan.gradient_checkpointing,
        region=plan.region,
        gpu_type=plan.gpu_type,
        gpu_count=job.gpu_count,
        approved_gpu_count=plan.gpu_count,
        micro_batch_split=job.micro_batch_split,
        batch_tokens=plan.batch_tokens,
        required_bytes=plan.required_bytes,
        approved_on=job.created_on.date(),
        resume_from=tuple(reversed(job.checkpoints)),
        paid_seconds=paid_seconds,
        grace_seconds=settings.grace_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        stall_seconds=settings.stall_seconds,
        clock_speed=settings.clock_speed,
        checkpoint_prefix=f"{home}/checkpoints/segment-{job.segment}",
        adapter_prefix=f"{home}/adapter/segment-{job.segment}",
    )
