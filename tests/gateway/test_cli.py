"""The account holder's commands against a gateway process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import main
from infrastructure.artifacts import Artifacts
from tests.gateway.conftest import BASE_MODEL, Gateway, World

LINE = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
REPORT = (
    b'{"status": "rejected", "examples": 0, "duplicates": 0, "lines": 1, "bytes": 5,'
    b' "warnings": [], "errors": [{"line": 1, "code": "malformed_json", "message": "no JSON"}],'
    b' "error_count": 1}'
)


def ecolink(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_every_command(gateway: Gateway, world: World, tmp_path: Path) -> None:
    person = world.person(dollars=3)
    world.base_model()
    ready, own = world.dataset(person), world.dataset(person)
    Artifacts(world.settings.artifacts).put("datasets/x/report.json", REPORT)
    world.project()
    file = tmp_path / "chats.jsonl"
    file.write_text(LINE)

    def run(*arguments: str) -> str:
        result = ecolink("--url", gateway.url, "--key", person.key, *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def read(*arguments: str) -> Any:
        return json.loads(run(*arguments, "--json"))

    uploaded = read("datasets", "upload", str(file))
    assert uploaded["name"] == "chats"
    assert len(read("datasets", "list")["data"]) == 3
    assert "ready_for_training" in run("datasets", "show", str(ready))
    assert "line 1: no JSON" in run("datasets", "report", str(ready))
    assert BASE_MODEL in run("models", "list")

    assert "ftjob-" in run("jobs", "launch", "--dataset", str(ready), "--base-model", BASE_MODEL)
    job = read(
        *("jobs", "launch", "--dataset", str(ready), "--base-model", BASE_MODEL),
        *("--epochs", "1", "--dropout", "0", "--target-modules", "q_proj"),
        *("--schedule", "linear", "--validation-dataset", str(own)),
    )
    shown = read("jobs", "show", job["id"])
    assert shown["hyperparameters"]["dropout"] == 0
    assert shown["hyperparameters"]["target_modules"] == ["q_proj"]
    assert shown["hyperparameters"]["lora_r"] == 16
    assert shown["hyperparameters"]["schedule"] == "linear"
    assert shown["validation_dataset_id"] == str(own)
    listed = run("jobs", "list")
    assert job["id"] in listed
    assert "waiting for a GPU" in listed
    assert read("jobs", "log", job["id"]) == {"data": []}
    assert "not evaluated yet" in run("jobs", "evaluations", job["id"])
    assert "Nothing is saved" in run("jobs", "checkpoints", job["id"])
    assert "$3.00" in run("billing", "balance")
    assert "credit granted" in run("billing", "ledger")
    assert read("billing", "ledger", "--job", job["id"])["data"] == []
    _errors_are_one_sentence(gateway, person.key)


def _errors_are_one_sentence(gateway: Gateway, key: str) -> None:
    for arguments, exit_code, sentence in (
        (("--key", "eco_wrong", "jobs", "list"), 1, "unknown or was revoked"),
        (("--key", key, "jobs", "show", "ftjob-1"), 1, "job_id: "),
        (("--key", key, "jobs", "show"), 2, "Missing argument"),
    ):
        result = ecolink("--url", gateway.url, *arguments)
        assert result.exit_code == exit_code
        assert sentence in result.output
        assert "Traceback" not in result.output


def test_without_a_stack_it_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path))
    result = ecolink("jobs", "list")
    assert result.exit_code == 1
    assert "ecolink up" in result.output


def test_nobody_answers() -> None:
    result = ecolink("--url", "http://127.0.0.1:9", "--key", "eco_x", "jobs", "list")
    assert result.exit_code == 1
    assert "no answer from http://127.0.0.1:9" in result.output
