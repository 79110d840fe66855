"""An operator's browser on a gateway with a registered model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.audit.tree_head import LogKey
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.builders.entries import Entries, entries_of
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import Browser, signed_in
from tests.simulation.story import Story, told

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = LogKey("ecolink/test", KEY.public_key())

Seal = Callable[[], str]


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


@pytest.fixture
def seal(settings: Settings) -> Seal:
    """Seal the whole log, and return the newest head as a signed note."""

    def do() -> str:
        archive = SealArchive(Artifacts(settings.artifacts))
        sealer = Sealer(archive, PUBLIC.origin, KEY, lambda: datetime.now(UTC))
        archive.put_public_key(sealer.log_key)
        with connect(settings) as store:
            sealer.resume(store)
            while sealer.step(store):
                pass
            sealer.export()
        note = archive.last_note(PUBLIC)
        assert note is not None
        return note

    return do


def tamper(settings: Settings, statement: str, *values: object) -> None:
    """Change one row as the database's owner."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        assert owner.execute(statement.encode(), values).rowcount == 1
