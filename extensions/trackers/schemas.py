"""Schemas of trackers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.core.target import MAX_URL
from domain.training.integrations import Integration, Tracker
from extensions.trackers.runs import RunStatus, TrackedRun
from gateway.schemas import ResponseModel

WANDB_URL = "https://api.wandb.ai"

Url = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_URL)]
Username = Annotated[str, StringConstraints(pattern=r"^[^:\s]{1,200}$")]
Secret = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,4000}$")]


class ConnectionStatus(StrEnum):
    """States of a connection."""

    UNTESTED = "untested"
    TESTING = "testing"
    WORKING = "working"
    FAILING = "failing"


class ConnectionForm(BaseModel):
    """The server of a tracker, with its credentials."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"url": "https://mlflow.example.com", "secret": "token-of-mlflow"}]
        },
    )

    url: Url | None = Field(
        default=None,
        description="URL of the server. It begins with `https://`. For MLflow, the tracking URI; "
        f"for Weights & Biases, the API, by default {WANDB_URL}.",
    )
    username: Username | None = Field(
        default=None,
        description="User name at an MLflow server with basic authentication. Without one, "
        "`secret` is a token.",
    )
    secret: Secret | None = Field(
        default=None,
        description="Password or token of MLflow, or API key of Weights & Biases. No response "
        "contains it.",
    )


class ConnectionResponse(ResponseModel):
    """A connection to a tracker."""

    tracker: Tracker
    url: str | None = Field(
        examples=["https://mlflow.example.com"],
        description="URL of the server. Without the scope `keys`, only its origin. null for the "
        "operator's server.",
    )
    username: str | None
    has_secret: bool
    of_operator: bool = Field(
        description="True for the MLflow server that the operator provides to all accounts."
    )
    status: ConnectionStatus
    error: str | None = Field(description="Error of the last test.")
    tested_at: datetime | None
    created_at: datetime | None


class RunResponse(ResponseModel):
    """A job in a tracker."""

    tracker: Tracker
    status: RunStatus
    integration: Integration = Field(
        examples=[{"type": "mlflow", "mlflow": {"experiment_name": "bot"}}]
    )
    url: str | None = Field(
        examples=["https://mlflow.example.com/#/experiments/1/runs/0f3c"],
        description="Page of the run in the tracker, or null before it exists. null without the "
        "scope `keys`.",
    )
    last_step: int | None = Field(examples=[40], description="Highest step that is sent.")
    sent_at: datetime | None = Field(description="Time of the last success.")
    error: str | None = Field(
        examples=[None],
        description="Error of the last attempt, or null after a success. "
        "Without the scope `keys`, it omits the reason.",
    )
    failing_since: datetime | None
    next_attempt_at: datetime | None = Field(
        description="Time of the next attempt after an error, or null."
    )
    finished_at: datetime | None

    @classmethod
    def of(cls, run: TrackedRun) -> RunResponse:
        """Return the schema of a run."""
        waits = run.error is not None and run.status in (RunStatus.WAITING, RunStatus.SENDING)
        return cls(
            tracker=run.tracker,
            status=run.status,
            integration=run.integration,
            url=run.url,
            last_step=run.sent.last_step,
            sent_at=run.sent_at,
            error=run.error,
            failing_since=run.failing_since,
            next_attempt_at=run.next_attempt_at if waits else None,
            finished_at=run.finished_at,
        )
