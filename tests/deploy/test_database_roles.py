"""Each service's database role has the rights that the service needs, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from deploy.database_roles import (
    ACCESS,
    OPERATOR,
    OPERATOR_ROLE,
    READ_MODELS,
    grant_access,
    role_of,
    topics_of,
    unnamed_tables,
)
from deploy.local.home import Home
from deploy.local.plan import make_plan
from deploy.migrate import migrate
from deploy.processes import PROCESSES, variables_of
from domain.audit.tree_head import LogKey
from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.jobs.job import Job
from infrastructure.accounts.personal_data import delete_personal_data
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.leads import leads
from infrastructure.postgres.store import connect, database_time, open_log, open_pool
from infrastructure.seals.verifications import Options
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evidence
from projections.job_detail import unfinished_from
from services.auditor.verifying import Request, run
from services.billing.ticker import Ticker
from services.projector.platform_metrics import PlatformMetrics
from tests.builders.commands import FixedClock
from tests.builders.examples import POLICY
from tests.builders.history import History
from tests.projecting import project

PASSWORD = uuid4().hex
EVENT = (
    "INSERT INTO ecolink_events (originator_id, originator_version, topic, state) "
    "VALUES (gen_random_uuid(), 1, %s, '{}')"
)
SNAPSHOT = "INSERT INTO ecolink_snapshots VALUES (gen_random_uuid(), 1, %s, '{}')"
TRACKING = "INSERT INTO ecolink_tracking VALUES (%s, %s)"
PARKED = (
    "INSERT INTO parked_events (consumer, notification_id, originator_id, topic, error) "
    "VALUES (%s, 1, gen_random_uuid(), 'JobApproved', 'x')"
)
HANDLING = [name for name, access in ACCESS.items() if access.handles_events]


@pytest.fixture(scope="session", autouse=True)
def known_passwords(servers: Settings) -> None:
    """Give each service's role a password that the tests know."""
    assert servers.owner_database_url is not None
    with psycopg.connect(servers.owner_database_url, autocommit=True) as owner:
        for service in ACCESS:
            owner.execute(f"ALTER ROLE {role_of(service)} PASSWORD '{PASSWORD}'".encode())


@contextmanager
def logged_in(settings: Settings, service: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection with a service's role."""
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of(service), password=PASSWORD)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def refused(connection: psycopg.Connection[Any], statement: str, *values: object) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode(), values)


FORBIDDEN = (
    *(f"{verb} ecolink_events" for verb in ("TRUNCATE", "DELETE FROM", "DROP TABLE")),
    "UPDATE ecolink_events SET state = state",
    "ALTER TABLE ecolink_events DISABLE ROW LEVEL SECURITY",
    "SELECT setval('ecolink_events_notification_id_seq', 1)",
    *("UPDATE ecolink_snapshots SET state = state", "DELETE FROM ecolink_snapshots"),
    *("DELETE FROM ecolink_tracking", "TRUNCATE ecolink_tracking"),
    *("TRUNCATE billing_ledger", "TRUNCATE segment_evidence", "DELETE FROM segment_evidence"),
    *("CREATE TABLE intrusion (id int)", "CREATE ROLE intruder SUPERUSER"),
    "SET ROLE ecolink",
)


@pytest.mark.parametrize("service", ACCESS)
def test_no_service_can_change_events(settings: Settings, service: str) -> None:
    with logged_in(settings, service) as connection:
        assert connection.execute("SELECT count(*) FROM ecolink_events").fetchone() is not None
        for statement in FORBIDDEN:
            refused(connection, statement)


@pytest.mark.parametrize("service", [name for name in ACCESS if name != "projector"])
def test_only_the_projector_writes_read_models(settings: Settings, service: str) -> None:
    with logged_in(settings, service) as connection:
        for table in (*READ_MODELS, "projection_positions"):
            for verb in ("DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES"):
                refused(connection, verb.format(table))
    with logged_in(settings, "projector") as connection:
        for table in READ_MODELS:
            connection.execute(f"DELETE FROM {table}".encode())


def test_the_scheduler_reads_which_jobs_continue_a_model(settings: Settings) -> None:
    with logged_in(settings, "scheduler") as connection:
        connection.row_factory = dict_row
        assert unfinished_from(connection, uuid4(), uuid4()) == []


def test_only_billing_writes_evidence(settings: Settings) -> None:
    evidence = "INSERT INTO segment_evidence VALUES (gen_random_uuid(), 1, 9e9)"
    for service in ACCESS:
        with logged_in(settings, service) as connection:
            if service == "billing":
                connection.execute(evidence.encode())
            else:
                refused(connection, evidence)


@pytest.mark.parametrize(
    ("topic", "writer"),
    [
        ("AccountSnapshot", "billing"),
        ("MeterSnapshot", "billing"),
        ("GpuPoolSnapshot", "scheduler"),
    ],
)
def test_only_the_writer_of_an_aggregate_adds_its_snapshots(
    settings: Settings, topic: str, writer: str
) -> None:
    for service in ACCESS:
        with logged_in(settings, service) as connection:
            if service == writer:
                connection.execute(SNAPSHOT.encode(), [topic])
            else:
                refused(connection, SNAPSHOT, topic)


@pytest.mark.parametrize(
    ("topic", "writers"),
    [
        ("CreditGranted", {"gateway"}),
        ("ChargeReversed", {"billing"}),
        ("UsageSettled", {"billing"}),
        ("MinuteMetered", {"billing"}),
        ("LeaseGranted", {"billing"}),
        ("GpusAllocated", {"scheduler"}),
        ("SegmentEnded", {"scheduler"}),
        ("JobApproved", {"scheduler", "gateway"}),
        ("JobRequested", {"gateway"}),
        ("DatasetValidated", {"datasets"}),
        ("DeploymentActivated", {"serving"}),
        ("AccountOpened", {"gateway"}),
        ("AccountSuspended", {"gateway"}),
        ("AccountErased", {"gateway"}),
        ("GpuTypeOffered", {"gateway"}),
        ("CatalogOpened", set[str]()),
        ("BaseModelDeleted", {"gateway"}),
        ("BaseModelImported", set[str]()),
    ],
)
def test_each_service_appends_only_its_own_events(
    settings: Settings, topic: str, writers: set[str]
) -> None:
    assert writers_of(settings, topic) == writers


def writers_of(settings: Settings, topic: str) -> set[str]:
    """Return the services that may append events of a topic."""
    found: set[str] = set()
    for service in ACCESS:
        with logged_in(settings, service) as connection:
            try:
                connection.execute(EVENT.encode(), [topic])
                found.add(service)
            except psycopg.errors.InsufficientPrivilege:
                pass
    return found


@pytest.mark.parametrize("service", HANDLING)
def test_a_service_moves_only_its_own_position_and_only_forward(
    settings: Settings, service: str
) -> None:
    other = next(each for each in HANDLING if each != service)
    with logged_in(settings, other) as connection:
        connection.execute(TRACKING.encode(), [other, 5])
        connection.execute(PARKED.encode(), [other])
    with logged_in(settings, service) as connection:
        connection.execute(TRACKING.encode(), [service, 7])
        refused(connection, TRACKING, "another", 1)
        refused(connection, PARKED, other)
        moved = connection.execute(
            "UPDATE ecolink_tracking SET notification_id = 9 WHERE application_name = %s", [other]
        )
        assert moved.rowcount == 0
        freed = connection.execute("DELETE FROM parked_events WHERE consumer = %s", [other])
        assert freed.rowcount == 0
        refused(connection, "UPDATE ecolink_tracking SET application_name = 'another'")
        connection.execute("UPDATE ecolink_tracking SET notification_id = 8")
        with pytest.raises(psycopg.errors.CheckViolation, match="cannot move back from 8 to 1"):
            connection.execute("UPDATE ecolink_tracking SET notification_id = 1")
        rows = connection.execute("SELECT * FROM ecolink_tracking ORDER BY 2").fetchall()
        assert [row for row in rows if row[0] in ACCESS] == [(other, 5), (service, 8)]


def test_the_gateway_may_only_request_a_replay(settings: Settings) -> None:
    with logged_in(settings, "billing") as connection:
        connection.execute(PARKED.encode(), ["billing"])
    with logged_in(settings, "gateway") as connection:
        assert connection.execute("UPDATE parked_events SET replay = true").rowcount == 1
        refused(connection, "UPDATE parked_events SET consumer = 'scheduler'")
        refused(connection, "DELETE FROM parked_events")
        refused(connection, PARKED, "billing")


def test_the_gateway_may_verify_the_log(settings: Settings, history: History) -> None:
    history.run_with_a_crash()
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("gateway"), password=PASSWORD)
    own = settings.model_copy(update={"database_url": url, "owner_database_url": None})
    key = LogKey("ecolink/test", Ed25519PrivateKey.generate().public_key())
    options = Options(artifacts=True, public_key=str(key))
    request = Request(settings=own, id=uuid4(), requested_by=uuid4(), options=options)
    run(request, lambda _: None)
    with logged_in(settings, "gateway") as connection:
        found = connection.execute("SELECT report FROM verifications").fetchone()
        assert found is not None
        assert found[0]["events"] == found[0]["seals"]["unsealed"] > 0
        assert all(each["equal"] for each in found[0]["tables"])


def test_the_projector_may_read_every_metric_of_the_platform(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("projector"), password=PASSWORD)
    metrics = PlatformMetrics(settings.model_copy(update={"database_url": url}))
    assert "ecolink_parked_events" in {each.name for each in metrics.collect()}
    assert caplog.records == []
    with logged_in(settings, "projector") as connection:
        refused(connection, "UPDATE parked_events SET replay = true")


def test_the_gateway_reads_leaders(settings: Settings) -> None:
    with logged_in(settings, "gateway") as connection:
        connection.row_factory = dict_row
        assert leads(connection) == []
        refused(connection, "UPDATE leaderships SET epoch = 0")


def test_services_that_append_may_lock_the_log(settings: Settings) -> None:
    for service, access in ACCESS.items():
        with logged_in(settings, service) as connection, connection.transaction():
            if access.events:
                connection.execute("LOCK TABLE ecolink_events IN EXCLUSIVE MODE")
            else:
                refused(connection, "LOCK TABLE ecolink_events IN EXCLUSIVE MODE")


SAVE_NOTHING = "SELECT append_events('{}', '{}', '{}', '{}', NULL, NULL, NULL, NULL, NULL)"


def test_only_services_that_append_or_store_a_position_may_save(settings: Settings) -> None:
    for service, access in ACCESS.items():
        with logged_in(settings, service) as connection:
            if access.events or access.handles_events:
                connection.execute(SAVE_NOTHING.encode())
            else:
                refused(connection, SAVE_NOTHING)


LEADERS = [name for name, access in ACCESS.items() if access.leads]
TAKE_LEAD, REQUIRE_LEAD = "SELECT take_lead(%s, 'host', 1)", "SELECT require_lead(%s, %s)"


def take_lead(connection: psycopg.Connection, name: str) -> int:
    row = connection.execute(TAKE_LEAD.encode(), [name]).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("service", LEADERS)
def test_a_service_leads_only_under_its_own_name(settings: Settings, service: str) -> None:
    with logged_in(settings, service) as connection:
        epoch = take_lead(connection, service)
        connection.execute(REQUIRE_LEAD.encode(), [service, epoch])
        for other in {*ACCESS, "another"} - {service}:
            with pytest.raises(
                psycopg.errors.InsufficientPrivilege,
                match=f"role {role_of(service)} may not act for the service {other}",
            ):
                connection.execute(TAKE_LEAD.encode(), [other])
            refused(connection, REQUIRE_LEAD, other, 1)  # otherwise it locks that leader's row
        connection.execute(REQUIRE_LEAD.encode(), [service, epoch])


def test_the_owner_and_the_operator_may_lead_under_any_name(settings: Settings) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        for name in (*LEADERS, "another"):
            assert take_lead(owner, name) == 1
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url, autocommit=True) as operator:
        assert operator.info.user == OPERATOR_ROLE
        for name in (*LEADERS, "another"):
            operator.execute(REQUIRE_LEAD.encode(), [name, take_lead(operator, name)])


def test_a_temporary_table_cannot_replace_the_leaderships(settings: Settings) -> None:
    """Its trigger would run with the rights of the functions' owner."""
    with logged_in(settings, "serving") as connection:
        connection.execute(
            "CREATE TEMP TABLE leaderships (name text PRIMARY KEY, epoch bigint, host text, "
            "pid integer, since timestamptz)"
        )
        epoch = take_lead(connection, "serving")
        connection.execute(REQUIRE_LEAD.encode(), ["serving", epoch])
        assert connection.execute("SELECT count(*) FROM pg_temp.leaderships").fetchone() == (0,)


def test_the_gateway_cannot_lead(settings: Settings) -> None:
    with logged_in(settings, "gateway") as connection:
        refused(connection, "SELECT take_lead('billing', 'host', 1)")


def test_a_migration_revokes_extra_rights(settings: Settings) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute("GRANT ALL ON ecolink_events, billing_ledger TO ecolink_relay")
        owner.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO ecolink_relay")
    migrate(settings)
    with logged_in(settings, "relay") as connection:
        refused(connection, "TRUNCATE ecolink_events")
        refused(connection, "SELECT * FROM billing_ledger")
        refused(connection, SAVE_NOTHING)


def test_every_table_is_named_and_one_of_a_newer_version_is_left_alone(settings: Settings) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        assert unnamed_tables(owner) == set(), "add rights to deploy/database_roles.py"
        owner.execute("CREATE TABLE newer (id int)")
        grant_access(owner)
        assert unnamed_tables(owner) == {"newer"}
    with logged_in(settings, "gateway") as connection:
        refused(connection, "SELECT * FROM newer")


def test_a_process_records_only_its_own_service(settings: Settings) -> None:
    ended = "SELECT process_ended('{}', 'host', 'machine', 1)"
    with logged_in(settings, "gateway") as connection:
        connection.execute(ended.format("gateway").encode())
        refused(connection, ended.format("billing"))
        refused(connection, "UPDATE processes SET format = 9")
        refused(connection, "INSERT INTO event_formats VALUES (9, '9', 'gateway')")


def test_every_event_has_a_service_that_may_append_it() -> None:
    known = topics_of(*OPERATOR.events)
    for access in ACCESS.values():
        assert topics_of(*access.events) <= known
    assert topics_of(Account.ToppedUp) == {"ToppedUp"}
    assert {"JobApproved", "SegmentEnded", "CheckpointSaved"} <= topics_of(Job)
    assert "LeaseExtended" in topics_of(Meter)


def test_each_service_has_a_database_role_and_no_secret_of_others(tmp_path: Path) -> None:
    plan = make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES)
    seen: dict[str, str] = {}
    for name, variables in (
        (role, variables_of(role, each.environment))
        for each in plan.services
        for role in each.roles
    ):
        url = variables["ECOLINK_DATABASE_URL"]
        assert f"//{role_of(name)}:" in url
        seen[name] = url
        assert "ECOLINK_OWNER_DATABASE_URL" not in variables
        reads = ACCESS[name].reads_snapshots
        assert ("ECOLINK_SNAPSHOT_SECRET" in variables) is reads
    assert set(seen) == set(ACCESS)
    assert len(set(seen.values())) == len(seen)
    assert f"//{OPERATOR_ROLE}:" in str(plan.settings.database_url)


def test_an_external_server_may_have_a_single_role(tmp_path: Path) -> None:
    own = Settings(home=tmp_path, database_url="postgresql://me:secret@db.example/ecolink")
    plan = make_plan(Home(tmp_path), own, PROCESSES)
    assert {each.environment["ECOLINK_DATABASE_URL"] for each in plan.services} == {
        "postgresql://me:secret@db.example/ecolink"
    }


def test_billing_ticks_with_its_role(settings: Settings, history: History) -> None:
    history.run_until("leased")
    with connect(settings) as operator:
        history.start_pod(1, bound_at=database_time(operator) - timedelta(hours=1))
        project(history.log, operator)
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("billing"), password=PASSWORD)
    own = settings.model_copy(update={"database_url": url, "snapshot_secret": "secret"})
    with open_log(own) as log, open_pool(own, max_size=2) as pool:
        ticker = Ticker(log, FixedClock(), pool, POLICY)
        with pool.connection() as connection:
            add_evidence(connection, history.job_id, 1, 61)
        assert ticker.tick() == 1
        history.top_up(1, "after the first tick")
        with pool.connection() as connection:
            add_evidence(connection, history.job_id, 1, 121)
        assert ticker.tick() == 1
    assert history.meter(1).minutes == 2


def test_the_scheduler_erases_personal_data_that_it_cannot_read(settings: Settings) -> None:
    account_id = uuid4()
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute("INSERT INTO profiles VALUES (%s, 'ada')", [account_id])
        with logged_in(settings, "scheduler") as connection:
            refused(connection, "SELECT name FROM profiles")
            connection.row_factory = dict_row
            artifacts = Artifacts(settings.artifacts)
            deleted = delete_personal_data(connection, artifacts, account_id)  # type: ignore[arg-type]
        assert deleted == (1, 0)
