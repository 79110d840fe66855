"""Base models in the model store."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Event
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS base_models (
    name text PRIMARY KEY,
    ref text NOT NULL,
    manifest_sha256 text NOT NULL,
    architecture text NOT NULL,
    parameters bigint NOT NULL,
    context_length bigint NOT NULL,
    imported_at timestamptz NOT NULL,
    model_id uuid NOT NULL UNIQUE,
    shape jsonb NOT NULL,
    deleted boolean NOT NULL DEFAULT false
)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case BaseModel.BaseModelImported():
            cursor.execute(
                "INSERT INTO base_models VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    event.name,
                    event.ref,
                    event.manifest_sha256,
                    event.architecture,
                    event.parameters,
                    event.context_length,
                    event.timestamp,
                    event.originator_id,
                    Jsonb(event.shape.model_dump(mode="json")),
                ],
            )
        case BaseModel.BaseModelRevised():
            cursor.execute(
                "UPDATE base_models SET ref = %s, manifest_sha256 = %s, architecture = %s, "
                "parameters = %s, context_length = %s, imported_at = %s, shape = %s, "
                "deleted = false WHERE model_id = %s",
                [
                    event.ref,
                    event.manifest_sha256,
                    event.architecture,
                    event.parameters,
                    event.context_length,
                    event.timestamp,
                    Jsonb(event.shape.model_dump(mode="json")),
                    event.originator_id,
                ],
            )
        case BaseModel.BaseModelDeleted():
            cursor.execute(
                "UPDATE base_models SET deleted = true WHERE model_id = %s", [event.originator_id]
            )
        case _:
            pass


BASE_MODELS = Projection("base_models", ("base_models",), DDL, apply)


def all_base_models(connection: Connection) -> list[Row]:
    """Return all base models that are not deleted, by name."""
    return connection.execute(
        "SELECT * FROM base_models WHERE NOT deleted ORDER BY name"
    ).fetchall()
