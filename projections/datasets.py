"""Datasets with their status and counts, and their token lengths by base model."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from psycopg.types.json import Jsonb

from domain.core.aggregate import Event
from domain.datasets.dataset import Dataset, DatasetStatus
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, NewestFirst, Projection, Row, insert, one_by_one, update

Pair = tuple[UUID, str, str]
"""Dataset ID, name of the base model, and hash of the base model's manifest."""

DDL = """
CREATE TABLE IF NOT EXISTS datasets (
    dataset_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    status text NOT NULL,
    total_bytes bigint NOT NULL,
    examples bigint,
    duplicates bigint,
    tool_lines bigint,
    tools_ignored boolean NOT NULL,
    errors bigint,
    report_ref text,
    sha256 text NOT NULL,
    parent uuid,
    uploaded_at timestamptz NOT NULL,
    validated_at timestamptz,
    kind text,
    filters jsonb,
    quality_ref text,
    analyzed bigint,
    findings jsonb,
    synthesis_id uuid,
    hub_commit text
);
CREATE INDEX IF NOT EXISTS datasets_account ON datasets (account_id, uploaded_at);
CREATE INDEX IF NOT EXISTS datasets_validating ON datasets (account_id, uploaded_at)
WHERE status = 'validating';
CREATE INDEX IF NOT EXISTS datasets_unanalyzed ON datasets (account_id, uploaded_at)
WHERE status = 'ready_for_training' AND quality_ref IS NULL;
CREATE INDEX IF NOT EXISTS datasets_parent ON datasets (parent);
CREATE TABLE IF NOT EXISTS dataset_tokens (
    dataset_id uuid NOT NULL,
    base_model text NOT NULL,
    base_manifest_sha256 text NOT NULL,
    tokens bigint NOT NULL,
    longest_example bigint NOT NULL,
    lengths jsonb NOT NULL,
    PRIMARY KEY (dataset_id, base_model)
);
CREATE TABLE IF NOT EXISTS dataset_refusals (
    dataset_id uuid NOT NULL,
    base_model text NOT NULL,
    base_manifest_sha256 text NOT NULL,
    example bigint,
    PRIMARY KEY (dataset_id, base_model, base_manifest_sha256)
)
"""

TABLES = ("datasets", "dataset_tokens", "dataset_refusals")


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the tables."""
    match event:
        case Dataset.DatasetUploaded():
            insert(
                cursor,
                "datasets",
                dataset_id=event.originator_id,
                account_id=event.account_id,
                status=DatasetStatus.VALIDATING,
                total_bytes=event.total_bytes,
                sha256=event.sha256,
                uploaded_at=event.timestamp,
                tools_ignored=event.ignore_tools,
                parent=event.parent,
                filters=None
                if event.filters is None
                else Jsonb(event.filters.model_dump(mode="json")),
                synthesis_id=event.synthesis_id,
                hub_commit=event.source and event.source.commit,
            )
        case Dataset.DatasetValidated():
            update(
                cursor,
                "datasets",
                {"dataset_id": event.originator_id},
                status=DatasetStatus.READY_FOR_TRAINING,
                examples=event.examples,
                duplicates=event.duplicates,
                tool_lines=event.tool_lines,
                errors=0,
                report_ref=event.report_ref,
                sha256=event.sha256,
                validated_at=event.timestamp,
                kind=event.kind,
            )
        case Dataset.DatasetRejected():
            update(
                cursor,
                "datasets",
                {"dataset_id": event.originator_id},
                status=DatasetStatus.REJECTED,
                errors=event.errors,
                report_ref=event.report_ref,
                validated_at=event.timestamp,
            )
        case Dataset.DatasetAnalyzed():
            update(
                cursor,
                "datasets",
                {"dataset_id": event.originator_id},
                quality_ref=event.report_ref,
                analyzed=event.analyzed,
                findings=Jsonb(event.findings),
            )
        case Dataset.ToolDefinitionsIgnored():
            update(cursor, "datasets", {"dataset_id": event.originator_id}, tools_ignored=True)
        case Dataset.DatasetDeleted():
            for table in TABLES:
                cursor.execute(
                    f"DELETE FROM {table} WHERE dataset_id = %s",  # type: ignore[arg-type]
                    [event.originator_id],
                )
        case Dataset.TokensCounted():
            cursor.execute(
                "INSERT INTO dataset_tokens VALUES (%s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (dataset_id, base_model) DO UPDATE "
                "SET base_manifest_sha256 = excluded.base_manifest_sha256, "
                "tokens = excluded.tokens, longest_example = excluded.longest_example, "
                "lengths = excluded.lengths",
                [
                    *(event.originator_id, event.base_model, event.base_manifest_sha256),
                    *(event.tokens, event.longest_example, Jsonb(event.lengths.model_dump())),
                ],
            )
        case Dataset.TokensUncountable():
            cursor.execute(
                "INSERT INTO dataset_refusals VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [event.originator_id, event.base_model, event.base_manifest_sha256, event.example],
            )
        case _:
            pass


DATASETS = Projection("datasets", TABLES, DDL, (Dataset,), one_by_one(apply))
NEWEST_DATASETS = NewestFirst("datasets", time="uploaded_at", key="dataset_id")


def ready_datasets(connection: Connection, account_id: UUID, limit: int) -> list[Row]:
    """Return the ID, examples, kind and time of an account's valid datasets, newest first."""
    return connection.execute(
        "SELECT dataset_id, examples, kind, uploaded_at FROM datasets "
        "WHERE account_id = %s AND status = %s "
        "ORDER BY uploaded_at DESC, dataset_id DESC LIMIT %s",
        [account_id, DatasetStatus.READY_FOR_TRAINING, limit],
    ).fetchall()


def datasets_of(
    connection: Connection, account_id: UUID, after: UUID | None = None, limit: int | None = None
) -> list[Row]:
    """Return up to `limit` datasets of an account after the dataset `after`, newest first."""
    return NEWEST_DATASETS.page(connection, account_id, after, limit)


def dataset(connection: Connection, account_id: UUID, dataset_id: UUID) -> Row | None:
    """Return the row of an account's dataset, or None if the account has no such dataset."""
    return connection.execute(
        "SELECT * FROM datasets WHERE account_id = %s AND dataset_id = %s",
        [account_id, dataset_id],
    ).fetchone()


def datasets_among(connection: Connection, dataset_ids: Sequence[UUID]) -> list[Row]:
    """Return the rows of the given datasets. The result omits unknown IDs."""
    return connection.execute(
        "SELECT * FROM datasets WHERE dataset_id = ANY(%s)", [list(dataset_ids)]
    ).fetchall()


def token_counts(connection: Connection, dataset_ids: Sequence[UUID]) -> list[Row]:
    """Return the token lengths of the given datasets, with a row for each base model."""
    return connection.execute(
        "SELECT dataset_id, base_model, tokens, longest_example FROM dataset_tokens "
        "WHERE dataset_id = ANY(%s) ORDER BY base_model",
        [list(dataset_ids)],
    ).fetchall()


MOST_VERSIONS = 200
"""Maximum number of versions in a list."""

UNCOUNTED = (
    "FROM datasets CROSS JOIN base_models WHERE status = %s AND NOT base_models.deleted "
    "AND NOT EXISTS ("
    "SELECT FROM dataset_tokens AS known WHERE known.dataset_id = datasets.dataset_id "
    "AND known.base_model = name AND base_manifest_sha256 = manifest_sha256) "
    "AND NOT EXISTS ("
    "SELECT FROM dataset_refusals AS refused WHERE refused.dataset_id = datasets.dataset_id "
    "AND refused.base_model = name AND base_manifest_sha256 = manifest_sha256) "
)
"""Pairs of a valid dataset and the current revision of a base model that are not counted yet.

A pair whose tokens cannot be counted does not match.
"""


def unvalidated(connection: Connection, without: Sequence[UUID], *, filtered: bool) -> list[Row]:
    """Return each account's oldest dataset that is not validated, except for those in `without`.

    All of them have filters, or none has.
    """
    return connection.execute(
        "SELECT DISTINCT ON (account_id) account_id, dataset_id FROM datasets "
        "WHERE status = 'validating' AND (filters IS NOT NULL) = %s AND NOT dataset_id = ANY(%s) "
        "ORDER BY account_id, uploaded_at, dataset_id",
        [filtered, list(without)],
    ).fetchall()


def versions_of(connection: Connection, account_id: UUID, dataset_id: UUID) -> list[Row]:
    """Return all versions of a dataset: its parents, and their other descendants, oldest first.

    A deleted version separates older from newer ones.
    """
    return connection.execute(
        "WITH RECURSIVE family AS ("
        "SELECT dataset_id, parent FROM datasets WHERE account_id = %(account)s "
        "AND dataset_id = %(dataset)s UNION "
        "SELECT other.dataset_id, other.parent FROM datasets AS other JOIN family "
        "ON other.parent = family.dataset_id OR other.dataset_id = family.parent "
        "WHERE other.account_id = %(account)s) "
        "SELECT datasets.* FROM datasets JOIN family USING (dataset_id) "
        "ORDER BY uploaded_at, dataset_id LIMIT %(most)s",
        {"account": account_id, "dataset": dataset_id, "most": MOST_VERSIONS},
    ).fetchall()


def uncounted(
    connection: Connection,
    without: Sequence[Pair] = (),
    last: Sequence[str] = (),
) -> list[Row]:
    """Return one pair to count for each account, except for those in `without`.

    Wanted pairs come first, then those of the account's oldest dataset. Base models whose manifest
    hash is in `last` come last.
    """
    return connection.execute(
        "SELECT DISTINCT ON (account_id) account_id, dataset_id, name AS base_model, "
        "ref AS base_ref, manifest_sha256, manifest_sha256 = ANY(%s) AS late, "
        "(SELECT wanted_at FROM wanted_counts AS wanted WHERE "
        "wanted.dataset_id = datasets.dataset_id AND wanted.base_model = name) AS wanted_at "
        + UNCOUNTED
        + "AND NOT EXISTS (SELECT FROM unnest(%s::uuid[], %s::text[], %s::text[]) "
        "AS left_out (id, base, manifest) WHERE id = datasets.dataset_id AND base = name "
        "AND manifest = manifest_sha256) "
        "ORDER BY account_id, wanted_at, late, uploaded_at, dataset_id, name",
        [
            list(last),
            DatasetStatus.READY_FOR_TRAINING,
            [dataset_id for dataset_id, _, _ in without],
            [base for _, base, _ in without],
            [manifest for _, _, manifest in without],
        ],
    ).fetchall()


def uncounted_of(connection: Connection, dataset_ids: Sequence[UUID]) -> list[Row]:
    """Return the pairs of the given datasets and base models that are not counted yet."""
    return connection.execute(
        "SELECT dataset_id, name AS base_model "
        + UNCOUNTED
        + "AND dataset_id = ANY(%s) ORDER BY name",
        [DatasetStatus.READY_FOR_TRAINING, list(dataset_ids)],
    ).fetchall()


def wanted_ahead(connection: Connection, dataset_id: UUID, base_model: str) -> tuple[int, int]:
    """Return the number and the bytes of the pairs to count until a wanted one, including it."""
    row = connection.execute(
        "SELECT count(*) AS pairs, coalesce(sum(total_bytes), 0)::bigint AS bytes "
        + UNCOUNTED
        + "AND account_id = (SELECT account_id FROM datasets WHERE dataset_id = %s) AND EXISTS ("
        "SELECT FROM wanted_counts AS wanted JOIN wanted_counts AS own "
        "ON wanted.wanted_at <= own.wanted_at WHERE own.dataset_id = %s AND own.base_model = %s "
        "AND wanted.dataset_id = datasets.dataset_id AND wanted.base_model = name)",
        [DatasetStatus.READY_FOR_TRAINING, dataset_id, dataset_id, base_model],
    ).fetchone()
    assert row is not None
    return row["pairs"], row["bytes"]


def stored(connection: Connection, account_id: UUID) -> tuple[int, int]:
    """Return the number of an account's datasets, and their size in bytes."""
    row = connection.execute(
        "SELECT count(*) AS datasets, coalesce(sum(total_bytes), 0)::bigint AS bytes "
        "FROM datasets WHERE account_id = %s",
        [account_id],
    ).fetchone()
    assert row is not None
    return row["datasets"], row["bytes"]
