"""Presets of target modules: the default, attention only, and all linear layers."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient

from domain.jobs.job import Job
from gateway.http.openai_vocabulary import job_of
from tests.builders.platform import Platform
from tests.builders.tiny_model import TINY_SHAPE
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import signed_in

LINEARS = set(TINY_SHAPE.linears)


def test_all_linear_is_resolved_to_the_layers_of_the_base_model(
    client: TestClient, platform: Platform
) -> None:
    person, form = platform.ready()
    headers = person.headers | {"idempotency-key": "one"}
    for modules in ("all-linear", ["all-linear"], sorted(LINEARS)):
        body = form | {"hyperparameters": {"target_modules": modules}}
        answer = client.post("/api/estimates", json=body, headers=headers)
        assert answer.is_success, answer.text
    body = form | {"hyperparameters": {"target_modules": "all-linear"}}
    both = [client.post("/api/jobs", json=body, headers=headers).json() for _ in range(2)]
    assert both[0]["id"] == both[1]["id"]
    plan = platform.log.load(Job, job_of(both[0]["id"])).plan
    assert set(plan.lora.target_modules) == LINEARS


def test_the_wizard_shows_the_price_of_each_preset(client: TestClient, platform: Platform) -> None:
    person, form = platform.ready()
    browser = signed_in(client, person)
    first = browser.client.get("/fine-tune/new").text
    assert "Attention only" in first

    def shown(**entries: Any) -> str:
        given = {"base_model": form["base_model"], "dataset": form["dataset"]}
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', first)) | given | entries
        answer = browser.client.post("/fine-tune/new/estimate", data=fields, headers=browser.htmx)
        assert answer.is_success, answer.text
        return answer.text

    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    choices = [["q_proj", "v_proj"], attention, sorted(LINEARS)]
    pages = [shown(target_modules=each, region="local", gpu_type="cpu") for each in choices]
    for n, each in enumerate(pages):
        buttons = re.findall(r'id="preset-\d" aria-pressed="(\w+)"', each)
        assert buttons == ["true" if button == n else "false" for button in range(3)]
    page = pages[0]
    assert re.search(r"Default \(q_proj, v_proj\): [^<]*\$", page)
    assert re.search(r"Attention only: [^<]*\$", page)
    assert re.search(r"All linear layers: [^<]*\$", page)
    assert "all-linear" not in read_html(page)["target_modules"].text
