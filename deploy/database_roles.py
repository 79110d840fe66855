"""PostgreSQL roles, one for each service, with only the rights that the service needs.

ACCESS lists all rights, and every migration grants exactly these. No role can update, delete or
truncate events.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from eventsourcing.utils import get_topic
from psycopg import sql

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp
from domain.billing.card_payment import CardPayment
from domain.billing.meter import Meter
from domain.billing.payment import Payment
from domain.billing.token_meter import TokenMeter
from domain.capacity.gpu_pool import GpuPool
from domain.catalog.base_model import BaseModel
from domain.catalog.catalog import Catalog
from domain.core.topics import topics_of
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest
from infrastructure.accounts.personal_data import personal_tables
from infrastructure.extensions import extension_tables, installed, processes, selected
from infrastructure.rights import ADD, CHANGE, KEEP, READ, REMOVE, Access
from projections import PROJECTIONS

OPERATOR_ROLE = "ecolink_operator"
"""Role of operator commands on the host, and of processes that have no role of their own."""

STORE_TABLES = ("ecolink_events", "ecolink_snapshots", "ecolink_tracking")
ROWS_OF_ROLES = (*STORE_TABLES, "parked_events")
"""Tables in which a role may write only its own rows."""

READ_MODELS = tuple(table for projection in PROJECTIONS for table in projection.tables)
MEASUREMENTS = ("step_measurements", "evaluation_measurements", "log_lines")


def _each(tables: Iterable[str], rights: str) -> dict[str, str]:
    return dict.fromkeys(tables, rights)


CORE: dict[str, Access] = {
    "relay": Access(tables={"log_identity": READ}),
    "sealer": Access(tables={"log_identity": READ}),
    "projector": Access(
        tables=_each(READ_MODELS, CHANGE)
        | {"projection_positions": KEEP, "projection_shapes": READ, "parked_events": READ}
        | {"processes": READ}
        | _each(MEASUREMENTS, ADD)
    ),
    "billing": Access(
        events=(
            *(Meter, TokenMeter),
            *(Account.UsageSettled, Account.ChargeReversed, Account.BudgetUsed),
            *(Account.BalanceDepleted, Account.BalanceLow, Account.BalanceRecovered),
        ),
        reads_snapshots=True,
        snapshots=(Account, Meter),
        handles_events=True,
        tables=_each(("accounts", "open_meters", "job_detail", "projection_positions"), READ)
        | {"segment_evidence": KEEP},
    ),
    "scheduler": Access(
        events=(Job, GpuPool),
        reads_snapshots=True,
        snapshots=(GpuPool,),
        handles_events=True,
        tables=_each(
            ("accounts", "job_detail", "open_meters", "deployments", "projection_positions"), READ
        )
        | {table: f"SELECT ({column}), DELETE" for table, column in personal_tables().items()}
        | _each(("log_lines", "security_events"), REMOVE),
    ),
    "datasets": Access(
        events=(Dataset,),
        handles_events=True,
        tables=_each(("datasets", "dataset_tokens", "dataset_refusals", "base_models"), READ)
        | {"wanted_counts": REMOVE, "dataset_names": REMOVE, "dataset_progress": KEEP},
    ),
    "serving": Access(events=(Deployment,), handles_events=True),
    "gateway": Access(
        events=(
            *(ApiKey, JobRequest, Payment.PaymentReceived),
            *(AutoTopUp.CardRemoved, AutoTopUp.AutoTopUpDisabled),  # by an erasure
            *(Account.CreditGranted, Account.ToppedUp),
            *(Dataset.DatasetUploaded, Dataset.ToolDefinitionsIgnored, Dataset.DatasetDeleted),
            *(events.JobApproved, events.MaxCostChanged),
            *(Account.BudgetSet, Account.BudgetRemoved),
            *(Account.AccountOpened, Account.AccountSuspended, Account.AccountReinstated),
            Account.AccountErased,
            *(events.PauseRequested, events.CancelRequested, events.JobPaused),
            *(events.JobResumed, events.JobCancelled, events.AdapterPromoted, events.ModelDeleted),
            *(Deployment.DeploymentRequested, Deployment.DeploymentRenewed, Deployment.Undeployed),
            *(Catalog.GpuTypeOffered, Catalog.GpuTypeWithdrawn, Catalog.CapacityDeclared),
            *(Catalog.RegionOffered, Catalog.RegionWithdrawn),
            *(Catalog.BaseModelListed, Catalog.BaseModelDelisted, BaseModel.BaseModelDeleted),
        ),
        reads_snapshots=True,
        leads=False,
        tables=_each(READ_MODELS, READ)
        | _each(MEASUREMENTS, READ)
        | _each(("projection_positions", "segment_evidence", "dataset_progress"), READ)
        | _each(("profiles", "dataset_names", "key_names", "job_metadata", "security_events"), ADD)
        | {"wanted_counts": ADD, "key_uses": KEEP}
        | _each(("web_sessions", "sign_in_links", "job_drafts", "request_keys"), CHANGE)
        | {"verifications": CHANGE}
        | {"parked_events": "SELECT, UPDATE (replay)"}
        | _each(("leaderships", "processes"), READ),
    ),
}
"""Rights of the roles in the core."""

OPERATOR = Access(
    events=(
        *(Account, ApiKey, AutoTopUp, BaseModel, CardPayment, Catalog, Dataset, Deployment),
        *(GpuPool, Job, JobRequest, Meter, Payment, TokenMeter),
    ),
    reads_snapshots=True,
    tables={"profiles": ADD, "projection_shapes": READ, "leaderships": READ, "processes": READ}
    | {"event_formats": ADD, "schema_revisions": READ}
    | {"log_identity": "SELECT, UPDATE (held)"},
)
"""Rights of operator commands, in addition to those of every service."""


def _extended(role: str, access: Access) -> Access:
    """Add the rights of extensions. An erasure can end the work of one that is not selected."""
    for extension in installed():
        tables = extension.rights.get(role, {}) if extension in selected() else {}
        access = access.extended(extension.events.get(role, ()), tables)
    return access


ACCESS = {
    role: _extended(role, access)
    for role, access in (
        CORE | {name: each.access for name, each in processes(selected()).items()}
    ).items()
}
"""Rights by role, with those that selected extensions declare."""

ROLES = (*CORE, *processes(installed()))
"""All roles. One of an extension that is not selected has no rights."""

OPERATOR = _extended("operator", OPERATOR)

FORWARD_ONLY = """
CREATE OR REPLACE FUNCTION ecolink_tracking_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.notification_id < OLD.notification_id THEN
        RAISE EXCEPTION 'the position of % cannot move back from % to %',
            OLD.application_name, OLD.notification_id, NEW.notification_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER forward_only BEFORE UPDATE ON ecolink_tracking
FOR EACH ROW EXECUTE FUNCTION ecolink_tracking_forward()
"""


LEADING = (
    "take_lead(text, text, integer)",
    "require_lead(text, bigint)",
    "confirm_lead(text, text, integer, bigint)",
)
"""Database functions for services in which only one process works at a time."""

SAVING = "append_events(uuid[], bigint[], text[], bytea[], text, bigint, text, bigint, text)"
"""Database function for services that append events or store a position in the log."""

PRESENCE = (
    "process_runs(text, text, text, integer, text, integer, timestamptz)",
    "process_ended(text, text, text, integer)",
)
"""Database functions with which every process records that it runs."""

FUNCTIONS = ", ".join((*LEADING, SAVING, *PRESENCE))
"""All database functions that only some roles may call."""


def role_of(service: str) -> str:
    """Return the name of a service's database role. Without one, return the operator's role."""
    return f"ecolink_{service}" if service in ROLES else OPERATOR_ROLE


def create_roles(connection: psycopg.Connection[Any], passwords: Mapping[str, str]) -> None:
    """Create the roles or update their passwords. Make the operator a member of all other roles."""
    for role, password in passwords.items():
        found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
        _execute(
            connection,
            "{} ROLE {} LOGIN PASSWORD {}",
            sql.SQL("ALTER" if found.fetchone() else "CREATE"),
            sql.Identifier(role),
            sql.Literal(password),
        )
    for service in ROLES:
        _execute(
            connection, "GRANT {} TO {}", *map(sql.Identifier, (role_of(service), OPERATOR_ROLE))
        )


def grant_access(connection: psycopg.Connection[Any]) -> None:
    """Grant exactly the rights in ACCESS to the roles that exist, in one transaction.

    On a server without these roles, every process runs as the owner of the tables. No role gets
    rights to a table that ACCESS lacks. After a return to this version, a newer one may have left
    such tables.
    """
    if unnamed := unnamed_tables(connection):
        logging.getLogger("migrate").warning("no role may use %s", ", ".join(sorted(unnamed)))
    connection.execute(FORWARD_ONLY)
    with connection.pipeline(), connection.transaction():
        roles = _present_roles(connection)
        if roles:
            _let_everyone_read(connection)
            _execute(connection, f"REVOKE EXECUTE ON FUNCTION {FUNCTIONS} FROM PUBLIC")
        for role in roles:
            name = sql.Identifier(role)
            _execute(connection, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}", name)
            _execute(connection, "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {}", name)
            _execute(connection, f"REVOKE EXECUTE ON FUNCTION {FUNCTIONS} FROM {{}}", name)
            _execute(connection, "GRANT USAGE ON SCHEMA public TO {}", name)
            access = OPERATOR if role == OPERATOR_ROLE else ACCESS.get(_service_of(role))
            if access is None:
                continue
            _grant_tables(connection, name, access)
            for table, condition in _own_rows(role, access).items():
                _set_policy(connection, role, table, condition)


def _service_of(role: str) -> str:
    return role.removeprefix("ecolink_")


def known_tables() -> set[str]:
    """Return the names of all tables of EcoLink."""
    declared = (each.name for each in extension_tables())
    granted = (table for each in ACCESS.values() for table in each.tables)
    return {*STORE_TABLES, *OPERATOR.tables, *declared, *granted}


def unnamed_tables(connection: psycopg.Connection[Any]) -> set[str]:
    """Return the tables of the database that ACCESS lacks."""
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in rows.fetchall()} - known_tables()


def _present_roles(connection: psycopg.Connection[Any]) -> list[str]:
    wanted = [*map(role_of, ROLES), OPERATOR_ROLE]
    rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [wanted])
    found = {name for (name,) in rows.fetchall()}
    return [role for role in wanted if role in found]


def _grant_tables(
    connection: psycopg.Connection[Any], role: sql.Identifier, access: Access
) -> None:
    _grant(connection, READ, "ecolink_events", role)
    _grant(connection, READ, "ecolink_tracking", role)
    _grant(connection, READ, "event_formats", role)
    _grant(connection, READ, "schema_revisions", role)
    _grant(connection, READ, "log_identity", role)
    _execute(connection, f"GRANT EXECUTE ON FUNCTION {', '.join(PRESENCE)} TO {{}}", role)
    if access.events:
        # MAINTAIN allows the table lock that keeps the event log in commit order.
        _grant(connection, "INSERT, MAINTAIN", "ecolink_events", role)
        _execute(
            connection, "GRANT USAGE ON SEQUENCE ecolink_events_notification_id_seq TO {}", role
        )
    if access.reads_snapshots:
        _grant(connection, ADD if access.snapshots else READ, "ecolink_snapshots", role)
    if access.handles_events:
        _grant(connection, "INSERT, UPDATE", "ecolink_tracking", role)
        _grant(connection, CHANGE, "parked_events", role)
    if access.events or access.handles_events:
        _execute(connection, f"GRANT EXECUTE ON FUNCTION {SAVING} TO {{}}", role)
    if access.leads:
        _execute(connection, f"GRANT EXECUTE ON FUNCTION {', '.join(LEADING)} TO {{}}", role)
    for table, rights in access.tables.items():
        _grant(connection, rights, table, role)


def _grant(
    connection: psycopg.Connection[Any], rights: str, table: str, role: sql.Identifier
) -> None:
    _execute(connection, "GRANT {} ON {} TO {}", sql.SQL(rights), sql.Identifier(table), role)  # type: ignore[arg-type]


def _let_everyone_read(connection: psycopg.Connection[Any]) -> None:
    """Let every role that can read a table read all of its rows."""
    for table in ROWS_OF_ROLES:
        name = sql.Identifier(table)
        _execute(connection, "ALTER TABLE {} ENABLE ROW LEVEL SECURITY", name)
        _execute(connection, "DROP POLICY IF EXISTS readable ON {}", name)
        _execute(connection, "CREATE POLICY readable ON {} FOR SELECT USING (true)", name)


def _own_rows(role: str, access: Access) -> dict[str, sql.Composable]:
    """Return the conditions on the rows that a role may write, by table."""
    if role == OPERATOR_ROLE:
        return dict.fromkeys(ROWS_OF_ROLES, sql.SQL("true"))
    service = sql.Literal(_service_of(role))
    rows: dict[str, sql.Composable] = {}
    if access.events:
        topics = sql.Literal(sorted(topics_of(*access.events)))
        rows["ecolink_events"] = sql.SQL("topic = ANY({})").format(topics)
    if access.snapshots:
        taken = sql.Literal([get_topic(each.Snapshot) for each in access.snapshots])
        rows["ecolink_snapshots"] = sql.SQL("topic = ANY({})").format(taken)
    if access.handles_events:
        rows["ecolink_tracking"] = sql.SQL("application_name = {}").format(service)
        rows["parked_events"] = sql.SQL("consumer = {}").format(service)
    elif "parked_events" in access.tables:
        rows["parked_events"] = sql.SQL("true")
    return rows


def _set_policy(
    connection: psycopg.Connection[Any], role: str, table: str, condition: sql.Composable
) -> None:
    names = (sql.Identifier(f"rows_of_{role}"), sql.Identifier(table))
    _execute(connection, "DROP POLICY IF EXISTS {} ON {}", *names)
    statement = "CREATE POLICY {} ON {} TO {} USING ({})"
    _execute(connection, statement, *names, sql.Identifier(role), condition)


def _execute(connection: psycopg.Connection[Any], statement: str, *parts: sql.Composable) -> None:
    connection.execute(sql.SQL(statement).format(*parts))  # type: ignore[arg-type]
