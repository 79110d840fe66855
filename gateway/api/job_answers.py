"""What the API says of a job: in a list, in detail, step by step, as a story, and its log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from domain.hyperparameters import Hyperparameters
from domain.job import JobStatus
from gateway.answers import Answer, JobId, Money
from projections.job_detail import WAITING_FOR_GPU


class JobRequest(BaseModel):
    """What a user chooses in the wizard; what is left out has the wizard's default."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "dataset": "9b2d1c9e-6d1f-4a53-9a3e-2f1c5d7e8a90",
                    "base_model": "smollm2-135m-instruct",
                    "hyperparameters": {"epochs": 3, "learning_rate": 2e-4, "lora_r": 16},
                }
            ]
        },
    )

    dataset: UUID
    base_model: str = Field(min_length=1, max_length=200)
    region: str = Field(default="local", max_length=100)
    gpu_type: str = Field(default="cpu", max_length=100)
    gpu_count: int = Field(default=1, ge=1, le=64)
    hyperparameters: Hyperparameters = Hyperparameters()


class JobSummary(Answer):
    """A job in a list."""

    id: JobId
    status: JobStatus
    phase: str = Field(examples=["waiting for a GPU"])
    dataset_id: UUID
    base_model: str
    region: str
    gpu_type: str
    gpu_count: int
    rate_per_hour: Money = Field(description="Of all its GPUs, frozen at the approval.")
    cost: Money = Field(description="What was charged less what was credited back, so far.")
    approved_at: datetime
    changed_at: datetime
    model: str | None = Field(description="Name of the registered model.")


class JobDetail(JobSummary):
    """All that is known of a job. Losses are nats per label token."""

    hyperparameters: dict[str, JsonValue]
    segment: int = Field(description="Number of its launch, from 1; 0 before the first.")
    bound_at: datetime | None = Field(description="Since when its GPUs are bound.")
    step: int
    total_steps: int | None
    steps_remaining: int | None
    train_loss: float | None
    tokens_per_second: float | None
    train_examples: int | None
    eval_examples: int | None
    checkpoint_step: int | None
    checkpoint_loss: float | None
    loss_before: float | None = Field(description="Held-out loss of the base model.")
    loss_after: float | None = Field(description="Held-out loss of the adapter.")
    adapter_ref: str | None
    billed_seconds: int
    grace_seconds: int = Field(description="Time beyond the paid time, at the platform's cost.")
    charged: Money
    credited: Money
    balance: Money = Field(description="Of the account.")
    crashes: int
    error_class: str | None


class Step(Answer):
    """One optimizer step."""

    step: int
    segment: int
    train_loss: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    elapsed_seconds: float
    measured_at: datetime


class TimelineEntry(Answer):
    """One event of a job or of its meter."""

    position: int
    event_id: str
    happened_at: datetime
    topic: str = Field(examples=["CheckpointSaved"])
    fields: dict[str, JsonValue]


class LogLine(Answer):
    """One line of a trainer's log; of a failed job's last lines only the text is kept."""

    segment: int | None = None
    n: int | None = None
    level: str | None = None
    logged_at: datetime | None = None
    text: str


def summary(row: Mapping[str, Any]) -> JobSummary:
    """A job's row as a summary."""
    return JobSummary(**_summary_fields(row))


def detail(
    row: Mapping[str, Any], last_step: Mapping[str, Any] | None, account: Mapping[str, Any]
) -> JobDetail:
    """A job's row, its newest step and its account's balance as the detail."""
    measured = last_step or {}
    total: int | None = row["total_steps"]
    # A checkpoint may be known before the measurement of its step.
    step = max(measured.get("step", 0), row["checkpoint_step"] or 0)
    if row["status"] == JobStatus.REGISTERED and total is not None:
        step = total
    shown = {name: row[name] for name in JobDetail.model_fields if name in row}
    return JobDetail(
        **shown
        | _summary_fields(row)
        | {
            "step": step,
            "steps_remaining": None if total is None else max(0, total - step),
            "train_loss": measured.get("train_loss", row["checkpoint_loss"]),
            "tokens_per_second": measured.get("tokens_per_second"),
            "charged": Money.of(row["charged_micros"]),
            "credited": Money.of(row["credited_micros"]),
            "balance": Money.of(account["balance_micros"]),
            "phase": _phase(row, account),
        }
    )


def _phase(row: Mapping[str, Any], account: Mapping[str, Any]) -> str:
    """The job's phase; what waits for a GPU while the balance is spent waits for a top-up."""
    if row["phase"] == WAITING_FOR_GPU and account["depleted"]:
        return "waiting for a top-up: the balance reached zero"
    return row["phase"]


def _summary_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in JobSummary.model_fields if name in row}
    return shown | {
        "id": row["job_id"],
        "rate_per_hour": Money.of(row["rate_micros_per_hour"]),
        "cost": Money.of(row["charged_micros"] - row["credited_micros"]),
    }
