"""The plan of a stack: settings, keys and warnings."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.bus_access import BUS_ACCESS
from deploy.demo.account import DemoAccount
from deploy.local import commands, plan, ports
from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.nats import NatsServer
from deploy.local.plan import make_plan
from deploy.nats_accounts import USERS
from deploy.processes import PROCESSES, variables_of
from infrastructure.settings import Settings


def test_test_payments_are_off_by_default(tmp_path: Path) -> None:
    """Also on loopback, because a reverse proxy can forward to it."""
    settings = Settings(home=tmp_path)
    assert settings.test_payments is False
    assert make_plan(Home(tmp_path), settings, PROCESSES).settings.test_payments is False
    wanted = Settings(home=tmp_path, test_payments=True)
    assert make_plan(Home(tmp_path), wanted, PROCESSES).settings.test_payments is True


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOLINK_GATEWAY_PORT")


def test_a_set_port_that_another_program_uses_is_refused(tmp_path: Path, taken: int) -> None:
    settings = Settings(home=tmp_path, gateway_port=taken)
    with pytest.raises(StackError, match=f"127.0.0.1:{taken}.*ECOLINK_GATEWAY_PORT"):
        make_plan(Home(tmp_path), settings, PROCESSES)


@pytest.mark.usefixtures("unset")
def test_the_default_port_is_used_if_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "reserve", lambda *_: True)
    filled = make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES).settings
    assert filled.gateway_port == 8000
    assert filled.gateway_url == "http://127.0.0.1:8000"


@pytest.mark.usefixtures("unset")
def test_another_port_is_used_if_the_default_one_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "is_free", lambda *_: False)
    filled = make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES).settings
    assert filled.gateway_port not in (0, 8000)


@pytest.mark.usefixtures("unset")
def test_two_installations_that_start_together_use_different_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither gateway listens yet, so the port is free for both."""
    port = ports.free_port()
    program = f"""
from pathlib import Path
from deploy.local import plan
from deploy.local.home import Home
from infrastructure.settings import Settings

home = Path({str(tmp_path / "first")!r})
home.mkdir()
plan.DEFAULT_PORT = {port}
print(plan.make_plan(Home(home), Settings(home=home), plan.PROCESSES).settings.gateway_port)
input()
"""
    first = subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with first:
        assert first.stdout is not None
        assert int(first.stdout.readline()) == port
        monkeypatch.setattr(plan, "DEFAULT_PORT", port)
        second = tmp_path / "second"
        second.mkdir()
        filled = make_plan(Home(second), Settings(home=second), PROCESSES).settings
        assert filled.gateway_port not in (0, port)
        with pytest.raises(StackError, match=str(port)):
            make_plan(Home(second), Settings(home=second, gateway_port=port), PROCESSES)
        first.kill()
    filled = make_plan(Home(second), Settings(home=second), PROCESSES).settings
    assert filled.gateway_port == port


def test_the_trainers_key_is_kept_and_given_only_to_the_scheduler(tmp_path: Path) -> None:
    plans = [make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES) for _ in range(2)]
    seeds = {plan.settings.nats_trainer_seed for plan in plans}
    assert len(seeds) == 1
    assert None not in seeds
    holders = [
        service.name
        for service in plans[0].services
        if "ECOLINK_NATS_TRAINER_SEED" in service.environment
    ]
    assert holders == ["scheduler"]


def test_each_service_has_its_own_nats_user_or_none(tmp_path: Path) -> None:
    made = make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES)
    files = {
        role: variables_of(role, each.environment).get("ECOLINK_NATS_CREDENTIALS")
        for each in made.services
        for role in each.roles
    }
    assert files == {
        name: str(tmp_path / "run" / f"{name}.creds") if name in BUS_ACCESS else None
        for name in PROCESSES
    }
    operator = tmp_path / "run" / "operator.creds"
    assert made.settings.nats_credentials == operator
    assert made.migration.environment["ECOLINK_NATS_CREDENTIALS"] == str(operator)


def test_a_home_with_a_shared_nats_user_is_upgraded(tmp_path: Path) -> None:
    """The file of keys of an earlier version has no secret of users."""
    home = Home(tmp_path)
    home.prepare()
    kept = json.loads(home.passwords().model_dump_json())
    del kept["nats"]["users"]
    (tmp_path / "secrets.json").write_text(json.dumps(kept))
    home.shared_nats_credentials.write_text("the credentials of all services")
    for server in make_plan(home, Settings(home=tmp_path), PROCESSES).servers:
        if isinstance(server, NatsServer):
            server.initialize()
    upgraded = json.loads((tmp_path / "secrets.json").read_text())
    assert upgraded["nats"].pop("users")
    assert upgraded == kept
    assert not home.shared_nats_credentials.exists()
    for user in USERS:
        assert home.nats_credentials(user).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("on", [True, False])
def test_up_warns_about_test_payments(
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
    assert (commands.TEST_PAYMENTS in shown) is on


def test_up_without_a_demo_account_creates_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "demo_account", lambda settings: pytest.fail("created"))
    commands.announce(Settings(), demo=False)
    assert "sign in" not in capsys.readouterr().out


def test_the_error_of_the_first_base_model_names_the_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise StackError("Cannot import it.")

    monkeypatch.setattr(commands, "offer_first_base", fail)
    commands._offer_base(Settings())
    assert "Cannot import it. Without a base model" in capsys.readouterr().out


def test_the_local_serving_process_is_one_of_the_configured_ones(tmp_path: Path) -> None:
    other = "http://gpu-2:8100"
    chosen = make_plan(Home(tmp_path), Settings(home=tmp_path, serving_url=other), PROCESSES)
    own = f"http://127.0.0.1:{chosen.settings.serving_port}"
    assert chosen.settings.serving_url == f"{own},{other}"
    named = Settings(home=tmp_path, serving_url=f"http://gpu-1:8100,{other}", serving_port=8100)
    assert make_plan(Home(tmp_path), named, PROCESSES).settings.serving_url == named.serving_url
