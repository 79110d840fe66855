"""The check of restarts finds a role that keeps failing."""

from __future__ import annotations

from datetime import UTC, datetime

from extensions.alerts.checks.processes import Restarts
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.parameters import RestartParameters
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.deploy.roles import FAILING_LEADER, STEADY_LEADER
from tests.deploy.test_group import group
from tests.polling import eventually


def restarting(settings: Settings, check: Restarts) -> list[str]:
    with connect(settings) as connection:
        artifacts = Artifacts(settings.artifacts)
        around = Surroundings(settings, connection, artifacts, datetime.now(UTC))
        found = check.restarting(around, RestartParameters())
    return [each.labels["process"] for each in found]


def test_a_role_that_keeps_failing_is_reported(settings: Settings) -> None:
    check = Restarts()
    assert restarting(settings, check) == []
    with group(settings, relay=FAILING_LEADER, projector=STEADY_LEADER):
        eventually(lambda: restarting(settings, check) == ["relay"])
