"""Datasets through the native API. A refused upload leaves nothing behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from uuid import uuid4

from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.datasets.dataset import Dataset
from infrastructure.postgres.store import connect
from infrastructure.training.measurements import set_progress
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.conftest import application
from tests.gateway.web.signed_in import signed_in
from tests.services.datasets.uploads import VALID


def test_an_upload_is_stored_and_visible(client: TestClient, platform: Platform) -> None:
    headers = platform.person().headers
    answer = client.post("/api/datasets?name=%20chats%20", content=VALID, headers=headers)
    assert answer.status_code == 202
    uploaded = answer.json()
    assert (uploaded["name"], uploaded["status"]) == ("chats", "validating")
    assert client.get("/api/datasets", headers=headers).json()["data"] == [uploaded]
    dataset = platform.log.load(Dataset, uploaded["id"])
    assert platform.artifacts.get(dataset.upload_ref) == VALID
    assert dataset.upload_sha256 == sha256(VALID).hexdigest()


def test_progress_and_report(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    dataset_id = platform.upload(person.account_id, VALID * 2)
    with connect(platform.settings) as connection:
        set_progress(connection, dataset_id, 3, 50, 100)
    path = f"/api/datasets/{dataset_id}"
    shown = client.get(path, headers=person.headers).json()
    assert shown["progress"] == {"lines": 3, "bytes": 50, "total_bytes": 100}
    early = client.get(f"{path}/report", headers=person.headers)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "wrong_state")
    platform.validate_upload(dataset_id)
    platform.project()
    shown = client.get(path, headers=person.headers).json()
    assert (shown["status"], shown["examples"]) == ("ready_for_training", 2)
    assert shown["progress"] is None
    report = client.get(f"{path}/report", headers=person.headers).json()
    assert report["warnings"][0]["lines"] == [3, 4]


def test_an_auditor_sees_the_errors_of_a_report_without_texts_of_the_dataset(
    client: TestClient, platform: Platform
) -> None:
    person, auditor = platform.person(), platform.person(Role.AUDITOR)
    bad = json.dumps({"messages": [{"role": "stranger", "content": "Aunt Mary"}]}).encode()
    dataset_id = platform.upload(person.account_id, bad)
    platform.validate_upload(dataset_id)
    platform.project()
    reading = auditor.headers | {"ecolink-account": str(person.account_id)}
    for path in (f"/api/datasets/{dataset_id}/report", "/v1/files"):
        assert "stranger" in client.get(path, headers=person.headers).text
        seen = client.get(path, headers=reading)
        assert "wrong_role" in seen.text
        assert "stranger" not in seen.text
        assert "Aunt Mary" not in seen.text
    (error,) = client.get(f"/api/datasets/{dataset_id}/report", headers=reading).json()["errors"]
    assert (error["line"], error["excerpt"]) == (1, None)
    browser = signed_in(client, auditor)
    form = {"account": str(person.account_id), "csrf_token": browser.csrf_token}
    client.post("/viewing", data=form)
    page = client.get(f"/datasets/{dataset_id}").text
    assert "wrong_role" in page
    assert "Aunt Mary" not in page
    assert "stranger" not in page


def test_a_repeated_upload_is_one_dataset(client: TestClient, platform: Platform) -> None:
    headers = platform.person().headers | {"idempotency-key": "once"}

    def upload(content: bytes) -> tuple[int, str | None]:
        answer = client.post("/api/datasets?name=chats", content=content, headers=headers)
        return answer.status_code, answer.json().get("id")

    with ThreadPoolExecutor(4) as threads:
        answers = set(threads.map(upload, [VALID] * 4))
    assert len(answers) == 1
    assert upload(VALID) in answers
    assert upload(VALID * 2) == (409, None)
    (ref,) = platform.artifacts.list("uploads")
    assert platform.artifacts.get(ref) == VALID


def test_a_file_over_the_limit_leaves_nothing(platform: Platform, projecting: None) -> None:
    settings = platform.settings.model_copy(update={"dataset_max_bytes": 3 * 1024**2 // 2})
    headers = platform.person().headers
    declared = b"x" * (settings.dataset_max_bytes + 1)
    form = [("purpose", (None, b"fine-tune")), ("file", ("a", declared))]
    with TestClient(application(settings)) as client:
        for content in (declared, iter([declared[:-1], b"x"])):
            answer = client.post("/api/datasets?name=big", content=content, headers=headers)
            assert answer.status_code == 413
            assert "1.5 MiB" in answer.json()["error"]["message"]
        assert client.post("/v1/files", files=form, headers=headers).status_code == 413
        assert client.get("/api/datasets", headers=headers).json()["data"] == []
    assert platform.artifacts.list("uploads") == []


def test_an_upload_without_a_name_or_a_key_stores_nothing(
    client: TestClient, platform: Platform
) -> None:
    headers = platform.person().headers
    for query in ("", "?name=", "?name=%20"):
        answer = client.post(f"/api/datasets{query}", content=VALID, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["error"]["fields"][0]["field"] == "name"
    assert client.post("/api/datasets?name=x", content=VALID).status_code == 401
    assert client.get(f"/api/datasets/{uuid4()}").status_code == 401
    assert platform.artifacts.list("uploads") == []


def test_a_dataset_is_deleted_by_its_owner_unless_a_job_needs_it(
    client: TestClient, platform: Platform
) -> None:
    person, stranger = platform.person(dollars=10), platform.person()
    platform.base_model()
    dataset, free = platform.dataset(person), platform.dataset(person)
    job = {"dataset": str(dataset), "base_model": BASE_MODEL}
    approved = client.post("/api/jobs", json=job, headers=person.headers).json()

    path = f"/api/datasets/{dataset}"
    assert client.delete(path, headers=stranger.headers).status_code == 404
    refused = client.delete(path, headers=person.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")
    client.post(f"/api/jobs/{approved['id']}/cancel", headers=person.headers)
    assert client.delete(path, headers=person.headers).status_code == 204
    assert client.get(path, headers=person.headers).status_code == 404
    left = client.get("/api/datasets", headers=person.headers).json()["data"]
    assert [each["id"] for each in left] == [str(free)]
    again = client.post("/api/jobs", json=job, headers=person.headers)
    assert (again.status_code, again.json()["error"]["field"]) == (404, "dataset")
