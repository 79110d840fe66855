"""Personal data of accounts: where it is, and how it is deleted.

Events hold none, so the log stays complete. PERSONAL lists the tables whose rows belong to an
account, and FOLDERS its files. A test checks that PERSONAL and KEPT list all tables of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from psycopg import sql

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs.events import JobApproved
from domain.jobs.job_request import JobRequest
from domain.use_cases.erasing import Holdings
from infrastructure.artifacts.store import Artifacts
from infrastructure.extensions import extension_folders, extension_tables, installed
from infrastructure.postgres.store import Connection

PERSONAL: dict[str, str] = {
    "dataset_names": "dataset_id",
    "dataset_progress": "dataset_id",
    "job_drafts": "account_id",
    "job_metadata": "job_id",
    "key_names": "key_id",
    "key_uses": "key_id",
    "log_lines": "job_id",
    "profiles": "account_id",
    "request_keys": "account_id",
    "sign_in_links": "key_id",
    "wanted_counts": "dataset_id",
    "web_sessions": "key_id",
}
"""Tables of the core with personal data, and the column with the account, key, dataset or job."""

KEPT: dict[str, str] = {
    "ecolink_events": "Events have IDs, amounts and choices, but no names or addresses.",
    "ecolink_snapshots": "Balances, and the IDs of accounts and jobs that use or wait for GPUs.",
    "ecolink_tracking": "Positions of services.",
    "parked_events": "Events that a service could not handle, with the error.",
    "projection_positions": "Positions of read models.",
    "projection_shapes": "Hashes of read models.",
    "schema_revisions": "Hashes of schemas, with their versions.",
    "log_identity": "The ID of the log, and the hold of a restored copy.",
    "leaderships": "Processes of EcoLink.",
    "processes": "Processes of EcoLink, with their versions.",
    "event_formats": "Formats of the log, with the operator who raised them.",
    "step_measurements": "Numbers of a job, which audits compare with its events.",
    "evaluation_measurements": "Numbers of a job, which audits compare with its events.",
    "segment_evidence": "Durations that prove the charges.",
    "security_events": "Addresses of clients without an account. They are deleted by age.",
    "verifications": "Results of verifications, of which the newest are kept.",
}
"""All other tables except read models, and the reason why an erasure keeps their rows."""

FOLDERS = ("uploads", "datasets", "jobs", *extension_folders())
"""Folders of the artifact store in which each account has a folder."""

FIRST = {
    ApiKey.ApiKeyIssued.TOPIC: "keys",
    Dataset.DatasetUploaded.TOPIC: "datasets",
    JobApproved.TOPIC: "jobs",
    JobRequest.JobRequested.TOPIC: "requests",
    Deployment.DeploymentRequested.TOPIC: "deployments",
}
"""First events of the aggregates of an account, and the fields of Holdings."""


def personal_tables() -> dict[str, str]:
    """Return all tables with personal data, with those of extensions, as in PERSONAL."""
    return PERSONAL | {each.name: each.owner for each in extension_tables() if each.owner}


class Deleted(NamedTuple):
    """The numbers of deleted rows and files."""

    rows: int
    files: int


def holdings_of(connection: Connection, account_id: UUID) -> Holdings:
    """Return everything that an account has in the log. Reads all first events of the log."""
    found = begun_by(connection, account_id, list(FIRST))
    return Holdings(**{name: tuple(found.get(topic, ())) for topic, name in FIRST.items()})


def begun_by(
    connection: Connection, account_id: UUID, topics: Sequence[str]
) -> dict[str, list[UUID]]:
    """Return the aggregates of an account, oldest first, by the topic of their first event."""
    rows = connection.execute(
        "SELECT topic, originator_id FROM ecolink_events WHERE originator_version = 1 "
        "AND topic = ANY(%s) AND position(%s::bytea IN state) > 0 ORDER BY notification_id",
        [list(topics), f'"account_id":"{account_id}"'.encode()],
    ).fetchall()
    found: dict[str, list[UUID]] = {}
    for row in rows:
        found.setdefault(row["topic"], []).append(row["originator_id"])
    return found


def endings(log: EventLog, connection: Connection) -> Callable[[UUID], None]:
    """Return a function that ends the work of installed extensions for an account."""

    def end(account_id: UUID) -> None:
        for extension in installed():
            for reference in extension.endings:
                extension.load(reference)(log, connection, account_id)

    return end


def erased_accounts(connection: Connection) -> frozenset[UUID]:
    """Return the accounts whose personal data was erased, according to the log."""
    rows = connection.execute(
        "SELECT originator_id FROM ecolink_events WHERE topic = %s", [Account.AccountErased.TOPIC]
    ).fetchall()
    return frozenset(row["originator_id"] for row in rows)


def delete_personal_data(connection: Connection, artifacts: Artifacts, account_id: UUID) -> Deleted:
    """Delete all rows and files with personal data of an account. Idempotent.

    The files come first. After a crash, a command can still find the account by its name.
    """
    files = 0
    for folder in FOLDERS:
        files += len(artifacts.list(f"{folder}/{account_id}"))
        artifacts.delete_directory(f"{folder}/{account_id}")
    ids = _ids(connection, account_id)
    with connection.transaction():
        rows = sum(
            _delete(connection, table, column, ids[column])
            for table, column in personal_tables().items()
        )
    return Deleted(rows, files)


def _ids(connection: Connection, account_id: UUID) -> dict[str, list[UUID]]:
    """Return the values of the columns in PERSONAL that belong to an account."""
    found = holdings_of(connection, account_id)
    requested = connection.execute(
        "SELECT (convert_from(state, 'UTF8')::json ->> 'job_id')::uuid AS job_id "
        "FROM ecolink_events WHERE originator_id = ANY(%s) AND topic = %s",
        [list(found.requests), JobRequest.JobRequested.TOPIC],
    ).fetchall()
    return {
        "account_id": [account_id],
        "key_id": list(found.keys),
        "dataset_id": list(found.datasets),
        "job_id": [*found.jobs, *(row["job_id"] for row in requested)],
    }


def _delete(connection: Connection, table: str, column: str, ids: Sequence[UUID]) -> int:
    query = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(
        sql.Identifier(table), sql.Identifier(column)
    )
    return connection.execute(query, [list(ids)]).rowcount
