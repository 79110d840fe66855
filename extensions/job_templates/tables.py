"""Job templates: named requests of an account, from which it starts similar jobs.

They are rows, not events, because users name them, and because a deletion must remove them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection

JOB_TEMPLATES = Table(
    name="job_templates",
    owner="account_id",
    ddl="""
CREATE TABLE IF NOT EXISTS job_templates (
    template_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    name text NOT NULL,
    request jsonb NOT NULL,
    job_id uuid,
    created_at timestamptz NOT NULL,
    UNIQUE (account_id, name)
)
""",
)

COLUMNS = "template_id, name, request, job_id, created_at"


@dataclass(frozen=True)
class JobTemplate:
    """A named request. `job_id` is the job from which it was made, or None."""

    template_id: UUID
    name: str
    request: dict[str, Any]
    job_id: UUID | None
    created_at: datetime


def templates_of(connection: Connection, account_id: UUID) -> list[JobTemplate]:
    """Return the templates of an account, by name."""
    with connection.cursor(row_factory=class_row(JobTemplate)) as cursor:
        query = f"SELECT {COLUMNS} FROM job_templates WHERE account_id = %s ORDER BY lower(name)"
        return cursor.execute(query, [account_id]).fetchall()


def template_of(connection: Connection, account_id: UUID, template_id: UUID) -> JobTemplate | None:
    """Return a template of an account, or None."""
    with connection.cursor(row_factory=class_row(JobTemplate)) as cursor:
        query = f"SELECT {COLUMNS} FROM job_templates WHERE account_id = %s AND template_id = %s"
        return cursor.execute(query, [account_id, template_id]).fetchone()


def add_template(
    connection: Connection, account_id: UUID, template: JobTemplate, most: int
) -> bool:
    """Add a template. Return False if the account has one of this name, or `most` templates."""
    with connection.transaction():
        # Two requests of an account must not both pass the limit.
        connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"job_templates:{account_id}"]
        )
        added = connection.execute(
            "INSERT INTO job_templates (template_id, account_id, name, request, job_id, "
            "created_at) SELECT %s, %s, %s, %s, %s, %s "
            "WHERE (SELECT count(*) FROM job_templates WHERE account_id = %s) < %s "
            "ON CONFLICT (account_id, name) DO NOTHING",
            [
                template.template_id,
                account_id,
                template.name,
                Jsonb(template.request),
                template.job_id,
                template.created_at,
                account_id,
                most,
            ],
        )
    return added.rowcount == 1


def rename_template(connection: Connection, account_id: UUID, template_id: UUID, name: str) -> bool:
    """Rename a template. Return False if the account has another one of this name."""
    try:
        with connection.transaction():
            connection.execute(
                "UPDATE job_templates SET name = %s WHERE account_id = %s AND template_id = %s",
                [name, account_id, template_id],
            )
    except UniqueViolation:
        return False
    return True


def delete_template(connection: Connection, account_id: UUID, template_id: UUID) -> bool:
    """Delete a template. Return False if there is no such template."""
    deleted = connection.execute(
        "DELETE FROM job_templates WHERE account_id = %s AND template_id = %s",
        [account_id, template_id],
    )
    return deleted.rowcount == 1
