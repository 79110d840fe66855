"""Fifty faults, or the failover of each leader, violate no rule of the whole product."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.network import is_possible
from tests.chaos.rig import LEADERS, Template

FAULTS, FAILOVERS, SEED = 50, 2 * len(LEADERS), 1


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


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not is_possible(), reason="failovers need root and network namespaces")
def test_no_rule_is_violated_when_each_leader_fails_over(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("failovers")
    directory.chmod(0o755)
    template = Template.at(directory / "template")
    campaign = Campaign(SEED, template, directory, Path("chaos"), fails_over=True)

    outcome = campaign.run(FAILOVERS)

    assert outcome.violations == []
    assert {service for _, service in outcome.taken.seconds} == set(LEADERS)
