"""The sample dataset, which a new user creates with one click."""

from __future__ import annotations

import json
from uuid import UUID

from fastapi.testclient import TestClient

from gateway.datasets.sample import FILE, NAME
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import Browser


def test_the_sample_has_150_distinct_questions_in_one_style() -> None:
    chats = [json.loads(line)["messages"] for line in FILE.read_text().splitlines()]
    questions = {user["content"] for user, _ in chats}
    answers = [assistant["content"] for _, assistant in chats]
    assert len(questions) == len(chats) == 150
    assert all(each.startswith("Ahoy! ") and each.endswith(" Fair winds!") for each in answers)


def test_the_sample_becomes_a_dataset_that_is_ready_to_train(
    client: TestClient, platform: Platform
) -> None:
    headers = platform.person().headers | {"Idempotency-Key": "once"}
    answers = [client.post("/api/datasets/from-sample", headers=headers) for _ in range(2)]
    assert {each.status_code for each in answers} == {202}
    (dataset_id,) = {UUID(each.json()["id"]) for each in answers}
    platform.validate_upload(dataset_id)
    platform.project()
    shown = client.get(f"/api/datasets/{dataset_id}", headers=headers).json()
    assert (shown["status"], shown["name"]) == ("ready_for_training", NAME)
    assert (shown["examples"], shown["duplicates"]) == (150, 0)


def test_a_new_user_starts_with_the_sample_from_each_empty_page(browser: Browser) -> None:
    for path in ("/fine-tune", "/datasets", "/fine-tune/new"):
        assert 'hx-post="/datasets/from-sample"' in browser.client.get(path).text, path
    made = browser.client.post("/datasets/from-sample", headers=browser.htmx)
    assert made.status_code == 200
    dataset = browser.client.get(made.headers["hx-redirect"])
    assert "Captain&#39;s answers (sample)" in dataset.text
