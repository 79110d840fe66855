"""The commands of docs/upgrades.md for processes that an earlier release does not have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.artifact_access import ARTIFACT_ACCESS
from deploy.bus_access import BUS_ACCESS
from deploy.database_roles import OPERATOR_ROLE, role_of
from deploy.docker.secrets import OPERATOR
from deploy.processes import PROCESSES
from tests.deploy.docker.test_compose import BACKUP, secrets_of

PAGE = (Path(__file__).parents[3] / "docs" / "upgrades.md").read_text().replace("\\\n", " ")

RELEASED = {
    *("relay", "sealer", "projector", "billing", "scheduler", "datasets", "webhooks"),
    *("serving", "alerts", "gateway"),
}
"""Processes of release 0.1.0."""

NEW = [name for name in PROCESSES if name not in RELEASED]


def created_secret(name: str) -> dict[str, str]:
    """Return the files with which the page creates a Secret, by their names in it."""
    (command,) = re.findall(rf"create secret generic ecolink-{name} (.*)", PAGE)
    return dict(re.findall(r"--from-file=(\S+)=secrets/(\S+)", command))


@pytest.mark.parametrize("name", [*NEW, OPERATOR, BACKUP, "migrate"])
def test_the_page_creates_each_new_secret_and_replaces_that_of_the_migration(name: str) -> None:
    assert created_secret(name) == secrets_of(name)


@pytest.mark.parametrize("name", NEW)
def test_the_page_creates_each_new_database_role(name: str) -> None:
    assert f"CREATE ROLE {role_of(name)} LOGIN PASSWORD" in PAGE
    (granted,) = re.findall(rf"GRANT (.*) TO {OPERATOR_ROLE};", PAGE)
    assert role_of(name) in granted.split(", ")


@pytest.mark.parametrize("name", NEW)
def test_the_page_lists_the_access_of_each_new_process(name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    _, _, role, user, keys, _, _ = (cell.strip() for cell in row.split("|"))
    assert role == f"`{role_of(name)}`"
    assert user == (f"`{name}`" if name in BUS_ACCESS else "–")
    access = ARTIFACT_ACCESS.get(name)
    assert (keys == "–") is (access is None)
    if access is not None:
        assert re.findall(r"`(\w+)/`", keys) == [*access.reads, *access.writes]
