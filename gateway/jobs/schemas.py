"""Schemas of jobs, their measurements, timelines, logs and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from domain.core.money import Toward
from domain.core.quantities import counted
from domain.deployments.deployment import DeploymentStatus
from domain.estimating.estimate import Estimate
from domain.estimating.overrun import Reason
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer, advice_on
from domain.jobs.job_request import RequestStatus
from domain.jobs.lifecycle import JobStatus, PauseReason
from domain.training.cautions import cautions
from domain.training.checkpoint import best
from domain.training.hyperparameters import SUPERVISED, Hyperparameters, Method
from domain.training.perplexity import perplexity
from domain.training.precision import Dtype, Precision
from domain.training.truncation import Truncation
from gateway.jobs.launch.job_form import GpuCount, MaxCost
from gateway.jobs.launch.schemas import CostRangeResponse
from gateway.schemas import JobId, Listed, Money, ResponseModel
from infrastructure.bus.exchange import read


class JobSummary(ResponseModel):
    """A job in a list."""

    id: JobId
    status: JobStatus
    phase: str = Field(examples=["waiting for a GPU"])
    dataset_id: UUID
    validation_dataset_id: UUID | None = Field(
        description="Dataset to evaluate on, or null if EcoLink holds out a part of the training "
        "dataset."
    )
    base_model: str = Field(examples=["smollm2-135m-instruct"])
    continued_from: str | None = Field(
        default=None,
        examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"],
        description="Model or checkpoint whose adapter the job continues, or null for a new one.",
    )
    continued_job_id: JobId | None = Field(default=None, description="Job that trained it.")
    region: str = Field(examples=["local"])
    gpu_type: str = Field(examples=["cpu"])
    gpu_count: int
    rate_per_hour: Money = Field(
        description="Rate of all GPUs, fixed at the approval or at the last resume."
    )
    cost: Money = Field(description="Charges minus credits so far.")
    max_cost: Money | None = Field(
        description="The job pauses before it costs more, or null without a maximum cost."
    )
    pay_at_most: Money | None = Field(
        description="Highest cost of the job. It pauses there if that is its maximum cost. "
        "Otherwise charges stop, and the job goes on. Null if only the balance limits the cost."
    )
    step: int = Field(examples=[40])
    total_steps: int | None = Field(examples=[225])
    pause_reason: PauseReason | None
    approved_at: datetime
    changed_at: datetime
    model: str | None = Field(
        examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"],
        description="Name of the registered model.",
    )
    warnings: list[str] = Field(description="Warnings about choices that may be mistakes.")


class RequestedJob(ResponseModel):
    """A job that EcoLink approves when the tokens of its datasets are counted."""

    id: JobId
    status: RequestStatus


class ListedJob(JobSummary):
    """A job in the caller's list, with its display names."""

    name: str = Field(
        examples=["support chats"], description="The job's suffix, or the start of its ID."
    )
    dataset: str | None = Field(
        description="Name of the dataset, or null if the dataset was deleted."
    )


class FailureResponse(ResponseModel):
    """The last failure of a job's trainer: its class, its payer, and advice."""

    failure: FailureClass
    sentence: str
    advice: str
    paid_by: Payer
    retried: bool
    shortage: MemoryShortage | None = Field(
        description="The batch that did not fit into memory, or null for other failures."
    )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> FailureResponse | None:
        """Return the failure in a job's row, or None if the job has none."""
        if row["failure"] is None:
            return None
        failure, shortage = FailureClass(row["failure"]), row["shortage"]
        known, ended = FAILURES[failure], row["status"] == JobStatus.FAILED
        short = None if shortage is None else read(MemoryShortage, shortage)
        halved = row["halved_micro_batch_size"] is not None
        return cls(
            failure=failure,
            sentence=known.sentence,
            advice=advice_on(failure, short, halved=halved),
            paid_by=known.payer,
            retried=known.retried or not ended,
            shortage=short,
        )


class ResumeGate(ResponseModel):
    """The checks that a paused job must pass to resume."""

    allowed: bool
    needed: Money | None = Field(
        description="Upper bound of the remaining cost at today's rate, or the rest of the maximum "
        "cost if that is lower."
    )
    missing: Money | None = Field(description="Top-up that the resume requires, or zero.")
    basis: str | None = Field(
        description="Sentence about the source of the remaining cost, such as the measured steps."
    )
    price_note: str | None = Field(
        description="The most that the rest costs, in words. Null if only the balance limits it."
    )
    problem: str | None = Field(
        examples=[None],
        description="Sentence about another problem that prevents a resume, or null.",
    )


class OverrunResponse(ResponseModel):
    """The overrun of a job beyond the upper bound of its estimate, with reasons."""

    seconds: int = Field(
        description="Metered time beyond the upper bound. It is 0 if the job is only late."
    )
    cost: Money = Field(description="Charges less credits beyond the upper bound, both in cents.")
    late_seconds: int = Field(
        description="Time since the approval beyond the upper bound, with waits and pauses."
    )
    reasons: list[Reason]
    sentence: str = Field(
        examples=["The GPU's memory was not enough."], description="The whole overrun in words."
    )


class JobDetail(JobSummary):
    """All details of a job.

    Losses are in nats per trainable token, or per preference pair if the method is `dpo`.
    """

    deployment: DeploymentStatus | None = Field(
        description="Status of the model's deployment, or null if the model was never deployed."
    )
    sequence: int = Field(
        description="Sequence of the last event in this response. To follow the job, pass it "
        "as `after` to `/api/events`."
    )
    method: Method
    hyperparameters: dict[str, JsonValue]
    precision: Precision
    dtype: Dtype | None = Field(
        description="Data type of the computation, or null if the machine chooses it."
    )
    gradient_checkpointing: bool
    sequence_length: int | None = Field(examples=[512])
    required_bytes: int | None = Field(
        description="Predicted peak memory of each GPU. On a CPU, the host memory that the "
        "model uses, without the program itself."
    )
    peak_memory_bytes: int | None = Field(
        description="Measured peak of the memory that `required_bytes` predicts."
    )
    estimate: CostRangeResponse | None = Field(description="Estimate at the time of the approval.")
    overrun: OverrunResponse | None = Field(
        description="Time and cost beyond the estimate's upper bound, with reasons, or null "
        "if the job is within the bound."
    )
    actual_seconds: int | None = Field(description="Duration of a registered job.")
    waiting_since: datetime | None
    relaunch_at: datetime | None = Field(
        description="Time of the next launch, if the job waits after repeated failures."
    )
    wait_seconds: int | None = Field(description="Expected wait for a GPU.")
    remaining_seconds: int | None = Field(
        description="Expected time until the job is registered, including the wait for a GPU. "
        "null if the wait is unknown, or if the job is paused or finished, or is about to be."
    )
    paused_at: datetime | None
    resume: ResumeGate | None = Field(
        description="Checks that a resume must pass, or null if the job is not paused."
    )
    cancelled_at: datetime | None
    expires_at: datetime | None = Field(
        description="Time at which EcoLink deletes the saved checkpoints."
    )
    expired: bool
    promoted: bool
    kept: str | None = Field(
        examples=[None], description="Sentence about the checkpoint that a cancelled job keeps."
    )
    failure: FailureResponse | None = Field(examples=[None])
    halved_micro_batch_size: int | None = Field(
        description="Micro batch size after EcoLink halved it, because a batch did not fit into "
        "memory."
    )
    segment: int = Field(
        description="Number of the latest launch, from 1. 0 before the first launch."
    )
    bound_at: datetime | None = Field(
        description="Time at which the GPUs of the latest launch were bound."
    )
    steps_remaining: int | None = Field(examples=[185])
    train_loss: float | None = Field(
        examples=[1.92], description="Mean loss over the trainable tokens of the newest step."
    )
    smoothed_loss: float | None = Field(
        description="Debiased exponential average of the train loss. The weight of a step falls "
        "to 1/e after 2% of the run's steps, or after 5 steps if that is more."
    )
    tokens_per_second: float | None = Field(examples=[905.0])
    gpu_utilization: float | None = Field(
        examples=[0.97], description="GPU utilization at the newest step, or null."
    )
    train_examples: int | None
    eval_examples: int | None
    checkpoint_step: int | None
    checkpoint_loss: float | None = Field(description="Train loss at `checkpoint_step`.")
    eval_loss: float | None = Field(examples=[2.05], description="Held-out loss at `eval_step`.")
    eval_step: int | None = Field(
        description="Step of the last evaluation; of the registered state if the job is evaluated."
    )
    best_step: int | None = Field(description="Saved step with the lowest held-out loss.")
    best_eval_loss: float | None
    best_note: str | None = Field(
        examples=[None],
        description="Sentence about a checkpoint with a lower held-out loss than the "
        "registered model, or about the registered best state or its loss, or null.",
    )
    registered_step: int | None = Field(
        default=None,
        description="Step of the registered state if the job registers the best one, or null.",
    )
    lost_best_step: int | None = Field(
        default=None,
        description="Step of the best state if its checkpoint was missing or damaged, so that the "
        "job registered another state, or null.",
    )
    planned_steps: int | None = Field(
        default=None,
        description="Planned number of steps if training stopped early, or null. `total_steps` is "
        "then the step of the stop.",
    )
    stop_note: str | None = Field(
        default=None, description="Sentence about the early stop, or null."
    )
    loss_before: float | None = Field(
        examples=[2.71], description="Held-out loss of the base model."
    )
    loss_after: float | None = Field(examples=[1.94], description="Held-out loss of the adapter.")
    perplexity_before: float | None = Field(
        description="exp(loss) of the base model; null if the method is `dpo`."
    )
    perplexity_after: float | None = Field(
        description="exp(loss) of the adapter; null if the method is `dpo`."
    )
    accuracy_before: float | None = Field(
        description="Share of the held-out examples' trainable tokens that the base model "
        "predicts correctly. With `dpo`, 0.5, because all rewards are zero before training."
    )
    accuracy_after: float | None = Field(
        description="Share of the held-out examples' trainable tokens that the adapter predicts "
        "correctly. With `dpo`, share of the held-out pairs whose preferred answer has the higher "
        "reward."
    )
    reward_margin: float | None = Field(
        default=None,
        description="With `dpo`, mean difference between the rewards of the preferred and the "
        "rejected answers of the held-out pairs.",
    )
    adapter_ref: str | None = Field(examples=["adapters/0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"])
    billed_seconds: int
    covered_seconds: int = Field(
        description="Part of the billed time that the price guarantee covers, at no charge."
    )
    grace_seconds: int = Field(description="Time beyond the paid time. EcoLink pays for it.")
    charged: Money
    credited: Money
    balance: Money = Field(description="Balance of the account.")
    crashes: int
    error_class: str | None


class Step(ResponseModel):
    """One optimizer step."""

    step: int = Field(examples=[40])
    segment: int
    train_loss: float = Field(examples=[1.92])
    smoothed_loss: float
    accuracy: float | None = Field(
        default=None,
        description="With `dpo`, share of the step's pairs whose preferred answer has the higher "
        "reward.",
    )
    chosen_reward: float | None = Field(
        default=None, description="With `dpo`, mean reward of the preferred answers."
    )
    rejected_reward: float | None = Field(
        default=None, description="With `dpo`, mean reward of the rejected answers."
    )
    learning_rate: float
    tokens: int = Field(examples=[184_000])
    tokens_per_second: float = Field(examples=[905.0])
    elapsed_seconds: float
    peak_memory_bytes: int | None
    gpu_utilization: float | None = Field(
        examples=[0.97],
        description="Share of the last second in which the job's GPUs computed, on average. Null "
        "on a CPU, or if it is unknown.",
    )
    gpu_memory_bytes: int | None = Field(description="Memory in use on all GPUs of the job.")
    measured_at: datetime


class Evaluation(ResponseModel):
    """One evaluation on the held-out examples. Step 0 is the base model."""

    step: int = Field(examples=[40])
    segment: int
    eval_loss: float = Field(examples=[2.05])
    perplexity: float | None = Field(examples=[7.8], description="Null if the method is `dpo`.")
    accuracy: float = Field(
        examples=[0.52],
        description="Share of trainable tokens that the model predicts correctly. With `dpo`, "
        "share of pairs whose preferred answer has the higher reward.",
    )
    chosen_reward: float | None = Field(
        default=None, description="With `dpo`, mean reward of the preferred answers."
    )
    rejected_reward: float | None = Field(
        default=None, description="With `dpo`, mean reward of the rejected answers."
    )
    examples: int = Field(examples=[1200])
    label_tokens: int
    seconds: float = Field(description="Duration of the evaluation.")
    elapsed_seconds: float
    measured_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Evaluation:
        """Return the schema of an evaluation's row."""
        shown = {name: row[name] for name in cls.model_fields if name in row}
        is_dpo = row["chosen_reward"] is not None
        return cls(**shown, perplexity=None if is_dpo else perplexity(row["eval_loss"]))


class TimelineEntry(ResponseModel):
    """One event of a job, its meters, or the deployments of its models."""

    position: int
    event_id: str
    happened_at: datetime
    topic: str = Field(examples=["CheckpointSaved"])
    text: str = Field(examples=["Checkpoint saved at step 200: train loss 1.2345."])
    fields: dict[str, JsonValue] = Field(
        description="Fields of the event. An event of a deployment also has the served `model`."
    )


class LogLine(ResponseModel):
    """One line of a trainer's log. Other output of a failed job's process has no line number."""

    segment: int | None = None
    n: int | None = None
    level: str | None = None
    logged_at: datetime | None = None
    text: str = Field(examples=["step 40 of 225, loss 1.92"])


class JobLog(Listed[LogLine]):
    """Lines of a trainer's log."""

    deleted_after_days: int | None = Field(
        examples=[None],
        description="Retention time of log lines in days, if EcoLink deleted this job's "
        "lines, otherwise null.",
    )


class SampleResponse(ResponseModel):
    """The adapter's greedy response to a fixed prompt of the held-out examples."""

    prompt: list[dict[str, JsonValue]] = Field(description="Messages.")
    answer: str = Field(examples=["Your order is on its way."])


class CheckpointResponse(ResponseModel):
    """A stored checkpoint. Losses are in nats per trainable token."""

    step: int = Field(examples=[40])
    model: str = Field(
        description="Name under which you deploy the checkpoint and send requests to it.",
        examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e:ckpt-step-200"],
    )
    deployment: DeploymentStatus | None = Field(
        description="Status of the checkpoint's deployment, or null if the checkpoint was never "
        "deployed."
    )
    segment: int
    train_loss: float = Field(
        examples=[1.92], description="Mean loss over the trainable tokens of this step."
    )
    eval_loss: float | None = Field(
        examples=[2.05],
        description="Held-out loss at this step, or null if the step was not evaluated.",
    )
    best: bool = Field(description="True for the checkpoint with the lowest held-out loss.")
    total_bytes: int = Field(examples=[812_340])
    ref: str
    sample: SampleResponse | None = Field(
        description="Sample response, or null if the trainer had no time to generate one, or for "
        "auditors."
    )


class ResumeRequest(BaseModel, extra="forbid"):
    """Options of a resume. The body may be empty."""

    wait: bool = Field(
        default=False, strict=True, description="If no GPU is free, queue the job free of charge."
    )
    gpu_count: GpuCount | None = Field(
        default=None,
        strict=True,
        description="Number of GPUs. By default, the job keeps its previous number. The batch "
        "of a step stays the same.",
    )
    needed_micros: int | None = Field(
        default=None,
        ge=0,
        strict=True,
        description="Remaining cost that you saw, in `resume.needed` of the job. EcoLink refuses "
        "the resume if it is higher now.",
    )


class MaxCostRequest(BaseModel):
    """A new maximum cost of a job."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"max_cost": "12.50"}]}
    )

    max_cost: MaxCost | None = Field(
        description="Dollars, with at most six decimals, or null for no maximum."
    )


class EvaluatedStep(NamedTuple):
    """A saved adapter state. The held-out loss is None if the step was not evaluated."""

    step: int | None
    eval_loss: float | None


def summary(row: Mapping[str, Any], last_step: Mapping[str, Any] | None = None) -> JobSummary:
    """Return the summary of a job's row with its last measured step."""
    return JobSummary(**{**_summary_fields(row), "step": _step(row, last_step or {})})


@dataclass(frozen=True)
class Computed:
    """Fields of a job's details that are neither in its row nor in its measurements."""

    balance: Money
    resume: ResumeGate | None
    wait_seconds: int | None
    remaining_seconds: int | None
    overrun: OverrunResponse | None
    deployment: DeploymentStatus | None


def detail(
    row: Mapping[str, Any],
    last_step: Mapping[str, Any] | None,
    last_evaluation: Mapping[str, Any] | None,
    computed: Computed,
) -> JobDetail:
    """Return the details of a job from its row and its newest measurements."""
    shown = {name: row[name] for name in JobDetail.model_fields if name in row}
    return JobDetail(
        **shown
        | _summary_fields(row)
        | _measured(row, last_step or {}, last_evaluation or {})
        | _described_best(row)
        | vars(computed)
        | {
            "method": row["hyperparameters"].get("method", SUPERVISED),
            "stop_note": _stop_note(row),
            "perplexity_before": _perplexity(row, row["loss_before"]),
            "perplexity_after": _perplexity(row, row["loss_after"]),
            "charged": Money.of(row["charged_micros"]),
            "credited": Money.of(row["credited_micros"]),
            "estimate": _estimate(row["estimate"]),
            "failure": FailureResponse.of(row),
            "kept": _kept(row),
        }
    )


def _measured(
    row: Mapping[str, Any], measured: Mapping[str, Any], scored: Mapping[str, Any]
) -> dict[str, Any]:
    total: int | None = row["total_steps"]
    step = _step(row, measured)
    if row["loss_after"] is not None:  # the loss of the adapter, as on the rest of the page
        scored = {"eval_loss": row["loss_after"], "step": row["registered_step"] or total}
    saved_later = (row["checkpoint_step"] or 0) > measured.get("step", 0)
    return {
        "step": step,
        "steps_remaining": None if total is None else max(0, total - step),
        "train_loss": row["checkpoint_loss"] if saved_later else measured.get("train_loss"),
        "smoothed_loss": None if saved_later else measured.get("smoothed_loss"),
        "tokens_per_second": measured.get("tokens_per_second"),
        "gpu_utilization": measured.get("gpu_utilization"),
        "peak_memory_bytes": row["peak_memory_bytes"] or measured.get("peak_memory_bytes"),
        "eval_loss": scored.get("eval_loss"),
        "eval_step": scored.get("step"),
    }


def _step(row: Mapping[str, Any], measured: Mapping[str, Any]) -> int:
    """Return the completed steps. A checkpoint may arrive before the measurement of its step."""
    if row["status"] == JobStatus.REGISTERED and row["total_steps"] is not None:
        return row["total_steps"]
    return max(measured.get("step", 0), row["step"])


def checkpoints_in(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the checkpoints in a job's row. The registered one has the loss of the model."""
    registered = {"eval_loss": row["loss_after"]}
    return [
        {**saved, **registered} if saved["step"] == row["registered_step"] else saved
        for saved in row["checkpoints"]
    ]


def best_step(row: Mapping[str, Any]) -> EvaluatedStep | None:
    """Return the saved state with the lowest held-out loss, or None if none was evaluated."""
    scored = [EvaluatedStep(each["step"], each["eval_loss"]) for each in checkpoints_in(row)]
    evaluated = row["registered_step"] or row["total_steps"]
    scored.append(EvaluatedStep(evaluated, row["loss_after"]))
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
            f"The checkpoint of step {step:,} has a lower held-out loss ({loss:.4f}) than the "
            f"registered model ({final:.4f})."
        )
    elif (registered := row["registered_step"]) is not None:
        note = f"The job registers its best state, which is that of step {registered:,}."
    if (lost := row["lost_best_step"]) is not None:
        note = (
            f"The checkpoint of the best state, step {lost:,} with a held-out loss of "
            f"{row['lost_best_loss']:.4f}, was missing or damaged. The model is the best intact "
            f"state, that of step {row['registered_step']:,}."
        )
    return {"best_step": step, "best_eval_loss": loss, "best_note": note}


def _stop_note(row: Mapping[str, Any]) -> str | None:
    if (planned := row["planned_steps"]) is None:
        return None
    chosen = row["hyperparameters"]
    return (
        f"Training stopped early at step {row['total_steps']:,} of {planned:,}, because "
        f"{counted(chosen.get('early_stopping_patience') or 1, 'evaluation')} in a row did not "
        "lower the held-out loss by more than the threshold of "
        f"{chosen.get('early_stopping_threshold') or 0:g}. The remaining steps are not billed."
    )


def _perplexity(row: Mapping[str, Any], loss: float | None) -> float | None:
    """Return the perplexity of a loss per token; None with DPO, whose loss is per pair."""
    return None if loss is None or row["reward_margin"] is not None else perplexity(loss)


def _kept(row: Mapping[str, Any]) -> str | None:
    """Return a sentence about the checkpoint that a cancelled job keeps, or None."""
    if row["status"] != JobStatus.CANCELLED:
        return None
    if row["promoted"] and row["model"] is None:
        return "You promoted the last checkpoint to a model, and then deleted the model."
    if row["promoted"]:
        return f"The last checkpoint is the model {row['model']}."
    if row["expires_at"] is None:
        return "The job was cancelled before its first checkpoint."
    if row["expired"]:
        return "EcoLink deleted the checkpoints at the end of their retention time."
    return (
        f"EcoLink keeps the checkpoint of step {row['checkpoint_step']:,} until "
        f"{row['expires_at']:%Y-%m-%d %H:%M} UTC. Promote it to keep it longer."
    )


def _estimate(frozen: object) -> CostRangeResponse | None:
    return None if frozen is None else CostRangeResponse.of(read(Estimate, frozen))


def _summary_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in JobSummary.model_fields if name in row}
    maximum: int | None = row["max_cost_micros"]
    limits = [each for each in (maximum, row["guaranteed_micros"]) if each is not None]
    cost = row["charged_micros"] - row["credited_micros"]
    return shown | {
        "id": row["job_id"],
        "rate_per_hour": Money.price(row["rate_micros_per_hour"]),
        "cost": Money.of(cost),
        "max_cost": None if maximum is None else Money.price(maximum),
        "pay_at_most": Money.of(max(cost, min(limits)), Toward.UP) if limits else None,
        "warnings": warnings_of_job(row),
    }


def warnings_of_job(row: Mapping[str, Any]) -> list[str]:
    """Return warnings about choices of a job that may be mistakes."""
    truncation = read(Truncation, row["truncation"]).warning
    chosen = Hyperparameters.model_construct(None, **row["hyperparameters"])
    return [*([truncation] if truncation else []), *cautions(chosen)]
