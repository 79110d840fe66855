"""Base models in the model store."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Event
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, insert, one_by_one, update

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
    key = {"model_id": event.originator_id}
    match event:
        case BaseModel.BaseModelImported():
            insert(cursor, "base_models", **key, name=event.name, **_revision(event))
        case BaseModel.BaseModelRevised():
            update(cursor, "base_models", key, deleted=False, **_revision(event))
        case BaseModel.BaseModelDeleted():
            update(cursor, "base_models", key, deleted=True)
        case _:
            pass


def _revision(event: BaseModel.BaseModelImported | BaseModel.BaseModelRevised) -> dict[str, object]:
    return {
        "ref": event.ref,
        "manifest_sha256": event.manifest_sha256,
        "architecture": event.architecture,
        "parameters": event.shape.parameters,
        "context_length": event.shape.context_length,
        "imported_at": event.timestamp,
        "shape": Jsonb(event.shape.model_dump(mode="json")),
    }


BASE_MODELS = Projection("base_models", ("base_models",), DDL, (BaseModel,), one_by_one(apply))


def all_base_models(connection: Connection) -> list[Row]:
    """Return the rows of all base models that are not deleted, by name."""
    return connection.execute(
        "SELECT * FROM base_models WHERE NOT deleted ORDER BY name"
    ).fetchall()


def was_any_imported(connection: Connection) -> bool:
    """Return True if there is or was a base model."""
    return connection.execute("SELECT FROM base_models LIMIT 1").fetchone() is not None
