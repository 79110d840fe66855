"""Jobs and deployments that use a base model, from the read models."""

from __future__ import annotations

from infrastructure.postgres.store import Connection
from projections.deployments import adapter_names_on
from projections.job_detail import unfinished_on_base


def uses_of_base(connection: Connection, name: str) -> list[str]:
    """Return a text for each unfinished job and deployed model on a base model.

    The jobs are oldest first, the models by name.
    """
    jobs = unfinished_on_base(connection, name)
    models = adapter_names_on(connection, name)
    return [*(f"job {each}" for each in jobs), *(f"model {each}" for each in models)]
