"""A rolling upgrade, the way back and the end of the upgrade, while clients work.

Each service is replaced by one of the other release while jobs train, meters run, and clients chat
and read pages. The oracle of the fault harness judges what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.chaos import oracle
from tests.upgrade.installation import (
    SERVICES,
    Clients,
    Installation,
    template_of,
)
from tests.upgrade.next_release import CHANGED_EVENT, NEW_COLUMN, NEW_EVENT, NEW_FIELD
from tests.upgrade.releases import Release


def forth(services: Sequence[str]) -> tuple[str, ...]:
    """Return the order of the replacements: the gateway comes last, and meets new services."""
    ends = ("projector", "gateway")
    return (ends[0], *(name for name in services if name not in ends), ends[1])


def back(services: Sequence[str]) -> tuple[str, ...]:
    """Return the order of the way back: old gateways and schedulers meet new services."""
    first = ("gateway", "scheduler")
    return (*first, *(name for name in services if name not in first))


NEWER = f"topic = '{NEW_EVENT}' OR (topic = '{CHANGED_EVENT}' AND state ? 'class_version')"
"""Events that only the next release reads."""


class Upgrade:
    """The steps of an upgrade from one release to another."""

    def __init__(self, installation: Installation, old: Release, new: Release) -> None:
        self.installation, self.old, self.new = installation, old, new
        self.met = 0
        """Trainers that reported to a scheduler of the other release."""

    def roll(self, services: tuple[str, ...], release: Release, clients: Clients) -> None:
        """Replace each service, and wait until jobs have made progress."""
        other = self.old if release is self.new else self.new
        self.installation.start_beside(services, release)
        for service in services:
            if service == "scheduler":
                self.installation.wait(lambda: self.installation.trainers(other) > 0)
            self.installation.replace(service, release)
            if service == "scheduler":
                self.met += self.installation.trainers(other)
            clients.await_progress()

    def finish(self) -> tuple[int, str]:
        """Finish the upgrade. Return the exit status, and the output."""
        ended = self.installation.command(self.new, "upgrade", "finish")
        return ended.returncode, ended.stdout + ended.stderr

    def set_budget(self, dollars: str) -> httpx.Response:
        """Set a budget, which causes the new event, through the current gateway."""
        return httpx.post(
            f"{self.installation.gate.url}/api/account/budgets",
            json={"period": "month", "limit": dollars},
            headers={"authorization": f"Bearer {self.installation.customers[1].key}"},
            timeout=60,
        )


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rolling")
    directory.chmod(0o755)
    return directory


def report(installation: Installation, clients: Clients, met: int, violations: list[str]) -> str:
    """Return the figures of a run."""
    lines = [f"{'service':<10}{'to':<6}{'lead s':>8}{'work s':>8}"]
    lines += map(str, installation.replaced)
    lines.append(
        f"{len(clients.watcher.jobs)} jobs, {clients.watcher.position} events, {met} trainers "
        f"under a scheduler of the other release, {clients.browser.read} pages, "
        f"{len(clients.browser.failures)} failed, {clients.chats.line()}, "
        f"{len(violations)} violations"
    )
    return "\n".join(lines)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_next_release_replaces_this_one_goes_back_and_comes_again(
    directory: Path, this: Release, next_: Release
) -> None:
    installation = Installation(template_of(this, directory / "template"), directory / "run")
    upgrade = Upgrade(installation, this, next_)
    with installation.up(this):
        clients = Clients(installation, "upgrade")
        with clients.busy():
            installation.wait(lambda: clients.trained > 1)
            installation.migrate(next_)
            upgrade.roll(forth(SERVICES)[:5], next_, clients)
            status, text = upgrade.finish()
            assert status != 0
            assert "gateway" in text, text  # an old one still runs
            upgrade.roll(forth(SERVICES)[5:], next_, clients)
            refused = upgrade.set_budget("90000.00")
            assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert refused.json()["error"]["code"] == "upgrade_unfinished"
            assert "retry-after" in refused.headers

            upgrade.roll(back(SERVICES), this, clients)
            assert upgrade.set_budget("80000.00").is_success
            installation.migrate(this)
            assert installation.events(NEWER) == []

            installation.migrate(next_)
            upgrade.roll(back(SERVICES), next_, clients)
            assert installation.events(NEWER) == []
            status, text = upgrade.finish()
            assert status == 0, text
            installation.wait(lambda: upgrade.set_budget("90000.00").is_success)
            installation.wait(lambda: installation.events(NEWER)[1:])
        found = installation.records("")
        violations = [*oracle.violations(found), *clients.chats.violations()]
        print(report(installation, clients, upgrade.met, violations))
        audit = installation.command(next_, "audit", "verify")
        assert audit.returncode == 0, audit.stdout + audit.stderr
        with installation.connected() as connection:
            rows = connection.execute(f"SELECT {NEW_COLUMN} FROM accounts".encode()).fetchall()
        assert all(row[NEW_COLUMN] > 0 for row in rows)
        stored = installation.events(f"topic = '{CHANGED_EVENT}' AND state ? '{NEW_FIELD}'")
        assert {each["state"]["class_version"] for each in stored} == {2}
    assert violations == []
    assert clients.browser.failures == []
    assert upgrade.met > 0


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_this_tree_replaces_the_last_release_and_goes_back(
    directory: Path, last: Release, this: Release
) -> None:
    template = template_of(last, directory / "template")
    installation = Installation(template, directory / "run")
    upgrade = Upgrade(installation, last, this)
    with installation.up(last):
        clients = Clients(installation, "release")
        with clients.busy():
            installation.wait(lambda: clients.trained > 1)
            installation.migrate(this)
            upgrade.roll(forth(SERVICES), this, clients)
            upgrade.roll(back(SERVICES), last, clients)
            installation.migrate(last)
            installation.migrate(this)
            upgrade.roll(back(SERVICES), this, clients)
            status, text = upgrade.finish()
            assert status == 0, text
        violations = [*oracle.violations(installation.records("")), *clients.chats.violations()]
        print(report(installation, clients, upgrade.met, violations))
        audit = installation.command(this, "audit", "verify")
        assert audit.returncode == 0, audit.stdout + audit.stderr
    assert violations == []
    assert clients.browser.failures == []
    assert upgrade.met > 0
