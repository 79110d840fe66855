"""Deployments of base models, models and checkpoints, with their status."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.core.aggregate import Event
from domain.core.identity import PLATFORM_ACCOUNT_ID
from domain.deployments.deployment import Deployment, DeploymentStatus, Weights
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, insert, one_by_one, update

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
            insert(
                cursor,
                "deployments",
                deployment_id=event.originator_id,
                account_id=event.account_id,
                model=event.model,
                status=DeploymentStatus.DEPLOYING,
                requested_at=event.timestamp,
                changed_at=event.timestamp,
                **_source(event.weights),
            )
        case Deployment.DeploymentRenewed():
            renewed = {"requested_at": event.timestamp, **_source(event.weights)}
            _change(cursor, event, DeploymentStatus.DEPLOYING, **renewed)
        case Deployment.DeploymentActivated():
            _change(cursor, event, DeploymentStatus.ACTIVE)
        case Deployment.DeploymentFailed(code=code, message=message):
            failure = {"failure_code": code, "failure_message": message}
            _change(cursor, event, DeploymentStatus.FAILED, **failure)
        case Deployment.Undeployed():
            _change(cursor, event, DeploymentStatus.UNDEPLOYED)
        case _:
            pass


def _source(weights: Weights) -> dict[str, object]:
    """Return the columns for the base model, job and step of `weights`."""
    adapter = weights.adapter
    return {
        "base_model": weights.base_model,
        "job_id": None if adapter is None else adapter.job_id,
        "step": None if adapter is None else adapter.step,
    }


def _change(cursor: Cursor, event: Event, status: DeploymentStatus, **columns: object) -> None:
    """Set the status and the given columns. Clear an earlier failure."""
    changed = {"failure_code": None, "failure_message": None, **columns}
    key = {"deployment_id": event.originator_id}
    update(cursor, "deployments", key, status=status, changed_at=event.timestamp, **changed)


DEPLOYMENTS = Projection("deployments", ("deployments",), DDL, (Deployment,), one_by_one(apply))


def deployments_of(
    connection: Connection, account_id: UUID, after: str | None = None, limit: int | None = None
) -> list[Row]:
    """Return up to `limit` deployments after a name: of base models, then of the account."""
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
    """Return the deployment with this name, of a base model or of the account, or None."""
    return connection.execute(
        "SELECT * FROM deployments WHERE account_id = ANY(%s) AND model = %s",
        [[PLATFORM_ACCOUNT_ID, account_id], model],
    ).fetchone()


def deployed_checkpoints(
    connection: Connection, account_id: UUID, model: str | None = None
) -> list[Row]:
    """Return an account's deploying and active deployments of checkpoints, by name.

    `model` restricts the result to the deployment with this name.
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
    """Return the deployments of each job, by job ID and name."""
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
    """Return the statuses of each job's deployments, by job ID and name."""
    return {
        job_id: {model: DeploymentStatus(row["status"]) for model, row in rows.items()}
        for job_id, rows in deployments_of_jobs(connection, job_ids).items()
    }


def statuses(connection: Connection, account_id: UUID) -> dict[str, DeploymentStatus]:
    """Return the statuses of the deployments of base models and of the account, by name."""
    rows = deployments_of(connection, account_id)
    return {row["model"]: DeploymentStatus(row["status"]) for row in rows}


def adapter_names_on(connection: Connection, base_model: str) -> list[str]:
    """Return the names of all accounts' deploying and active adapters on a base model."""
    rows = connection.execute(
        "SELECT model FROM deployments WHERE base_model = %s AND job_id IS NOT NULL "
        "AND status = ANY(%s) ORDER BY model",
        [base_model, WANTED],
    ).fetchall()
    return [row["model"] for row in rows]
