"""The wizard's choices as a command line and as Python."""

from __future__ import annotations

import shlex
from typing import Any
from uuid import UUID

import openai
import pytest
from fastapi.testclient import TestClient

from domain.jobs.job import Job
from tests.gateway.cli.conftest import ecolink
from tests.gateway.jobs.launch.wizard_form import Wizard


def test_the_command_line_gives_the_same_choices(
    wizard: Wizard, monkeypatch: pytest.MonkeyPatch
) -> None:
    wizard.complete()
    wizard.change(epochs="2", suffix="it-s", target_modules=["q_proj", "o_proj"], dropout="0")
    words = shlex.split(wizard.shown["command-line"].text.replace("\\", ""))
    posted: dict[str, Any] = {}

    def post(client: Any, path: str, body: Any, **_: Any) -> Any:
        posted.update(body)
        return wizard.browser.client.post(
            f"/api{path}", json=body, headers=wizard.browser.htmx
        ).json()

    monkeypatch.setattr("gateway.cli.client.Client.post", post)
    result = ecolink("--url", "http://testserver", "--key", "eco_x", *words[1:], "--json")
    assert result.exit_code == 0, result.output
    made, own = _last_job(wizard), wizard.approve()
    assert own is not None
    ours = wizard.platform.log.load(Job, own)
    assert (made.plan.choices, made.order) == (ours.plan.choices, ours.order)


def test_the_python_gives_the_same_choices(
    wizard: Wizard, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wizard.complete()
    own = str(wizard.platform.dataset(wizard.browser.person))
    wizard.change(
        validation_dataset=own,
        suffix="mine",
        seed="7",
        target_modules=["q_proj", "o_proj"],
        max_cost="12.50",
    )
    program = wizard.shown["python"].raw
    assert "http://testserver/v1" in program
    real = openai.OpenAI
    monkeypatch.setenv("ECOLINK_API_KEY", wizard.browser.person.key)
    monkeypatch.setattr(openai, "OpenAI", lambda **given: real(http_client=client, **given))
    exec(program, {})
    theirs, ours_id = _last_job(wizard), wizard.approve()
    assert ours_id is not None
    ours = wizard.platform.log.load(Job, ours_id)
    assert theirs.plan.choices == ours.plan.choices
    assert (theirs.order.suffix, theirs.order.deploy) == ("mine", True)
    assert theirs.max_cost_micros == ours.max_cost_micros == 12_500_000


def _last_job(wizard: Wizard) -> Job:
    newest = wizard.jobs()[0]["id"]
    return wizard.platform.log.load(Job, UUID(newest.removeprefix("ftjob-")))
