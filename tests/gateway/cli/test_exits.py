"""The exit codes that scripts go by."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway.cli.exits import ExitCode, exit_code_of
from gateway.client import Client, ClientError, Endpoint, NotSignedIn, Refused, Unreachable
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
def test_what_answers_instead_of_ecolink_is_told_from_what_is_only_away(
    status: int, code: ExitCode
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text="<html>"))
    client = Client(Endpoint("http://proxy", "eco_x"), transport)
    with pytest.raises(ClientError, match="not as EcoLink") as caught:
        client.get("/jobs")
    assert exit_code_of(caught.value) is code


def test_the_codes_are_told_where_people_look() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    for arguments in ((), ("jobs",), ("datasets",)):
        shown = ecolink(*arguments, "--help").output
        for code in ExitCode:
            assert f"\n {code:>3d}  " in shown
            assert f"\n| {code:d} | " in readme
