"""`ecolink estimates report`: each range with its bill, and the quality of all ranges."""

from __future__ import annotations

import csv
import io
import re
from datetime import timedelta
from uuid import UUID

from deploy.operator.estimates import NO_ESTIMATES, NONE_ENDED
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.estimating.estimate import Estimate, PhaseEstimate
from domain.jobs import events
from domain.jobs.job import Job
from domain.training.phases import Phase
from projections.estimate_accuracy import Scored
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, PLAN
from tests.deploy.operator.command_line import ecolink

ESTIMATE = Estimate(
    rate_micros_per_hour=3_600_000,
    tokens=12_345,
    total_steps=30,
    calibrated_from=3,
    phases=(
        PhaseEstimate(
            phase=Phase.TRAINING, model_seconds=100.0, low_seconds=100.0, high_seconds=130.0
        ),
    ),
)
"""$0.10 to $0.13, and 100 to 130 s."""


def job(log: EventLog, number: int, actual_seconds: int | None) -> UUID:
    """An approved job. With seconds, also its score, of which four fifths are training."""
    job_id = UUID(int=number)
    with because(Cause("service:test", f"job {number}", NOW + timedelta(minutes=number))):
        approved = Job.approve(job_id, ACCOUNT_ID, PLAN, ESTIMATE)
        if actual_seconds is not None:
            approved.trigger_event(
                events.EstimateScored,
                low_seconds=ESTIMATE.low_seconds,
                high_seconds=ESTIMATE.high_seconds,
                low_micros=ESTIMATE.low_micros,
                high_micros=ESTIMATE.high_micros,
                actual_seconds=actual_seconds,
                actual_micros=1000 * actual_seconds,
                phase_seconds={
                    Phase.IMAGE_PULL: 0.2 * actual_seconds,
                    Phase.TRAINING: 0.8 * actual_seconds,
                },
                segments=1,
                precision=PLAN.precision,
                base_model=PLAN.base_model,
                gpu_type=PLAN.gpu_type,
                gpu_count=PLAN.gpu_count,
            )
        log.commit(approved)
    return job_id


def test_report_without_estimates() -> None:
    assert ecolink("estimates", "report") == NO_ESTIMATES + "\n"


def test_unfinished_jobs_have_only_a_range(log: EventLog) -> None:
    job(log, 1, None)
    reported = ecolink("estimates", "report")
    assert "$0.10-$0.13" in reported
    assert NONE_ENDED in reported


def test_the_report_has_a_row_for_each_job_and_the_coverage(log: EventLog) -> None:
    for number, seconds in enumerate((100, 115, 130, 140), 1):
        job(log, number, seconds)
    job(log, 5, None)
    reported = ecolink("estimates", "report")
    rows = [line for line in reported.splitlines() if "ftjob-" in line]
    assert [("yes" in row, " no " in row) for row in rows] == [
        (True, False),
        (True, False),
        (True, False),
        (False, True),
        (False, False),
    ]
    assert all(
        words in rows[1] for words in ("12,345", "$0.115", "100-130", "50%", "3 jobs", "80%")
    )
    assert {"75%", "30.0%", "+7.4%"} <= set(re.findall(r"[+\d.]+%", reported))


def test_the_rows_as_csv(log: EventLog) -> None:
    job_id = job(log, 1, 115)
    job(log, 2, None)
    first, second = csv.DictReader(io.StringIO(ecolink("estimates", "report", "--csv")))
    assert first["job"] == f"ftjob-{job_id.hex}"
    assert (first["low_micros"], first["actual_micros"]) == ("100000", "115000")
    assert (first["inside"], float(first["position"])) == ("True", 0.5)
    assert (second["actual_micros"], second["inside"]) == ("", "")


def test_bounds_are_inside_and_a_free_job_has_no_position() -> None:
    row = {
        "job_id": UUID(int=1),
        **dict.fromkeys(("base_model", "gpu_type", "precision"), "x"),
        **dict.fromkeys(("gpu_count", "tokens", "calibrated_from", "segments"), 1),
        **dict.fromkeys(("low_seconds", "high_seconds", "actual_seconds"), 1),
        "phase_seconds": {},
    }
    free = Scored.of(row | {"low_micros": 0, "high_micros": 0, "actual_micros": 0})
    assert (free.inside, free.position, free.training_share) == (True, None, None)
    at_bound = Scored.of(row | {"low_micros": 10, "high_micros": 13, "actual_micros": 13})
    above = Scored.of(row | {"low_micros": 10, "high_micros": 13, "actual_micros": 14})
    assert (at_bound.inside, above.inside) == (True, False)
