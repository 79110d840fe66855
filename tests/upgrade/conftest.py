"""The trees of three releases: the last one, this working tree and the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.processes import environment
from infrastructure.settings import Settings
from tests.conftest import empty_database
from tests.upgrade import releases
from tests.upgrade.next_release import next_release
from tests.upgrade.releases import Release


@pytest.fixture(scope="session")
def last(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The last release."""
    return releases.last_release(tmp_path_factory.mktemp("last") / "tree")


@pytest.fixture(scope="session")
def this(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The working tree."""
    return releases.working_copy(tmp_path_factory.mktemp("this") / "tree")


@pytest.fixture(scope="session")
def next_(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The next release."""
    return next_release(tmp_path_factory.mktemp("next") / "tree")


class Migrated:
    """A database, and the migrations of releases."""

    def __init__(self, settings: Settings) -> None:
        assert settings.owner_database_url is not None
        self.settings, self.url = settings, settings.owner_database_url

    def by(self, release: Release) -> None:
        """Run the migration of a release, as an installation does."""
        release.run("deploy.migrate", variables=environment(self.settings))


@pytest.fixture
def migrated(servers: Settings, tmp_path: Path) -> Iterator[Migrated]:
    """An empty database."""
    with empty_database(servers, tmp_path) as settings:
        yield Migrated(settings)
