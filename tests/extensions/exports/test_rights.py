"""The roles of exports have the rights that they need, and no others."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from deploy.database_roles import role_of
from extensions.exports import tables
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.deploy.test_database_roles import PASSWORD, known_passwords, writers_of  # noqa: F401


def test_the_gateway_stores_tokens_of_a_hub_and_only_the_exporter_reads_them(
    settings: Settings,
) -> None:
    now, account_id, pushes = datetime.now(UTC), uuid4(), [uuid4(), uuid4()]
    target = tables.Target("acme/bot", private=True, provenance=True, token="hf_1")
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("gateway"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        for push in pushes:
            tables.add_target(connection, push, account_id, target, now)
        assert set(tables.shown_targets(connection, pushes)) == set(pushes)
        tables.delete_target(connection, pushes[1])
        for query in ("SELECT * FROM hub_tokens", "DELETE FROM hub_tokens"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query.encode())
    own = make_conninfo(settings.owner_database_url, user=role_of("exporter"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": own})) as connection:
        assert tables.target_of(connection, pushes[0]) == target
        assert set(tables.stored_tokens(connection)) == {pushes[0]}
        tables.set_pushed_bytes(connection, pushes[0], 1)
        tables.set_outcome(connection, pushes[0], "https://hub.example.com/1")
        tables.delete_token(connection, pushes[0])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE hub_targets SET repository = 'acme/other'")
    with connect(settings) as connection:
        connection.execute("DELETE FROM hub_targets WHERE account_id = %s", [account_id])


@pytest.mark.parametrize(
    ("topic", "writers"),
    [
        ("ExportRequested", {"gateway"}),
        ("ExportCompleted", {"exporter"}),
        ("ExportDeleted", {"gateway", "exporter"}),
    ],
)
def test_each_service_appends_only_its_own_events(
    settings: Settings, topic: str, writers: set[str]
) -> None:
    assert writers_of(settings, topic) == writers
