"""A job's checkpoints: those that exist, and what the adapter answered at each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from fastapi import APIRouter
from pydantic import Field, JsonValue

from domain.deployments.deployment import DeploymentStatus
from domain.jobs.job import Job
from domain.training.checkpoint import checkpoint_model
from gateway.backend import Backend, BackendOf
from gateway.http.access import CallerOf
from gateway.http.errors import refusals
from gateway.jobs.api.jobs import own_job
from gateway.jobs.schemas import best_step
from gateway.schemas import Answer, JobId, Listed
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SAMPLE
from projections.deployments import statuses_of_jobs
from projections.projection import Row

KEPT_SAMPLES = 1000

router = APIRouter(prefix="/jobs", tags=["jobs"])


class SampleAnswer(Answer):
    """A fixed prompt, of a conversation that is never trained on, and the greedy answer to it."""

    prompt: list[dict[str, JsonValue]] = Field(description="Messages.")
    answer: str


class CheckpointAnswer(Answer):
    """A checkpoint that exists. Losses are nats per label token."""

    step: int
    model: str = Field(
        description="Its name in requests, once it is deployed.",
        examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e:ckpt-step-200"],
    )
    deployment: DeploymentStatus | None = Field(description="null: it was never deployed.")
    segment: int
    train_loss: float = Field(description="Mean over the label tokens of this step.")
    eval_loss: float | None = Field(description="Held-out; null if it was not evaluated there.")
    best: bool = Field(description="Whether the held-out loss was lowest here.")
    total_bytes: int
    ref: str
    sample: SampleAnswer | None = Field(
        description="Not every checkpoint has one: it must cost next to nothing."
    )


@router.get("/{job_id}/checkpoints", responses=refusals(404))
def show_checkpoints(
    job_id: JobId, caller: CallerOf, backend: BackendOf
) -> Listed[CheckpointAnswer]:
    """The checkpoints that exist, the oldest first, with the adapter's answer at each."""
    row = own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        deployed = statuses_of_jobs(connection, [job_id])[job_id]
    return Listed(data=checkpoints_of(backend, row, deployed))


def checkpoints_of(
    backend: Backend, row: Row, deployed: Mapping[str, DeploymentStatus]
) -> list[CheckpointAnswer]:
    """The checkpoints of a job's row, with the status of those that were deployed, by name."""
    if not row["checkpoints"]:
        return []
    model = backend.log.load(Job, row["job_id"]).model_name
    best = best_step(row)
    return [
        CheckpointAnswer(
            **saved,
            model=(name := checkpoint_model(model, saved["step"])),
            deployment=deployed.get(name),
            best=best is not None and saved["step"] == best.step,
            sample=_sample(backend, saved["ref"]),
        )
        for saved in row["checkpoints"]
    ]


def _sample(backend: Backend, ref: str) -> SampleAnswer | None:
    try:
        return _stored_sample(backend.artifacts, ref)
    except FileNotFoundError:  # it has none, or was pruned just now
        return None


@lru_cache(maxsize=KEPT_SAMPLES)
def _stored_sample(artifacts: Artifacts, ref: str) -> SampleAnswer:
    """The sample of a checkpoint, which never changes."""
    return SampleAnswer(**json.loads(artifacts.get(f"{ref}/{SAMPLE}")))
