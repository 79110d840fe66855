"""Jobs that exceed the upper bound of their estimate, for the API, pages and command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.core.durations import spoken
from domain.estimating.estimate import Estimate
from domain.estimating.overrun import Facts, Overrun, overrun
from domain.jobs.lifecycle import JobStatus
from gateway.jobs.schemas import OverrunResponse
from gateway.schemas import Money
from infrastructure.bus.exchange import read


def overrun_of(
    row: Mapping[str, Any], last_step: Mapping[str, Any] | None, now: datetime
) -> OverrunResponse | None:
    """Return the overrun of a job; None if it is within its estimate or has none."""
    if row["estimate"] is None:
        return None
    ended = JobStatus(row["status"]).is_final or row["status"] == JobStatus.PAUSED
    until: datetime = row["changed_at"] if ended else now
    began, bound = row["training_since"], row["bound_at"]
    start = (began - bound).total_seconds() if began and bound else None
    found = overrun(
        read(Estimate, row["estimate"]),
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
    return None if found is None else _described(found, row["covered_seconds"])


def _step_seconds(
    row: Mapping[str, Any], last_step: Mapping[str, Any] | None, start: float | None
) -> float | None:
    """Return the mean seconds per step of the running or last segment."""
    if last_step is None or start is None or last_step["segment"] != row["segment"]:
        return None
    steps = last_step["step"] - (row["segment_step"] or 0)
    return (last_step["elapsed_seconds"] - start) / steps if steps > 0 else None


def _described(found: Overrun, covered_seconds: int) -> OverrunResponse:
    over = Money.of(found.micros)
    if found.micros or found.seconds:
        time = f"{spoken(found.seconds)} of metered time" if found.seconds else ""
        more = " and ".join(filter(None, (over.text if found.micros else "", time)))
        text = f"The job exceeds the estimate by {more}."
        if covered_seconds:
            text += (
                f" The price guarantee covers {spoken(covered_seconds)}, which cost you nothing."
            )
    else:
        text = (
            f"The job is {spoken(found.late_seconds)} later than estimated, but within the "
            "estimated cost."
        )
    return OverrunResponse(
        seconds=found.seconds,
        cost=over,
        late_seconds=found.late_seconds,
        reasons=list(found.reasons),
        sentence=" ".join([text, *(each.sentence for each in found.reasons)]),
    )
