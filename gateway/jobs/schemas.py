"""What the API says of a job: in a list, in detail, step by step, as a story, and its log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import Field, JsonValue

from domain.deployments.deployment import DeploymentStatus
from domain.estimating.estimate import Estimate
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer, advice_on
from domain.jobs.lifecycle import JobStatus, PauseReason
from domain.training.cautions import cautions
from domain.training.checkpoint import best
from domain.training.hyperparameters import Hyperparameters
from domain.training.perplexity import perplexity
from domain.training.precision import Dtype, Precision
from domain.training.truncation import Truncation
from gateway.jobs.overruns import OverrunAnswer
from gateway.launch.schemas import EstimateAnswer
from gateway.schemas import Answer, JobId, Listed, Money


class JobSummary(Answer):
    """A job in a list."""

    id: JobId
    status: JobStatus
    phase: str = Field(examples=["waiting for a GPU"])
    dataset_id: UUID
    validation_dataset_id: UUID | None = Field(
        description="What it is evaluated on; null: a part of the dataset is held out."
    )
    base_model: str
    region: str
    gpu_type: str
    gpu_count: int
    rate_per_hour: Money = Field(
        description="Of all its GPUs, frozen at the approval or at the last resume."
    )
    cost: Money = Field(description="What was charged less what was credited back, so far.")
    step: int
    total_steps: int | None
    pause_reason: PauseReason | None
    approved_at: datetime
    changed_at: datetime
    model: str | None = Field(description="Name of the registered model.")
    warnings: list[str] = Field(description="What the owner should know of it, as sentences.")


class ListedJob(JobSummary):
    """A job in the caller's list, with what people call it."""

    name: str = Field(description="Its suffix, else the beginning of its ID.")
    dataset: str | None = Field(description="Name of its dataset; null: it was deleted.")


class FailureAnswer(Answer):
    """Why a job's trainer failed last, who pays for it, and what to do."""

    failure: FailureClass
    sentence: str
    advice: str
    paid_by: Payer
    retried: bool

    shortage: MemoryShortage | None = Field(description="What no memory was found for.")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> FailureAnswer | None:
        """The answer for a job's row, from the one table; None of a job that had no failure."""
        if row["failure"] is None:
            return None
        failure, shortage = FailureClass(row["failure"]), row["shortage"]
        known, ended = FAILURES[failure], row["status"] == JobStatus.FAILED
        short = None if shortage is None else MemoryShortage.model_validate(shortage)
        halved = row["halved_micro_batch_size"] is not None
        return cls(
            failure=failure,
            sentence=known.sentence,
            advice=advice_on(failure, short, halved=halved),
            paid_by=known.payer,
            retried=known.retried or not ended,
            shortage=short,
        )


class ResumeGate(Answer):
    """What stands between a paused job and its resume."""

    allowed: bool
    needed: Money | None = Field(description="Upper bound of what is left, at today's rate.")
    missing: Money | None = Field(description="What has to be topped up first; zero if nothing.")
    problem: str | None = Field(description="What else stands against it, as a sentence.")


class JobDetail(JobSummary):
    """All that is known of a job. Losses are nats per label token."""

    deployment: DeploymentStatus | None = Field(
        description="Of its model; null: there is none, or it was never deployed."
    )
    sequence: int = Field(
        description="Of the last event that this answer has seen: follow `/api/events` after it."
    )
    hyperparameters: dict[str, JsonValue]
    precision: Precision
    dtype: Dtype | None = Field(description="Computed with; null: the machine's own choice.")
    gradient_checkpointing: bool
    sequence_length: int | None
    required_bytes: int | None = Field(
        description="Predicted peak of each GPU's memory; on a CPU, of what the model takes of the "
        "host's memory, without the program itself."
    )
    peak_memory_bytes: int | None = Field(
        description="Measured peak of the same memory as `required_bytes`."
    )
    estimate: EstimateAnswer | None = Field(description="As frozen at the approval.")
    overrun: OverrunAnswer | None = Field(
        description="While or if it is past the upper bound of its estimate: by how much, and why."
    )
    actual_seconds: int | None = Field(description="What a registered job took.")
    waiting_since: datetime | None
    relaunch_at: datetime | None = Field(
        description="When it is queued again, while that is put off after repeated failures."
    )
    wait_seconds: int | None = Field(description="Expected, while it waits for a GPU.")
    remaining_seconds: int | None = Field(
        description="Expected until it is registered, a wait for a GPU included; null if it is "
        "paused or over, or about to be, or if the wait is unknown."
    )
    paused_at: datetime | None
    resume: ResumeGate | None = Field(description="While it is paused.")
    cancelled_at: datetime | None
    expires_at: datetime | None = Field(description="When what it saved is deleted.")
    expired: bool
    promoted: bool
    kept: str | None = Field(description="Of a cancelled job: what of it is kept, in a sentence.")
    failure: FailureAnswer | None
    halved_micro_batch_size: int | None = Field(
        description="Examples of a micro batch since the chosen ones did not fit the memory."
    )
    segment: int = Field(description="Number of its launch, from 1; 0 before the first.")
    bound_at: datetime | None = Field(description="Since when its GPUs are bound.")
    steps_remaining: int | None
    train_loss: float | None = Field(
        description="Mean over the label tokens of the newest step, nats."
    )
    smoothed_loss: float | None = Field(
        description="Exponential average of the train loss up to that step, debiased: a step's "
        "weight falls to 1/e after 2% of the run's steps, and after 5 at least."
    )
    tokens_per_second: float | None
    train_examples: int | None
    eval_examples: int | None
    checkpoint_step: int | None
    checkpoint_loss: float | None = Field(description="Train loss of that step.")
    eval_loss: float | None = Field(description="Held-out loss at the last evaluation.")
    eval_step: int | None = Field(description="The step of that evaluation.")
    best_step: int | None = Field(
        description="Where the held-out loss was lowest, of what is saved."
    )
    best_eval_loss: float | None
    best_note: str | None = Field(description="If the best is not what was registered: a sentence.")
    loss_before: float | None = Field(description="Held-out loss of the base model.")
    loss_after: float | None = Field(description="Held-out loss of the adapter.")
    perplexity_before: float | None = Field(description="exp(loss) of the base model.")
    perplexity_after: float | None = Field(description="exp(loss) of the adapter.")
    accuracy_before: float | None = Field(
        description="Share of the held-out label tokens that were the base's first choice."
    )
    accuracy_after: float | None = Field(description="The same, of the adapter's.")
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
    smoothed_loss: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    elapsed_seconds: float
    peak_memory_bytes: int | None
    measured_at: datetime


class Evaluation(Answer):
    """One evaluation on the held-out examples; at step 0 of the base alone."""

    step: int
    segment: int
    eval_loss: float
    perplexity: float
    accuracy: float = Field(description="Share of the label tokens that were the first choice.")
    examples: int
    label_tokens: int
    seconds: float = Field(description="That it took.")
    elapsed_seconds: float
    measured_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Evaluation:
        """The answer for a measurement."""
        shown = {name: row[name] for name in cls.model_fields if name in row}
        return cls(**shown, perplexity=perplexity(row["eval_loss"]))


class TimelineEntry(Answer):
    """One event of a job, of its meter, or of a deployment of what it made."""

    position: int
    event_id: str
    happened_at: datetime
    topic: str = Field(examples=["CheckpointSaved"])
    fields: dict[str, JsonValue] = Field(
        description="What the event says; of each of a deployment's, also the `model` that is "
        "served."
    )


class LogLine(Answer):
    """One line of a trainer's log; what a failed job's process printed beside it has no number."""

    segment: int | None = None
    n: int | None = None
    level: str | None = None
    logged_at: datetime | None = None
    text: str


class JobLog(Listed[LogLine]):
    """Lines of a trainer's log, or why there are none any more."""

    deleted_after_days: int | None = Field(
        examples=[None],
        description="How long log lines are kept after the end of a job, where those of this one "
        "were deleted; null: they were not.",
    )


class EvaluatedStep(NamedTuple):
    """A state of the adapter by its step; its held-out loss is None if it was not evaluated."""

    step: int | None
    eval_loss: float | None


def summary(row: Mapping[str, Any], last_step: Mapping[str, Any] | None = None) -> JobSummary:
    """A job's row as a summary, with the last optimizer step that was measured."""
    return JobSummary(**{**_summary_fields(row), "step": _step(row, last_step or {})})


def detail(
    row: Mapping[str, Any],
    last_step: Mapping[str, Any] | None,
    last_evaluation: Mapping[str, Any] | None,
    balance_micros: int,
    *,
    resume: ResumeGate | None,
    wait_seconds: int | None,
    remaining_seconds: int | None,
    overrun: OverrunAnswer | None,
    deployment: DeploymentStatus | None,
) -> JobDetail:
    """A job's row, its newest measurements and its account's balance as the detail."""
    shown = {name: row[name] for name in JobDetail.model_fields if name in row}
    return JobDetail(
        **shown
        | _summary_fields(row)
        | {
            **_measured(row, last_step or {}, last_evaluation or {}),
            **_described_best(row),
            "perplexity_before": _perplexity(row["loss_before"]),
            "perplexity_after": _perplexity(row["loss_after"]),
            "charged": Money.of(row["charged_micros"]),
            "credited": Money.of(row["credited_micros"]),
            "balance": Money.of(balance_micros),
            "estimate": _estimate(row["estimate"]),
            "failure": FailureAnswer.of(row),
            "resume": resume,
            "wait_seconds": wait_seconds,
            "remaining_seconds": remaining_seconds,
            "overrun": overrun,
            "deployment": deployment,
            "kept": _kept(row),
        }
    )


def _measured(
    row: Mapping[str, Any], measured: Mapping[str, Any], scored: Mapping[str, Any]
) -> dict[str, Any]:
    """How far the job is, and what its newest step and evaluation measured."""
    total: int | None = row["total_steps"]
    step = _step(row, measured)
    saved_later = (row["checkpoint_step"] or 0) > measured.get("step", 0)
    return {
        "step": step,
        "steps_remaining": None if total is None else max(0, total - step),
        "train_loss": row["checkpoint_loss"] if saved_later else measured.get("train_loss"),
        "smoothed_loss": None if saved_later else measured.get("smoothed_loss"),
        "tokens_per_second": measured.get("tokens_per_second"),
        "peak_memory_bytes": row["peak_memory_bytes"] or measured.get("peak_memory_bytes"),
        "eval_loss": scored.get("eval_loss"),
        "eval_step": scored.get("step"),
    }


def _step(row: Mapping[str, Any], measured: Mapping[str, Any]) -> int:
    """Steps done; a checkpoint may be known before the measurement of its step."""
    if row["status"] == JobStatus.REGISTERED and row["total_steps"] is not None:
        return row["total_steps"]
    return max(measured.get("step", 0), row["step"])


def best_step(row: Mapping[str, Any]) -> EvaluatedStep | None:
    """The checkpoint or the final state of the lowest held-out loss; None: none was evaluated."""
    scored = [EvaluatedStep(each["step"], each["eval_loss"]) for each in row["checkpoints"]]
    scored.append(EvaluatedStep(row["total_steps"], row["loss_after"]))
    return best(scored)


def _described_best(row: Mapping[str, Any]) -> dict[str, Any]:
    lowest = best_step(row)
    if lowest is None:
        return {"best_step": None, "best_eval_loss": None, "best_note": None}
    step, loss = lowest
    final: float | None = row["loss_after"]
    note = None
    if final is not None and loss is not None and loss < final:
        note = (
            f"The checkpoint of step {step} has a lower held-out loss ({loss:.4f}) than the final "
            f"state ({final:.4f}), which is what is registered."
        )
    return {"best_step": step, "best_eval_loss": loss, "best_note": note}


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else perplexity(loss)


def _kept(row: Mapping[str, Any]) -> str | None:
    """What is kept of a cancelled job."""
    if row["status"] != JobStatus.CANCELLED:
        return None
    if row["promoted"] and row["model"] is None:
        return "What it saved was a model, which was deleted."
    if row["promoted"]:
        return f"What it saved is the model {row['model']}."
    if row["expires_at"] is None:
        return "It was cancelled before any checkpoint; nothing is kept."
    if row["expired"]:
        return "What it saved was deleted when its time was over."
    return (
        f"The checkpoint of step {row['checkpoint_step']} is kept until "
        f"{row['expires_at']:%Y-%m-%d %H:%M} UTC, unless it is promoted to a model."
    )


def _estimate(frozen: object) -> EstimateAnswer | None:
    return None if frozen is None else EstimateAnswer.of(Estimate.model_validate(frozen))


def _summary_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in JobSummary.model_fields if name in row}
    return shown | {
        "id": row["job_id"],
        "rate_per_hour": Money.price(row["rate_micros_per_hour"]),
        "cost": Money.of(row["charged_micros"] - row["credited_micros"]),
        "warnings": warnings_of_job(row),
    }


def warnings_of_job(row: Mapping[str, Any]) -> list[str]:
    """Sentences about a job's plan for its owner, from its row."""
    truncation = row["truncation"] and Truncation.model_validate(row["truncation"]).warning
    chosen = Hyperparameters.model_construct(None, **row["hyperparameters"])
    return [*([truncation] if truncation else []), *cautions(chosen)]
