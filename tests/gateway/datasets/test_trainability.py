"""Pages and both APIs give the same reason why a dataset cannot be trained on."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient

from domain.datasets.dataset import Dataset
from gateway.http.read_your_writes import caught_up
from projections import PROJECTIONS
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.builders.tool_templates import WEATHER
from tests.gateway.conftest import ClientOf
from tests.services.datasets.uploads import GOOD, VALID, jsonl


def dataset(client: TestClient, platform: Platform, person: Person, content: bytes) -> UUID:
    """Return a dataset whose validation is visible in the read models."""
    dataset_id = platform.upload(person.account_id, content)
    platform.validate_upload(dataset_id)
    platform.count(dataset_id)
    backend = client.app.state.backend  # type: ignore[attr-defined]
    assert caught_up(backend, *PROJECTIONS, patience_seconds=60)
    return dataset_id


def job_on(dataset_id: UUID, **more: Any) -> dict[str, Any]:
    return {"dataset": str(dataset_id), "base_model": BASE_MODEL, **more}


def test_jobs_train_on_examples_with_tools(client: TestClient, platform: Platform) -> None:
    person = platform.person(dollars=10)
    platform.base_model()
    dataset_id = dataset(client, platform, person, jsonl(GOOD | {"tools": [WEATHER]}) + VALID)
    path = f"/api/datasets/{dataset_id}"
    assert client.get(path, headers=person.headers).json()["obstacle"] is None
    report = client.get(f"{path}/report", headers=person.headers).json()
    assert report["examples_with_tools"] == 1
    page = client.get(f"/datasets/{dataset_id}", headers=person.headers).text
    assert "Examples with tools" in page
    assert client.post("/api/jobs", json=job_on(dataset_id), headers=person.headers).is_success


def test_examples_without_their_tools_are_refused_until_the_owner_confirms(
    client: TestClient, platform: Platform
) -> None:
    """Version 0.1 removed tool definitions from the examples."""
    person, stranger = platform.person(dollars=10), platform.person()
    platform.base_model()
    dataset_id = platform.upload(person.account_id, VALID)
    platform.validate_upload(dataset_id, tool_lines=1)
    platform.count(dataset_id)
    path, job = f"/api/datasets/{dataset_id}", job_on(dataset_id)
    refused = client.post("/api/jobs", json=job, headers=person.headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["field"], error["code"]) == (422, "dataset", "invalid")
    obstacle = client.get(path, headers=person.headers).json()["obstacle"]
    assert obstacle == error["message"]
    assert obstacle in client.get(f"/datasets/{dataset_id}", headers=person.headers).text
    file = client.get(f"/v1/files/file-{dataset_id.hex}", headers=person.headers).json()
    assert file["status_details"] == obstacle

    filters = {"filters": {"near_duplicates": True}}
    filtered = client.post(f"{path}/filters", json=filters, headers=person.headers)
    assert (filtered.status_code, filtered.json()["error"]["message"]) == (409, obstacle)

    confirm = f"{path}/ignore-tools"
    assert client.post(confirm, headers=stranger.headers).status_code == 404
    for _ in range(2):
        confirmed = client.post(confirm, headers=person.headers).json()
        assert (confirmed["tools_ignored"], confirmed["obstacle"]) == (True, None)
    assert platform.topics().count("ToolDefinitionsIgnored") == 1
    assert client.post("/api/jobs", json=job, headers=person.headers).status_code == 201
    assert client.post(f"{path}/filters", json=filters, headers=person.headers).is_success


def test_too_few_examples_have_no_train_button_and_are_refused_for_the_same_reason(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person(dollars=10)
    platform.base_model()
    dataset_id = dataset(client, platform, person, jsonl(GOOD))
    refused = client.post("/api/jobs", json=job_on(dataset_id), headers=person.headers)
    shown = client.get(f"/api/datasets/{dataset_id}", headers=person.headers).json()
    assert refused.json()["error"]["message"] == shown["obstacle"]
    page = client.get(f"/datasets/{dataset_id}", headers=person.headers).text
    assert shown["obstacle"] in page
    assert f"/fine-tune/new?dataset={dataset_id}" not in page
    job = job_on(dataset_id, validation_dataset=str(dataset(client, platform, person, VALID)))
    assert client.post("/api/jobs", json=job, headers=person.headers).status_code == 201


def test_options_of_an_upload_are_recorded(
    client: TestClient, client_of: ClientOf, platform: Platform
) -> None:
    person = platform.person()
    path = "/api/datasets?name=chats&keep_duplicates=true&ignore_tools=true"
    uploaded = client.post(path, content=VALID, headers=person.headers).json()
    file = client_of(person).files.create(
        file=("chats.jsonl", VALID), purpose="fine-tune", extra_body={"keep_duplicates": "true"}
    )
    for id, ignores_tools in ((uploaded["id"], True), (file.id.removeprefix("file-"), False)):
        options = platform.log.load(Dataset, UUID(id)).options
        assert (options.keep_duplicates, options.ignore_tools) == (True, ignores_tools)
