"""Exit codes of the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import typer

from deploy.cli import main
from gateway.cli import GROUPS
from gateway.cli.client import Client, ClientError, Endpoint, NotSignedIn, Refused, Unreachable
from gateway.cli.exits import ExitCode, exit_code_of
from tests.gateway.cli.conftest import ecolink


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(401, {}), ExitCode.NOT_ALLOWED),
        (Refused(402, {"code": "insufficient_balance"}), ExitCode.GATED),
        (Refused(403, {}), ExitCode.NOT_ALLOWED),
        (Refused(404, {}), ExitCode.NOT_FOUND),
        (Refused(409, {"code": "wrong_state"}), ExitCode.WRONG_STATE),
        (Refused(409, {"code": "no_capacity"}), ExitCode.GATED),
        (Refused(413, {}), ExitCode.USAGE),
        (Refused(422, {}), ExitCode.USAGE),
        (Refused(429, {}), ExitCode.UNREACHABLE),
        (Refused(503, {}), ExitCode.UNREACHABLE),
        (Unreachable("no answer"), ExitCode.UNREACHABLE),
        (NotSignedIn("who?"), ExitCode.NOT_ALLOWED),
        (ClientError("what?"), ExitCode.FAILED),
        (PermissionError("a file"), ExitCode.FAILED),
    ],
)
def test_each_kind_of_error_has_its_code(error: ClientError | OSError, code: ExitCode) -> None:
    assert exit_code_of(error) is code


@pytest.mark.parametrize(("status", "code"), [(502, ExitCode.UNREACHABLE), (200, ExitCode.FAILED)])
def test_another_server_and_an_unreachable_gateway_have_different_exit_codes(
    status: int, code: ExitCode
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text="<html>"))
    client = Client(Endpoint("http://proxy", "eco_x"), transport)
    with pytest.raises(ClientError) as caught:
        client.get("/jobs")
    assert exit_code_of(caught.value) is code


def test_exit_codes_are_documented_in_the_help() -> None:
    for arguments in ((), ("jobs",), ("datasets",)):
        shown = ecolink(*arguments, "--help").output
        for code in ExitCode:
            assert f"\n {code:>3d}  " in shown


def test_every_command_of_the_account_holder_has_json_output() -> None:
    root: Any = typer.main.get_command(main)
    for name in ("login", "logout", "whoami", *GROUPS):
        for command in commands_in(root.commands[name]):
            assert "--json" in {option for each in command.params for option in each.opts}, command


def commands_in(command: Any) -> Iterator[Any]:
    """Yield a command, or all commands of a group."""
    if not hasattr(command, "commands"):
        yield command
        return
    for each in command.commands.values():
        yield from commands_in(each)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("jobs", "list"), ExitCode.UNREACHABLE, "unreachable"),
        (("jobs", "launch"), ExitCode.USAGE, "usage"),
        (("jobs", "launch", "--gpus"), ExitCode.USAGE, "usage"),
        (("jobs", "lunch"), ExitCode.USAGE, "usage"),
        (("jobs", "logs", "ftjob-x", "--lines", "0"), ExitCode.USAGE, "usage"),
        (("billing", "statement", "--csv"), ExitCode.USAGE, "usage"),
        (("billing", "ledger", "--csv"), ExitCode.USAGE, "usage"),
        (("login", "nowhere"), ExitCode.USAGE, "usage"),
    ],
)
def test_with_json_an_error_is_one_document_with_the_same_code(
    arguments: tuple[str, ...], code: ExitCode, named: str
) -> None:
    gateway = ("--url", "http://127.0.0.1:9", "--key", "eco_x")
    told = ecolink(*gateway, *arguments, "--json")
    assert (told.exit_code, told.stdout) == (code, "")
    assert json.loads(told.stderr)["error"]["code"] == named
    if "--csv" not in arguments:
        plain = ecolink(*gateway, *arguments)
        assert plain.exit_code == code
        assert '"error"' not in plain.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "launch", "--dataset", "x", "--base-model", "y", "--dry-run", "--watch"),
        ("billing", "ledger", "--csv", "--json"),
        ("billing", "statement", "--csv", "--json"),
        ("models", "chat", "x", ""),
    ],
)
def test_a_usage_error_comes_before_a_missing_login(arguments: tuple[str, ...]) -> None:
    not_signed_in = ("--url", "http://127.0.0.1:9")
    assert ecolink(*not_signed_in, "billing", "balance").exit_code == ExitCode.NOT_ALLOWED
    assert ecolink(*not_signed_in, *arguments).exit_code == ExitCode.USAGE
