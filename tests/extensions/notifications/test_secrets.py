"""The settings of the mail server: a complete set, and its password for one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.plan import make_plan
from deploy.processes import PROCESSES, variables_of
from infrastructure.settings import Settings


def test_only_the_webhooks_process_gets_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_SMTP_PASSWORD", "secret")
    for program in make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES).services:
        for role in program.roles:
            own = variables_of(role, program.environment)
            assert ("ECOLINK_SMTP_PASSWORD" in own) is (role == "webhooks")


def test_an_incomplete_mail_server_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_SMTP_HOST", "mail.example.org")
    with pytest.raises(StackError, match="ECOLINK_SMTP_FROM"):
        make_plan(Home(tmp_path), Settings(home=tmp_path), PROCESSES)
