"""Deployments of base models, models and checkpoints, with their status."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.core.aggregate import Event
from domain.core.identity import PLATFORM_ACCOUNT_ID
from domain.deployments.deployment import Deployment, DeploymentStatus, Weights
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS deployments (
    deployment_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    model text NOT NULL,
    status text NOT NULL,
    base_model text NOT NULL,
    job_id uuid,
    step bigint,
    requested_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    failure_code text,
    failure_message text,
    UNIQUE (account_id, model)
)
"""

WANTED = [status.value for status in DeploymentStatus if status.is_wanted]


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case Deployment.DeploymentRequested():
            cursor.execute(
                "INSERT INTO deployments VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    event.originator_id,
                    event.account_id,
                    event.model,
                    DeploymentStatus.DEPLOYING,
                    *_source(event.weights),
                    event.timestamp,
                    event.timestamp,
                ],
            )
        case Deployment.DeploymentRenewed():
            cursor.execute(
                "UPDATE deployments SET base_model = %s, job_id = %s, step = %s, "
                "requested_at = %s WHERE deployment_id = %s",
                [*_source(event.weights), event.timestamp, event.originator_id],
            )
            _change(cursor, event, DeploymentStatus.DEPLOYING)
        case Deployment.DeploymentActivated():
            _change(cursor, event, DeploymentStatus.ACTIVE)
        case Deployment.DeploymentFailed():
            _change(cursor, event, DeploymentStatus.FAILED, event.code, event.message)
        case Deployment.Undeployed():
            _change(cursor, event, DeploymentStatus.UNDEPLOYED)
        case _:
            pass


def _source(weights: Weights) -> tuple[str, UUID | None, int | None]:
    """Return the base model, job and step of some weights."""
    adapter = weights.adapter
    if adapter is None:
        return weights.base_model, None, None
    return weights.base_model, adapter.job_id, adapter.step


def _change(
    cursor: Cursor,
    event: Event,
    status: DeploymentStatus,
    code: str | None = None,
    message: str | None = None,
) -> None:
    cursor.execute(
        "UPDATE deployments SET status = %s, changed_at = %s, failure_code = %s, "
        "failure_message = %s WHERE deployment_id = %s",
        [status, event.timestamp, code, message, event.originator_id],
    )


DEPLOYMENTS = Projection("deployments", ("deployments",), DDL, apply)


def deployments_of(
    connection: Connection, account_id: UUID, after: str | None = None, limit: int | None = None
) -> list[Row]:
    """Return up to `limit` deployments after a name: first of base models, then of the account."""
    return connection.execute(
        "SELECT row.* FROM deployments AS row LEFT JOIN deployments AS last "
        "ON last.model = %(after)s AND last.account_id = ANY(%(accounts)s) "
        "WHERE row.account_id = ANY(%(accounts)s) AND (%(all)s "
        "OR (row.job_id IS NOT NULL, row.model) > (last.job_id IS NOT NULL, last.model)) "
        "ORDER BY row.job_id IS NOT NULL, row.model LIMIT %(limit)s",
        {
            "accounts": [PLATFORM_ACCOUNT_ID, account_id],
            "after": after,
            "all": after is None,
            "limit": limit,
        },
    ).fetchall()


def deployment_named(connection: Connection, account_id: UUID, model: str) -> Row | None:
    """Return the deployment with a name, of a base model or of the account."""
    return connection.execute(
        "SELECT * FROM deployments WHERE account_id = ANY(%s) AND model = %s",
        [[PLATFORM_ACCOUNT_ID, account_id], model],
    ).fetchone()


def deployed_checkpoints(
    connection: Connection, account_id: UUID, model: str | None = None
) -> list[Row]:
    """Return an account's requested deployments of checkpoints, by name.

    `model` selects the deployment with this name.
    """
    return connection.execute(
        "SELECT * FROM deployments AS row WHERE account_id = %(account)s AND job_id IS NOT NULL "
        "AND status = ANY(%(wanted)s) AND (%(model)s::text IS NULL OR model = %(model)s) "
        "AND NOT EXISTS (SELECT FROM models WHERE models.account_id = row.account_id "
        "AND models.model = row.model) ORDER BY model",
        {"account": account_id, "wanted": WANTED, "model": model},
    ).fetchall()


def deployments_of_jobs(
    connection: Connection, job_ids: Sequence[UUID]
) -> dict[UUID, dict[str, Row]]:
    """Return the deployments of each job, by name."""
    rows = connection.execute(
        "SELECT * FROM deployments WHERE job_id = ANY(%s)", [list(job_ids)]
    ).fetchall()
    found: dict[UUID, dict[str, Row]] = {each: {} for each in job_ids}
    for row in rows:
        found[row["job_id"]][row["model"]] = row
    return found


def statuses_of_jobs(
    connection: Connection, job_ids: Sequence[UUID]
) -> dict[UUID, dict[str, DeploymentStatus]]:
    """Return the statuses of each job's deployments, by name."""
    return {
        job_id: {model: DeploymentStatus(row["status"]) for model, row in rows.items()}
        for job_id, rows in deployments_of_jobs(connection, job_ids).items()
    }


def statuses(connection: Connection, account_id: UUID) -> dict[str, DeploymentStatus]:
    """Return the statuses of base models' and an account's deployments, by name."""
    rows = deployments_of(connection, account_id)
    return {row["model"]: DeploymentStatus(row["status"]) for row in rows}


def adapter_names_on(connection: Connection, base_model: str) -> list[str]:
    """Return the names of all accounts' requested adapters on a base model."""
    rows = connection.execute(
        "SELECT model FROM deployments WHERE base_model = %s AND job_id IS NOT NULL "
        "AND status = ANY(%s) ORDER BY model",
        [base_model, WANTED],
    ).fetchall()
    return [row["model"] for row in rows]


def adapters_on(connection: Connection, base_model: str) -> int:
    """Return the number of all accounts' requested adapters on a base model."""
    row = connection.execute(
        "SELECT count(*) AS adapters FROM deployments "
        "WHERE base_model = %s AND job_id IS NOT NULL AND status = ANY(%s)",
        [base_model, WANTED],
    ).fetchone()
    assert row is not None
    return row["adapters"]
