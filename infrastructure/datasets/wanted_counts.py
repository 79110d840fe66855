"""Pairs of dataset and base model whose token counts a quote or a job request needs."""

from __future__ import annotations

from uuid import UUID

from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS wanted_counts (
    dataset_id uuid NOT NULL,
    base_model text NOT NULL,
    wanted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, base_model)
)
"""


def want_count(connection: Connection, dataset_id: UUID, base_model: str) -> None:
    """Let the account's other pairs wait for this one. The earliest call decides the order."""
    connection.execute(
        "INSERT INTO wanted_counts VALUES (%s, %s) ON CONFLICT DO NOTHING", [dataset_id, base_model]
    )


def delete_wanted_counts(connection: Connection, dataset_id: UUID) -> None:
    """Delete the wanted counts of a deleted dataset."""
    connection.execute("DELETE FROM wanted_counts WHERE dataset_id = %s", [dataset_id])
