"""An operator's browser on a gateway with a registered model."""

from __future__ import annotations

import psycopg
import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from infrastructure.settings import Settings
from tests.builders.entries import Entries, entries_of
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import Browser, signed_in
from tests.simulation.story import Story, told


@pytest.fixture
def story(unseeded: None, platform: Platform) -> Story:
    """A job that was paused at zero, resumed and registered."""
    del unseeded  # only empties the log
    return told(platform.log)


@pytest.fixture
def auditor(story: Story, client: TestClient, platform: Platform) -> Browser:
    """The browser of an operator."""
    del story  # comes first: a gateway stops if its log is emptied
    return signed_in(client, platform.person(Role.OPERATOR))


@pytest.fixture
def entries(story: Story, auditor: Browser) -> Entries:
    """All events, in log order."""
    del auditor  # its account adds events
    return Entries(entries_of(story.platform.log))


def tamper(settings: Settings, statement: str, *values: object) -> None:
    """Change one row as the database's owner."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        assert owner.execute(statement.encode(), values).rowcount == 1
