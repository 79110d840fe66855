"""Login and API keys on the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from domain.access.role import Role
from gateway.cli.login import login_file
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine, Owner, ecolink


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path / "no stack"))


def test_a_login_is_saved_for_its_owner_until_logout(me: Owner, platform: Platform) -> None:
    with connect(platform.settings) as connection:
        add_account_name(connection, me.person.account_id, "alice")
    signed = ecolink("login", me.url + "/", stdin=f"{me.key}\n")
    assert signed.exit_code == 0, signed.output
    assert str(me.person.account_id) in signed.stdout
    assert me.key not in signed.output
    assert stat.S_IMODE(login_file().stat().st_mode) == 0o600
    assert "$10.00" in ecolink("billing", "balance").stdout
    shown = ecolink("whoami").stdout
    assert me.url in shown
    assert "alice" in shown

    for removed in (True, False):
        assert json.loads(ecolink("logout", "--json").stdout) == {"signed_out": removed}
        assert not login_file().exists()
    assert ecolink("whoami").exit_code == 7  # no stack runs here


def test_a_key_that_does_not_work_is_not_saved(me: Owner) -> None:
    for arguments, stdin, code in (
        (("login", me.url, "--key", "eco_wrong"), None, 3),
        (("login", me.url), "", 2),
        (("login",), "eco_x\n", 2),
        (("login", "ecolink.example.org"), "eco_x\n", 2),
        (("login", "http://127.0.0.1:9"), "eco_x\n", 7),
    ):
        result = ecolink(*arguments, stdin=stdin)
        assert result.exit_code == code, result.output
        assert not login_file().exists()


def test_options_override_the_saved_login(me: Owner, platform: Platform) -> None:
    other = platform.person()
    platform.project()
    ecolink("login", me.url, "--key", me.key)
    assert str(me.person.account_id) in ecolink("whoami").stdout
    assert str(other.account_id) in ecolink("--key", other.key, "whoami").stdout
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


def test_a_key_is_limited_by_scopes_and_a_lifetime(me: Owner, platform: Platform) -> None:
    scopes = ("--scope", "read", "--scope", "keys")
    secret = me.run("keys", "create", "--name", "report", *scopes, "--expires", "30d").strip()
    made = me.read("keys", "list")["data"][1]
    assert (made["name"], made["scopes"]) == ("report", ["read", "keys"])
    assert made["expires_at"] is not None
    for shown in ("report", "read keys", "expires at"):
        assert shown in me.run("keys", "list")
    limited = CommandLine(me.url, secret)
    refused = json.loads(limited.refused(*me.launch, "--dry-run", "--json", code=3))["error"]
    assert refused["code"] == "missing_scope"
    assert limited.read("whoami")["key"]["scopes"] == ["read", "keys"]
    assert "read, keys" in limited.run("whoami")
    assert me.refused("keys", "create", "--expires", "1y", code=2)


def test_an_auditor_names_the_account_to_read(me: Owner, platform: Platform) -> None:
    auditor = CommandLine(me.url, platform.person(Role.AUDITOR).key)
    platform.project()
    listed = auditor.read("billing", "accounts")["data"]
    assert str(me.person.account_id) in [each["id"] for each in listed]
    viewed = ("--account", str(me.person.account_id))
    assert auditor.read(*viewed, "billing", "balance") == me.read("billing", "balance")


def test_keys_are_created_listed_and_revoked(me: Owner, platform: Platform) -> None:
    other = platform.person()
    platform.project()
    secret = me.run("keys", "create").strip()
    assert secret.startswith("eco_")
    assert " " not in secret
    second = CommandLine(me.url, secret)
    made = second.read("keys", "list")["data"][1]
    assert (made["hint"], made["current"]) == (secret[-4:], True)
    listed = me.run("keys", "list")
    assert made["id"] in listed
    assert str(other.key_id) not in listed
    assert me.refused("keys", "revoke", str(other.key_id), code=4)
    assert me.read("keys", "revoke", made["id"])["revoked_at"] is not None
    error = json.loads(second.refused("keys", "list", "--json", code=3))["error"]
    assert (error["code"], error["status"]) == ("unauthenticated", 401)
