"""Login and API keys on the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from domain.access.role import Role
from gateway.cli.login import login_file
from infrastructure.profiles import add_account_name
from infrastructure.store import connect
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine, Served, ecolink


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path / "no stack"))


def test_a_login_is_kept_for_its_owner_alone_and_forgotten(
    served: Served, platform: Platform
) -> None:
    person = platform.person(dollars=3)
    with connect(platform.settings) as connection:
        add_account_name(connection, person.account_id, "alice")
    platform.project()
    signed = ecolink("login", served.url + "/", stdin=f"{person.key}\n")
    assert signed.exit_code == 0, signed.output
    assert str(person.account_id) in signed.stdout
    assert person.key not in signed.output
    assert stat.S_IMODE(login_file().stat().st_mode) == 0o600
    assert "$3.00" in ecolink("billing", "balance").stdout
    told = ecolink("whoami").stdout
    assert served.url in told
    assert "alice" in told

    assert json.loads(ecolink("logout", "--json").stdout) == {"signed_out": True}
    assert not login_file().exists()
    assert json.loads(ecolink("logout", "--json").stdout) == {"signed_out": False}
    assert ecolink("logout").exit_code == 0
    assert ecolink("whoami").exit_code == 7  # no stack runs here


def test_a_key_that_does_not_work_is_not_kept(served: Served) -> None:
    for arguments, stdin, code in (
        (("login", served.url, "--key", "eco_wrong"), None, 3),
        (("login", served.url), "", 2),
        (("login",), "eco_x\n", 2),
        (("login", "ecolink.example.org"), "eco_x\n", 2),
        (("login", "http://127.0.0.1:9"), "eco_x\n", 7),
    ):
        result = ecolink(*arguments, stdin=stdin)
        assert result.exit_code == code, result.output
        assert not login_file().exists()


def test_options_override_the_saved_login(served: Served, platform: Platform) -> None:
    kept, told = platform.person(), platform.person()
    platform.project()
    ecolink("login", served.url, "--key", kept.key)
    assert str(kept.account_id) in ecolink("whoami").stdout
    assert str(told.account_id) in ecolink("--key", told.key, "whoami").stdout
    # The saved key is used only for its own gateway.
    elsewhere = ecolink("--url", "http://127.0.0.1:9", "whoami")
    assert elsewhere.exit_code == 3
    assert "ecolink login" in elsewhere.output


def test_a_damaged_login_names_the_command_that_deletes_it() -> None:
    login_file().parent.mkdir(parents=True)
    login_file().write_text("{")
    result = ecolink("whoami")
    assert result.exit_code == 1
    assert "ecolink logout" in result.output
    assert ecolink("logout").exit_code == 0


def test_keys_are_made_listed_and_revoked(served: Served, platform: Platform) -> None:
    person, other = platform.person(Role.USER), platform.person()
    platform.project()
    me = served.as_person(person)
    secret = me.run("keys", "create").strip()
    assert secret.startswith("eco_")
    assert " " not in secret
    second = CommandLine(served.url, secret)
    made = second.read("keys", "list")["data"][1]
    assert (made["hint"], made["current"]) == (secret[-4:], True)
    assert str(made["id"]) in me.run("keys", "list")
    assert me.refused("keys", "revoke", str(other.key_id), code=4)

    assert me.read("keys", "revoke", made["id"])["revoked_at"] is not None
    assert second.refused("keys", "list", code=3)
    error = json.loads(second.refused("keys", "list", "--json", code=3))["error"]
    assert (error["code"], error["status"]) == ("unauthenticated", 401)
    assert str(other.key_id) not in me.run("keys", "list")
