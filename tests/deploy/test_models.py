"""`ecolink models verify`: what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import main
from deploy.processes import environment
from domain.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.settings import Settings
from tests.services.scheduler.registering import ADAPTER, WEIGHTS, register_model


def verify(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(main, ["models", "verify", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    return result.output


def test_models_verify(
    log: EventLog, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert "no model ft:tiny:0" in verify("ft:tiny:0", exit_code=4)
    model = register_model(log, settings).model
    printed = verify(model)
    assert f"file {WEIGHTS}" in printed
    assert "0 differ" in printed

    copy, artifacts = tmp_path / "copy", Artifacts(settings.artifacts)
    assert "--directory" in verify(model, "--directory", str(copy), exit_code=2)
    artifacts.get_directory(ADAPTER, copy)
    verify(model, "--directory", str(copy))
    (copy / WEIGHTS).write_bytes(b"Weights")
    printed = verify(model, "--directory", str(copy), exit_code=1)
    assert f"differs  file {WEIGHTS}: expected " in printed
    answer = json.loads(verify(model, "--directory", str(copy), "--json", exit_code=1))
    assert (answer["model"], answer["ok"]) == (model, False)
    assert [each["check"] for each in answer["checks"] if not each["ok"]] == [f"file {WEIGHTS}"]
