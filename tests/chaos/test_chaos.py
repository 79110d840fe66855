"""Fifty faults on the whole product violate no rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.rig import Template

FAULTS, SEED = 50, 1


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_no_rule_is_violated_by_50_faults(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("chaos")
    directory.chmod(0o755)
    campaign = Campaign(SEED, Template.at(directory / "template"), directory, Path("chaos"))

    outcome = campaign.run(FAULTS)

    assert outcome.violations == []
    assert outcome.faults.total() == FAULTS
    assert outcome.jobs > 0
