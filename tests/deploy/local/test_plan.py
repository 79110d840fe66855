"""What a stack is started with, and what it says of that."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from deploy.demo.account import DemoAccount
from deploy.local import commands
from deploy.local.home import Home
from deploy.local.plan import draw_plan
from deploy.processes import PROCESSES
from infrastructure.settings import Settings

SAID = "Test payments are on: account holders top up without paying."


def test_nobody_is_given_money_by_a_default(tmp_path: Path) -> None:
    """Not on loopback either: that is what a reverse proxy stands in front of."""
    settings = Settings(home=tmp_path)
    assert settings.test_payments is False
    assert draw_plan(Home(tmp_path), settings, PROCESSES).settings.test_payments is False
    wanted = Settings(home=tmp_path, test_payments=True)
    assert draw_plan(Home(tmp_path), wanted, PROCESSES).settings.test_payments is True


def test_the_key_of_trainers_is_kept_and_only_the_scheduler_gets_it(tmp_path: Path) -> None:
    plans = [draw_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES) for _ in range(2)]
    seeds = {plan.settings.nats_trainer_seed for plan in plans}
    assert len(seeds) == 1
    assert None not in seeds
    holders = [
        service.name
        for service in plans[0].services
        if "ECOLINK_NATS_TRAINER_SEED" in service.environment
    ]
    assert holders == ["scheduler"]


@pytest.mark.parametrize("on", [True, False])
def test_a_stack_that_takes_test_payments_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], on: bool
) -> None:
    account = DemoAccount(uuid4(), "eco_demo")
    monkeypatch.setattr(commands, "demo_account", lambda settings: account)
    monkeypatch.setattr(commands, "sign_in_link", lambda settings, account: "a link")
    commands.announce(Settings(test_payments=on))
    shown = capsys.readouterr().out
    assert "eco_demo" not in shown
    commands.announce(Settings(test_payments=on), show_key=True)
    assert "eco_demo" in capsys.readouterr().out
    assert (SAID in shown.replace("\n", " ")) is on
