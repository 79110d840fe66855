"""The share of jobs whose actual cost was within the approved range."""

from __future__ import annotations

from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import EstimateParameters, Parameters


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
        f"The cost of {within:,} of the last {len(rows):,} jobs was within the approved range. "
        "See `ecolink estimates report`."
    )
    return [Finding({"estimates": "all"}, text)]
