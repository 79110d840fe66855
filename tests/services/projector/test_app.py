"""The projector process on an empty event stream."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from psycopg_pool import ConnectionPool

from deploy.migrate import create_streams
from deploy.processes import environment
from domain.core.event_log import EventLog
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.projection import lowest_position
from tests.logs import grow, ids
from tests.polling import eventually

pytestmark = pytest.mark.full


def test_missing_rows_are_folded_without_a_new_event(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection]
) -> None:
    """As after a migration that dropped tables, whose messages were acknowledged before."""
    grow(log, 3)

    def behind() -> bool:
        with pool.connection() as connection:
            return lowest_position(connection, PROJECTIONS) < ids(log)[-1]

    assert behind()
    create_streams(settings)
    command = [sys.executable, "-P", "-m", "deploy.run", "projector"]
    process = subprocess.Popen(command, env=os.environ | environment(settings))
    try:
        eventually(lambda: not behind())
    finally:
        process.terminate()
        process.wait()
