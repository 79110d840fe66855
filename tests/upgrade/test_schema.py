"""A migration leaves everything in the schema that processes of the last release use."""

from __future__ import annotations

import psycopg
import pytest

from deploy.processes import PROCESSES
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.projection import is_prepared
from tests.upgrade.conftest import Migrated
from tests.upgrade.next_release import NEW_COLUMN, NEW_TABLE
from tests.upgrade.releases import Release
from tests.upgrade.schema import breaks, schema_of


@pytest.mark.full
def test_this_migration_removes_nothing_that_the_last_release_uses(
    migrated: Migrated, last: Release, this: Release
) -> None:
    migrated.by(last)
    before = schema_of(migrated.url)
    migrated.by(this)
    assert breaks(before, schema_of(migrated.url)) == []


@pytest.mark.full
def test_the_next_release_migrates_and_the_way_back_leaves_its_table(
    migrated: Migrated, this: Release, next_: Release
) -> None:
    migrated.by(this)
    before = schema_of(migrated.url)
    migrated.by(next_)
    after = schema_of(migrated.url)
    assert breaks(before, after) == []
    assert f"accounts.{NEW_COLUMN}" in after.columns
    assert NEW_TABLE in after.tables
    migrated.by(this)
    back = schema_of(migrated.url)
    assert breaks(before, back) == []
    assert f"accounts.{NEW_COLUMN}" not in back.columns
    assert NEW_TABLE in back.tables
    with psycopg.connect(migrated.url) as connection:
        assert all(is_prepared(connection, each) for each in PROJECTIONS)


@pytest.mark.full
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("ALTER TABLE profiles DROP COLUMN name", "the column profiles.name was removed"),
        ("DROP TABLE key_names", "the column key_names.name was removed"),
        ("DROP TABLE accounts", "the column accounts.role was removed"),
        (
            "ALTER TABLE verifications ALTER COLUMN finished_at TYPE timestamp",
            "the column verifications.finished_at changed from timestamp with time zone to "
            "timestamp without time zone",
        ),
        (
            "ALTER TABLE profiles ADD COLUMN note text NOT NULL",
            "the column profiles.note became required",
        ),
        (
            "ALTER TABLE verifications ALTER COLUMN finished_at SET NOT NULL",
            "the column verifications.finished_at became required",
        ),
        (
            "ALTER TABLE log_identity ALTER COLUMN log_id DROP DEFAULT",
            "the column log_identity.log_id lost its default",
        ),
        (
            "ALTER TABLE profiles ADD CONSTRAINT short CHECK (length(name) < 3)",
            "the constraint profiles short was added to a table with rows",
        ),
        (
            "ALTER TABLE leaderships DROP CONSTRAINT leaderships_pkey",
            "the constraint leaderships leaderships_pkey was removed or changed",
        ),
        pytest.param(
            "DROP INDEX alerts_open",
            "the unique index alerts alerts_open was removed or changed",
            marks=pytest.mark.skipif("alerts" not in PROCESSES, reason="has no such index"),
        ),
        (
            "CREATE INDEX late ON log_lines (job_id)",
            "the index log_lines late was added to a table with rows",
        ),
        (
            "CREATE TRIGGER forward BEFORE INSERT ON profiles FOR EACH ROW "
            "EXECUTE FUNCTION ecolink_tracking_forward()",
            "the trigger profiles forward was added to a table with rows",
        ),
        (
            "DROP FUNCTION require_lead(text, bigint)",
            "the function require_lead(text,bigint) was removed or changed",
        ),
        (
            "REVOKE SELECT ON accounts FROM ecolink_billing",
            "the right ecolink_billing SELECT accounts was revoked",
        ),
        (
            "ALTER POLICY rows_of_ecolink_datasets ON ecolink_events "
            "USING (topic = ANY (ARRAY['DatasetUploaded'::text]))",
            "the policy ecolink_events rows_of_ecolink_datasets no longer allows "
            "DatasetAnalyzed, DatasetDeleted, DatasetRejected, DatasetValidated, TokensCounted, "
            "TokensUncountable, ToolDefinitionsIgnored",
        ),
    ],
)
def test_each_break_is_found(settings: Settings, statement: str, problem: str) -> None:
    assert settings.owner_database_url is not None
    before = schema_of(settings.owner_database_url)
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute(statement.encode())
    found = breaks(before, schema_of(settings.owner_database_url))
    assert problem in found


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (id integer PRIMARY KEY)",
        "ALTER TABLE profiles ADD COLUMN note text",
        "ALTER TABLE profiles ADD COLUMN note text NOT NULL DEFAULT ''",
        "ALTER TABLE accounts ADD COLUMN note text NOT NULL",
        "CREATE INDEX late ON accounts (role)",
        "GRANT SELECT ON accounts TO ecolink_datasets",
        "CREATE OR REPLACE FUNCTION require_lead(leader text, in_epoch bigint, more text) "
        "RETURNS void LANGUAGE sql AS 'SELECT'",
    ],
)
def test_additions_break_nothing(settings: Settings, statement: str) -> None:
    assert settings.owner_database_url is not None
    before = schema_of(settings.owner_database_url)
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute(statement.encode())
    assert breaks(before, schema_of(settings.owner_database_url)) == []
