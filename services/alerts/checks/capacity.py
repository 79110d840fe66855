"""GPU types with a queue and no free GPU."""

from __future__ import annotations

from domain.alerting.cause import Finding
from domain.alerting.parameters import Parameters
from projections.gpu_pools import all_gpu_pools
from services.alerts.checks.surroundings import Surroundings


def exhausted(around: Surroundings, _: Parameters) -> list[Finding]:
    """Return the pools in which jobs are queued and no GPU is free."""
    return [
        Finding(
            {
                "pool": f"{pool['region']}/{pool['gpu_type']}",
                "region": pool["region"],
                "gpu_type": pool["gpu_type"],
            },
            f"All {pool['capacity']:,} {pool['gpu_type']} in {pool['region']} are in use, and "
            f"{pool['waiting']:,} {'job is' if pool['waiting'] == 1 else 'jobs are'} queued.",
        )
        for pool in all_gpu_pools(around.connection)
        if pool["waiting"] > 0 and pool["held"] >= pool["capacity"]
    ]
