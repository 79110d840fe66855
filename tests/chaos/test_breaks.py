"""The harness finds each deliberate defect of the product."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.breaks import BREAK, BREAKS
from tests.chaos.campaign import Campaign
from tests.chaos.faults import Fault
from tests.chaos.rig import Template

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


def stop(number: int, target: str, seconds: float, wait: float = 2.0) -> Fault:
    return Fault(number, "stop", target, wait, seconds)


SETTLE_SECONDS = 120.0
"""Some defects keep jobs from ending."""

FOUND: dict[str, tuple[list[Fault], str]] = {
    "two-leaders": ([stop(1, "webhooks", 1.0, wait=20.0)], "leaders_write_in_turn"),
}
"""Faults that reveal each defect, and the rule that it violates."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Return a platform for all tests of this module."""
    directory = tmp_path_factory.mktemp("template")
    directory.chmod(0o755)
    return Template.at(directory / "template")


def test_each_defect_has_its_test() -> None:
    assert FOUND.keys() == BREAKS.keys()


@pytest.mark.parametrize("name", BREAKS)
def test_a_deliberate_defect_violates_its_rule(
    template: Template, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, rule = FOUND[name]
    tmp_path.chmod(0o755)
    monkeypatch.setenv(BREAK, name)

    campaign = Campaign(1, template, tmp_path, tmp_path / "kept", settle_seconds=SETTLE_SECONDS)
    outcome = campaign.round(faults)

    assert any(f" {rule}: " in each for each in outcome.violations)
