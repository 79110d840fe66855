"""The share of jobs within their approved range, and the cost of those beyond it."""

from __future__ import annotations

from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import EstimateParameters, OverrunParameters, Parameters
from projections.job_detail import overruns_by_pool


def off(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return a finding if too few of the newest finished jobs cost what their range said.

    There is none before that many jobs have finished.
    """
    assert isinstance(parameters, EstimateParameters)
    rows = around.connection.execute(
        "SELECT actual_micros BETWEEN low_micros AND high_micros AS within FROM estimates "
        "WHERE scored_at IS NOT NULL ORDER BY scored_at DESC, job_id LIMIT %s",
        [parameters.jobs],
    ).fetchall()
    within = sum(row["within"] for row in rows)
    if len(rows) < parameters.jobs or 100 * within >= parameters.below_percent * len(rows):
        return []
    text = (
        f"The price of {within:,} of the last {len(rows):,} jobs was within the approved range. "
        "See `ecolink estimates report`."
    )
    return [Finding({"estimates": "all"}, text)]


def overruns(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return the pools whose newest ended jobs overran their estimates by too much of their price.

    A pool counts once that many jobs have ended.
    """
    assert isinstance(parameters, OverrunParameters)
    return [
        Finding(
            {
                "pool": f"{pool.region}/{pool.gpu_type}",
                "region": pool.region,
                "gpu_type": pool.gpu_type,
            },
            f"Price guarantees covered {pool.share:.1%} of the price of the last {pool.jobs:,} "
            f"jobs on {pool.gpu_type} in {pool.region}. Their estimates are too low.",
        )
        for pool in overruns_by_pool(around.connection, parameters.jobs)
        if pool.jobs >= parameters.jobs and 100 * pool.share > parameters.above_percent
    ]
