"""The SegmentSpec that a trainer receives at launch."""

from __future__ import annotations

from domain.jobs.job import Job
from infrastructure.bus.tls import nats_authority
from infrastructure.settings import Settings
from infrastructure.training.job_artifacts import job_prefix
from infrastructure.training.reports import SegmentSpec
from infrastructure.training.segment_credentials import CredentialIssuer
from infrastructure.training.store_credentials import StoreAccess, StoreIssuer


def segment_spec(job: Job, paid_seconds: int, settings: Settings) -> SegmentSpec:
    """Return the running segment's spec. Checkpoints are newest first. STS may raise S3Refused."""
    plan = job.plan
    issuer, store_issuer = CredentialIssuer.of(settings), StoreIssuer.of(settings)
    access = store_access(job)
    checkpoints, adapter = access.written_folders
    return SegmentSpec(
        account_id=job.account_id,
        job_id=job.id,
        segment=job.segment,
        credentials=issuer and issuer.issue(job.account_id, job.id, job.segment),
        nats_ca=nats_authority(settings),
        store=store_issuer and store_issuer.issue(job.id, job.segment, access),
        dataset_ref=plan.dataset_ref,
        dataset_sha256=plan.dataset_sha256,
        validation_ref=plan.validation.ref if plan.validation else None,
        validation_sha256=plan.validation.sha256 if plan.validation else None,
        base_model=plan.base_model,
        base_ref=plan.base_ref,
        base_manifest_sha256=plan.base_manifest_sha256,
        start_ref=plan.start.ref if plan.start else None,
        start_manifest_sha256=plan.start.manifest_sha256 if plan.start else None,
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
        stall_seconds=settings.trainer_stall_timeout_seconds,
        clock_speed=settings.clock_speed,
        checkpoint_prefix=checkpoints,
        adapter_prefix=adapter,
    )


def store_access(job: Job) -> StoreAccess:
    """Return the refs that the running segment of a job may use: it writes only its own folders."""
    plan, home = job.plan, job_prefix(job)
    validation = [plan.validation.ref] if plan.validation else []
    start = [plan.start.ref] if plan.start else []
    return StoreAccess(
        read_files=[plan.dataset_ref, *validation],
        read_folders=[plan.base_ref, f"{home}/checkpoints", *start],
        written_folders=[
            f"{home}/checkpoints/segment-{job.segment}",
            f"{home}/adapter/segment-{job.segment}",
        ],
    )
