"""The trees of three releases: the last one, this working tree and the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.processes import environment
from infrastructure.settings import Settings
from tests.conftest import empty_database
from tests.upgrade import releases
from tests.upgrade.next_release import next_release
from tests.upgrade.releases import NoHistory, Release


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the trees."""
    return tmp_path_factory.mktemp("trees")


@pytest.fixture(scope="session")
def last(trees: Path) -> Release:
    """The last release."""
    return _of_history(lambda: releases.last_release(trees / "last"))


@pytest.fixture(scope="session")
def this(trees: Path) -> Release:
    """The working tree."""
    return _of_history(lambda: releases.working_copy(trees / "this"))


@pytest.fixture(scope="session")
def next_(trees: Path) -> Release:
    """The next release."""
    return _of_history(lambda: next_release(trees / "next"))


def _of_history(tree: Callable[[], Release]) -> Release:
    """Return a tree. Skip the test in a source archive or a shallow clone."""
    try:
        return tree()
    except NoHistory as lacking:
        pytest.skip(str(lacking))


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
