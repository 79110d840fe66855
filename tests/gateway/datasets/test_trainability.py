"""Pages and both APIs give the same reason why a dataset cannot be trained on."""

from __future__ import annotations

from uuid import UUID, uuid4

from fastapi.testclient import TestClient
from openai import OpenAI

from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from infrastructure.artifacts import Artifacts
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.services.datasets.uploads import validated

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def dataset(platform: Platform, person: Person, examples: int, tool_lines: int = 0) -> UUID:
    dataset_id = uuid4()
    report, _, _ = validated(LINE)
    Artifacts(platform.settings.artifacts).put("x/r", report.model_dump_json().encode())
    with because(platform.cause):
        made = Dataset.uploaded(dataset_id, person.account_id, "uploads/x", "00", 100)
        made.validate("x/examples.jsonl", dataset_id.hex * 2, examples, 39, "x/r", tool_lines)
        made.record_tokens(BASE_MODEL, "22", TokenLengths.of([50] * examples))
        platform.log.commit(made)
    return dataset_id


def test_tool_definitions_are_refused_until_the_owner_confirms_that_they_are_ignored(
    client: TestClient, platform: Platform
) -> None:
    person, stranger = platform.person(dollars=10), platform.person()
    platform.base_model()
    dataset_id = dataset(platform, person, 10, tool_lines=7)
    path, job = f"/api/datasets/{dataset_id}", {"dataset": str(dataset_id), "base_model": "tiny"}
    refused = client.post("/api/jobs", json=job, headers=person.headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["field"]) == (422, "dataset")
    assert error["code"] == "invalid"
    shown = client.get(path, headers=person.headers).json()
    assert shown["obstacle"] == error["message"]
    assert shown["obstacle"] in client.get(f"/datasets/{dataset_id}", headers=person.headers).text
    file = client.get(f"/v1/files/file-{dataset_id.hex}", headers=person.headers).json()
    assert file["status_details"] == shown["obstacle"]

    confirm = f"{path}/ignore-tools"
    assert client.post(confirm, headers=stranger.headers).status_code == 404
    for _ in range(2):
        confirmed = client.post(confirm, headers=person.headers).json()
        assert (confirmed["tools_ignored"], confirmed["obstacle"]) == (True, None)
    assert platform.topics().count("ToolDefinitionsIgnored") == 1
    assert client.post("/api/jobs", json=job, headers=person.headers).status_code == 201


def test_too_few_examples_have_no_train_button_and_are_refused_for_the_same_reason(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person(dollars=10)
    platform.base_model()
    dataset_id = dataset(platform, person, 1)
    job = {"dataset": str(dataset_id), "base_model": "tiny"}
    refused = client.post("/api/jobs", json=job, headers=person.headers)
    shown = client.get(f"/api/datasets/{dataset_id}", headers=person.headers).json()
    assert refused.json()["error"]["message"] == shown["obstacle"]
    page = client.get(f"/datasets/{dataset_id}", headers=person.headers).text
    assert shown["obstacle"] in page
    assert f"/fine-tune/new?dataset={dataset_id}" not in page
    beside = job | {"validation_dataset": str(dataset(platform, person, 10))}
    assert client.post("/api/jobs", json=beside, headers=person.headers).status_code == 201


def test_options_of_an_upload_are_recorded(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    uploaded = client.post(
        "/api/datasets?name=chats&keep_duplicates=true&ignore_tools=true",
        content=LINE,
        headers=person.headers,
    ).json()
    options = platform.log.load(Dataset, UUID(uploaded["id"])).options
    assert (options.keep_duplicates, options.ignore_tools) == (True, True)
    openai = OpenAI(api_key=person.key, base_url="http://testserver/v1", http_client=client)
    file = openai.files.create(
        file=("chats.jsonl", LINE), purpose="fine-tune", extra_body={"keep_duplicates": "true"}
    )
    options = platform.log.load(Dataset, UUID(file.id.removeprefix("file-"))).options
    assert (options.keep_duplicates, options.ignore_tools) == (True, False)
