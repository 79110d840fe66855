"""Models of registered and promoted jobs.

A name includes only twelve digits of the job's ID. Users can choose idempotency keys and so produce
the same name twice, so names are not unique.
"""

from __future__ import annotations

from uuid import UUID

from domain.core.aggregate import Event
from domain.jobs import events
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, NewestFirst, Projection, Row, insert, one_by_one

DDL = """
CREATE TABLE IF NOT EXISTS models (
    model text NOT NULL,
    account_id uuid NOT NULL,
    job_id uuid PRIMARY KEY,
    adapter_ref text NOT NULL,
    manifest_sha256 text NOT NULL,
    registered_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS models_account ON models (account_id, model)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case events.Registered() | events.AdapterPromoted():
            insert(
                cursor,
                "models",
                model=event.model,
                account_id=event.account_id,
                job_id=event.originator_id,
                adapter_ref=event.adapter_ref,
                manifest_sha256=event.manifest_sha256,
                registered_at=event.timestamp,
            )
        case events.ModelDeleted():
            cursor.execute("DELETE FROM models WHERE job_id = %s", [event.originator_id])
        case _:
            pass


MODELS = Projection(
    "models",
    ("models",),
    DDL,
    (
        events.Registered,
        events.AdapterPromoted,
        events.ModelDeleted,
    ),
    one_by_one(apply),
)
NEWEST_MODELS = NewestFirst("models", time="registered_at", key="model")


def models_of(
    connection: Connection, account_id: UUID, after: str | None = None, limit: int | None = None
) -> list[Row]:
    """Return up to `limit` models of an account after the model `after`, newest first."""
    return NEWEST_MODELS.page(connection, account_id, after, limit)


def model_of(connection: Connection, account_id: UUID, model: str) -> Row | None:
    """Return the first model of an account with this name, or None."""
    return connection.execute(
        "SELECT * FROM models WHERE account_id = %s AND model = %s "
        "ORDER BY registered_at, job_id LIMIT 1",
        [account_id, model],
    ).fetchone()


def job_of_model(connection: Connection, model: str) -> UUID | None:
    """Return the job ID of the first model with this name, or None."""
    row = connection.execute(
        "SELECT job_id FROM models WHERE model = %s ORDER BY registered_at, job_id LIMIT 1", [model]
    ).fetchone()
    return row["job_id"] if row is not None else None
