"""Names and notes that users enter and can delete, outside of the event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS profiles (
    account_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS dataset_names (
    dataset_id uuid PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE IF NOT EXISTS key_names (
    key_id uuid PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE IF NOT EXISTS job_metadata (
    job_id uuid PRIMARY KEY,
    metadata jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS job_metadata_notes ON job_metadata USING gin (metadata jsonb_path_ops)
"""


def add_account_name(connection: Connection, account_id: UUID, name: str) -> UUID:
    """Name an account. Return the account that has the name: another one if it was taken."""
    connection.execute(
        "INSERT INTO profiles VALUES (%s, %s) ON CONFLICT DO NOTHING", [account_id, name]
    )
    holder = account_named(connection, name)
    assert holder is not None
    return holder


def account_named(connection: Connection, name: str) -> UUID | None:
    """Return the ID of the account with this name, or None."""
    row = connection.execute("SELECT account_id FROM profiles WHERE name = %s", [name]).fetchone()
    return None if row is None else row["account_id"]


def account_id_of(connection: Connection, text: str) -> UUID | None:
    """Return the ID (maybe unknown) in a text or of the account with this name, or None."""
    try:
        return UUID(text)
    except ValueError:
        return account_named(connection, text)


def name_of_account(connection: Connection, account_id: UUID) -> str | None:
    """Return the name of an account, or None."""
    row = connection.execute(
        "SELECT name FROM profiles WHERE account_id = %s", [account_id]
    ).fetchone()
    return None if row is None else row["name"]


def account_names(connection: Connection) -> dict[UUID, str]:
    """Return the names of all accounts, by account ID."""
    return _names(connection.execute("SELECT account_id AS id, name FROM profiles").fetchall())


def set_dataset_name(connection: Connection, dataset_id: UUID, name: str) -> None:
    """Store the name of a dataset, unless it already has one."""
    connection.execute(
        "INSERT INTO dataset_names VALUES (%s, %s) ON CONFLICT DO NOTHING", [dataset_id, name]
    )


def delete_dataset_name(connection: Connection, dataset_id: UUID) -> None:
    """Delete a dataset's name."""
    connection.execute("DELETE FROM dataset_names WHERE dataset_id = %s", [dataset_id])


def dataset_names(connection: Connection, dataset_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the names of the given datasets, by dataset ID."""
    return _names(
        connection.execute(
            "SELECT dataset_id AS id, name FROM dataset_names WHERE dataset_id = ANY(%s)",
            [list(dataset_ids)],
        ).fetchall()
    )


def set_key_name(connection: Connection, key_id: UUID, name: str) -> None:
    """Store the name of an API key, unless it already has one."""
    connection.execute(
        "INSERT INTO key_names VALUES (%s, %s) ON CONFLICT DO NOTHING", [key_id, name]
    )


def key_names(connection: Connection, key_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the names of the given API keys."""
    return _names(
        connection.execute(
            "SELECT key_id AS id, name FROM key_names WHERE key_id = ANY(%s)", [list(key_ids)]
        ).fetchall()
    )


def set_job_metadata(connection: Connection, job_id: UUID, metadata: Mapping[str, str]) -> None:
    """Store the metadata of a job, unless it already has metadata."""
    connection.execute(
        "INSERT INTO job_metadata VALUES (%s, %s) ON CONFLICT DO NOTHING",
        [job_id, Jsonb(dict(metadata))],
    )


def job_metadata(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, dict[str, str]]:
    """Return the metadata of the given jobs, by job ID."""
    rows = connection.execute(
        "SELECT job_id, metadata FROM job_metadata WHERE job_id = ANY(%s)", [list(job_ids)]
    ).fetchall()
    return {row["job_id"]: row["metadata"] for row in rows}


def _names(rows: list[dict[str, Any]]) -> dict[UUID, str]:
    return {row["id"]: row["name"] for row in rows}
