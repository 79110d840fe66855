"""What the pages, the API and the command line say of a job that is past its estimate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from domain.core.durations import spoken
from domain.estimating.estimate import Estimate
from domain.estimating.overrun import Facts, Overrun, Reason, overrun
from domain.jobs.lifecycle import JobStatus
from gateway.schemas import Answer, Money


class OverrunAnswer(Answer):
    """By how much a job is past the upper bound of its estimate, and why."""

    seconds: int = Field(description="Billed beyond the upper bound; 0: it is only late.")
    cost: Money = Field(description="Charged beyond the upper bound, less what was credited.")
    late_seconds: int = Field(
        description="Since the approval, waits and pauses included, beyond the upper bound."
    )
    reasons: list[Reason]
    sentence: str = Field(description="All of it, for people.")


def overrun_of(
    row: Mapping[str, Any], last_step: Mapping[str, Any] | None, now: datetime
) -> OverrunAnswer | None:
    """The overrun of a job's row; None within the estimate, or without one."""
    if row["estimate"] is None:
        return None
    ended = JobStatus(row["status"]).is_final or row["status"] == JobStatus.PAUSED
    until: datetime = row["changed_at"] if ended else now
    began, bound = row["training_since"], row["bound_at"]
    start = (began - bound).total_seconds() if began and bound else None
    found = overrun(
        Estimate.model_validate(row["estimate"]),
        Facts(
            billed_seconds=row["billed_seconds"],
            cost_micros=row["charged_micros"] - row["credited_micros"],
            since_approval=(until - row["approved_at"]).total_seconds(),
            launches=row["segment"],
            crashes=row["crashes"],
            start_seconds=start,
            step_seconds=_step_seconds(row, last_step, start),
        ),
    )
    return None if found is None else _told(found)


def _step_seconds(
    row: Mapping[str, Any], last_step: Mapping[str, Any] | None, start: float | None
) -> float | None:
    """Mean seconds of the steps that the running segment, or the last one, took."""
    if last_step is None or start is None or last_step["segment"] != row["segment"]:
        return None
    steps = last_step["step"] - (row["segment_step"] or 0)
    return (last_step["elapsed_seconds"] - start) / steps if steps > 0 else None


def _told(found: Overrun) -> OverrunAnswer:
    over = Money.of(found.micros)
    if found.micros or found.seconds:
        said = f"Past the estimate by {over.text} and {spoken(found.seconds)} of billed time."
    else:
        said = f"Later than estimated by {spoken(found.late_seconds)}; the cost is within."
    return OverrunAnswer(
        seconds=found.seconds,
        cost=over,
        late_seconds=found.late_seconds,
        reasons=list(found.reasons),
        sentence=" ".join([said, *(each.sentence for each in found.reasons)]),
    )
