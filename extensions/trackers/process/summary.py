"""A job as trackers show it: its parameters, status, cost and model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domain.core.event_log import EventLog
from domain.core.money import exact_dollars
from domain.jobs.events import JobApproved
from domain.jobs.lifecycle import JobStatus
from domain.jobs.public_id import job_name
from extensions.trackers.process.tracker import Ending, RunSummary

ENDINGS = {
    JobStatus.REGISTERED: Ending.FINISHED,
    JobStatus.FAILED: Ending.FAILED,
    JobStatus.CANCELLED: Ending.CANCELLED,
}

PLANNED = (
    *("base_model", "dataset_id", "dataset_sha256", "region", "gpu_type", "gpu_count"),
    *("precision", "dtype", "sequence_length", "gradient_checkpointing", "base_manifest_sha256"),
)
"""Fields of the approved plan that are parameters."""


def summary_of(
    log: EventLog, row: Mapping[str, Any], origin: str | None, *, ended: bool
) -> RunSummary:
    """Return the summary of a job's row. With `ended`, it has the ending of a job that is over.

    `origin` is the URL of EcoLink. Raise NotFound if the job is not in the log.
    """
    job_id, status = row["job_id"], JobStatus(row["status"])
    approved = log.first_event(job_id)
    assert isinstance(approved, JobApproved)
    return RunSummary(
        job=job_name(job_id),
        started_at=approved.timestamp,
        parameters=_parameters(approved),
        facts=_facts(row),
        url=None if origin is None else f"{origin}/fine-tune/{job_name(job_id)}",
        ending=ENDINGS.get(status) if ended else None,
        ended_at=row["changed_at"] if ended else None,
    )


def _parameters(approved: JobApproved) -> dict[str, str | int | float | bool]:
    plan, estimate = approved.plan, approved.estimate
    found = plan.model_dump(mode="json")
    values: dict[str, Any] = {name: found[name] for name in PLANNED}
    if plan.validation is not None:
        values["validation_dataset_sha256"] = plan.validation.sha256
    if plan.start is not None:
        values["continued_from"] = plan.start.model
    values |= {
        "rate_usd_per_hour": _dollars(plan.rate_micros_per_hour),
        "estimate_low_usd": _dollars(estimate.low_micros),
        "estimate_high_usd": _dollars(estimate.high_micros),
    }
    values |= plan.lora.model_dump(mode="json")
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _dollars(micros: int) -> str:
    return exact_dollars(micros).replace("$", "").replace(",", "")


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    cost = _dollars(row["charged_micros"] - row["credited_micros"])
    found = {"status": row["status"], "cost_usd": cost, "segments": str(row["segment"])}
    for name in ("model", "failure", "loss_before", "loss_after"):
        if row[name] is not None:
            found[name] = str(row[name])
    return found
