"""The connections of an idle installation to PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import stack
from infrastructure.postgres.store import connect_to, scalar
from infrastructure.settings import Settings
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS

MOST_CONNECTIONS = 30

CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@pytest.mark.full
def test_an_idle_installation_needs_few_connections(home: Path) -> None:
    with stack.up(Settings(home=home)) as running:
        owner = running.settings.owner_database_url
        assert owner is not None
        with connect_to(owner) as connection:
            eventually(lambda: scalar(connection, CONNECTIONS) <= MOST_CONNECTIONS, TIMEOUT_SECONDS)
