"""A job's checkpoints: those that exist, and what the adapter answered at each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import Field, JsonValue

from gateway.access import CallerOf
from gateway.answers import Answer, JobId, Listed
from gateway.api.jobs import own_job
from gateway.backend import Backend, BackendOf
from gateway.errors import refusals
from infrastructure.reports import SAMPLE

router = APIRouter(prefix="/jobs", tags=["jobs"])


class SampleAnswer(Answer):
    """A fixed prompt, of a conversation that is never trained on, and the greedy answer to it."""

    prompt: list[dict[str, JsonValue]] = Field(description="Messages.")
    answer: str


class CheckpointAnswer(Answer):
    """A checkpoint that exists. Losses are nats per label token."""

    step: int
    segment: int
    train_loss: float = Field(description="Mean over the steps since the checkpoint before.")
    eval_loss: float | None = Field(description="Held-out; null if it was not evaluated there.")
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
    return Listed(data=[_checkpoint(backend, each) for each in row["checkpoints"]])


def _checkpoint(backend: Backend, saved: Mapping[str, Any]) -> CheckpointAnswer:
    try:
        content = backend.artifacts.get(f"{saved['ref']}/{SAMPLE}")
    except FileNotFoundError:  # it has none, or was pruned just now
        return CheckpointAnswer(**saved, sample=None)
    return CheckpointAnswer(**saved, sample=SampleAnswer(**json.loads(content)))
