"""Models: adapters with a name, of registered jobs and of stopped ones that were promoted.

A name tells twelve digits of its job's id, which whoever chooses idempotency keys can have twice:
no event may be refused here because of its name.
"""

from __future__ import annotations

from uuid import UUID

from domain.core.aggregate import Event
from domain.jobs import events
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row, newest_first

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
    """Fold one event into the table."""
    match event:
        case events.Registered() | events.AdapterPromoted():
            cursor.execute(
                "INSERT INTO models VALUES (%s, %s, %s, %s, %s, %s)",
                [
                    event.model,
                    event.account_id,
                    event.originator_id,
                    event.adapter_ref,
                    event.manifest_sha256,
                    event.timestamp,
                ],
            )
        case events.ModelDeleted():
            cursor.execute("DELETE FROM models WHERE job_id = %s", [event.originator_id])
        case _:
            pass


MODELS = Projection("models", ("models",), DDL, apply)


def models_of(
    connection: Connection, account_id: UUID, after: str | None = None, limit: int | None = None
) -> list[Row]:
    """An account's registered models, the newest first; those after one, at most so many."""
    return newest_first(connection, "models", "registered_at", "model", account_id, after, limit)


def model_of(connection: Connection, account_id: UUID, model: str) -> Row | None:
    """One registered model of an account; of several with a name, the first."""
    return connection.execute(
        "SELECT * FROM models WHERE account_id = %s AND model = %s "
        "ORDER BY registered_at, job_id LIMIT 1",
        [account_id, model],
    ).fetchone()


def job_of_model(connection: Connection, model: str) -> UUID | None:
    """The job that made a model, the first one of several; None if there is no such model."""
    row = connection.execute(
        "SELECT job_id FROM models WHERE model = %s ORDER BY registered_at, job_id LIMIT 1", [model]
    ).fetchone()
    return row["job_id"] if row is not None else None
