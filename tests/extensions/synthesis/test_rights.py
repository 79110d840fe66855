"""The roles of syntheses have the rights that they need, and no others."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from deploy.database_roles import role_of
from extensions.synthesis import endpoint_rows
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.deploy.test_database_roles import PASSWORD, known_passwords  # noqa: F401


def test_the_gateway_replaces_keys_of_endpoints_and_only_the_synthesis_process_reads_them(
    settings: Settings,
) -> None:
    now, account_id = datetime.now(UTC), uuid4()
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("gateway"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        made = endpoint_rows.add_endpoint(
            connection, account_id, "provider", "https://a.example/v1", "sk-1", now
        )
        assert endpoint_rows.replace_key(connection, account_id, made.id, "sk-2")
        assert endpoint_rows.endpoints_of(connection, account_id) == [made]
        for query in (
            "SELECT key FROM synthesis_endpoint_keys",
            "SELECT * FROM synthesis_endpoint_keys",
            "UPDATE synthesis_endpoint_keys SET endpoint_id = gen_random_uuid()",
            "UPDATE synthesis_endpoints SET url = 'https://b.example/v1'",  # would send it the key
            "UPDATE synthesis_endpoints SET id = gen_random_uuid()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query.encode())
    own = make_conninfo(settings.owner_database_url, user=role_of("synthesis"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": own})) as connection:
        access = endpoint_rows.access_of(connection, account_id, made.id)
        assert access == endpoint_rows.EndpointAccess("https://a.example/v1", "sk-2")
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        assert endpoint_rows.delete_endpoint(connection, account_id, made.id)
