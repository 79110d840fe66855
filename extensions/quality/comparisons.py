"""Requested comparisons of two datasets, and their results, which follow from the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection

COMPARISONS = Table(
    name="dataset_comparisons",
    owner="account_id",
    aggregate="dataset_id",
    ddl="""
CREATE TABLE IF NOT EXISTS dataset_comparisons (
    dataset_id uuid NOT NULL,
    other_id uuid NOT NULL,
    kind text NOT NULL,
    account_id uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    counts jsonb,
    ref text,
    PRIMARY KEY (dataset_id, other_id, kind)
);
CREATE INDEX IF NOT EXISTS dataset_comparisons_waiting ON dataset_comparisons (requested_at)
WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS dataset_comparisons_account ON dataset_comparisons (account_id);
CREATE INDEX IF NOT EXISTS dataset_comparisons_other ON dataset_comparisons (other_id)
""",
)

MOST_WAITING = 100
"""Maximum number of comparisons of an account that wait. Further requests are ignored."""

Key = tuple[UUID, UUID, str]
"""IDs of the dataset and of the other one, and the kind of the comparison."""


class ComparisonKind(StrEnum):
    """Kinds of comparisons: with a validation dataset, or with an older version."""

    CONTAMINATION = "contamination"
    DIFFERENCE = "difference"


class ComparisonState(StrEnum):
    """States of a comparison. A failed one exceeded a limit, and is not repeated."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


def request_comparison(connection: Connection, account_id: UUID, key: Key) -> None:
    """Ask for a comparison, unless it is known or many are waiting. Idempotent."""
    connection.execute(
        "INSERT INTO dataset_comparisons (dataset_id, other_id, kind, account_id, requested_at) "
        "SELECT %s, %s, %s, %s, now() WHERE (SELECT count(*) FROM dataset_comparisons "
        "WHERE account_id = %s AND state = 'waiting') < %s ON CONFLICT DO NOTHING",
        [*key, account_id, account_id, MOST_WAITING],
    )


def comparison(connection: Connection, key: Key) -> Mapping[str, Any] | None:
    """Return the state, counts and ref of a comparison; None if it was not requested."""
    return connection.execute(
        "SELECT state, counts, ref FROM dataset_comparisons "
        "WHERE dataset_id = %s AND other_id = %s AND kind = %s",
        [*key],
    ).fetchone()


def contaminations(
    connection: Connection, pairs: Sequence[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], Mapping[str, int]]:
    """Return the counts of finished comparisons of training and validation datasets, by IDs."""
    found = connection.execute(
        "SELECT dataset_id, other_id, counts FROM dataset_comparisons "
        "JOIN unnest(%s::uuid[], %s::uuid[]) AS wanted (id, other) "
        "ON dataset_id = id AND other_id = other WHERE kind = %s AND state = %s",
        [
            [dataset_id for dataset_id, _ in pairs],
            [other_id for _, other_id in pairs],
            ComparisonKind.CONTAMINATION,
            ComparisonState.DONE,
        ],
    ).fetchall()
    return {(row["dataset_id"], row["other_id"]): row["counts"] for row in found}


def waiting_comparisons(
    connection: Connection, without: Sequence[Key] = ()
) -> Sequence[Mapping[str, Any]]:
    """Return each account's oldest waiting comparison, except for those in `without`."""
    return connection.execute(
        "SELECT DISTINCT ON (account_id) account_id, dataset_id, other_id, kind "
        "FROM dataset_comparisons WHERE state = 'waiting' AND NOT EXISTS ("
        "SELECT FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) AS left_out (id, other, what) "
        "WHERE id = dataset_id AND other = other_id AND what = kind) "
        "ORDER BY account_id, requested_at, dataset_id, other_id, kind",
        [
            [dataset_id for dataset_id, _, _ in without],
            [other_id for _, other_id, _ in without],
            [kind for _, _, kind in without],
        ],
    ).fetchall()


def finish_comparison(
    connection: Connection, key: Key, ref: str | None, counts: Mapping[str, int]
) -> None:
    """Store the result of a comparison; without a `ref`, that it failed."""
    state = ComparisonState.FAILED if ref is None else ComparisonState.DONE
    connection.execute(
        "UPDATE dataset_comparisons SET state = %s, ref = %s, counts = %s "
        "WHERE dataset_id = %s AND other_id = %s AND kind = %s",
        [state, ref, Jsonb(dict(counts)), *key],
    )


def comparisons_without_dataset(connection: Connection) -> Sequence[Mapping[str, Any]]:
    """Return the comparisons with a dataset that the read model does not have."""
    return connection.execute(
        "SELECT dataset_id, other_id, kind, ref FROM dataset_comparisons AS made WHERE "
        "NOT EXISTS (SELECT FROM datasets WHERE datasets.dataset_id = made.dataset_id) OR "
        "NOT EXISTS (SELECT FROM datasets WHERE datasets.dataset_id = made.other_id)"
    ).fetchall()


def delete_comparison(connection: Connection, key: Key) -> None:
    """Delete the row of a comparison."""
    connection.execute(
        "DELETE FROM dataset_comparisons WHERE dataset_id = %s AND other_id = %s AND kind = %s",
        [*key],
    )
