"""Uploads through the native API. A refused upload leaves nothing behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from uuid import uuid4

from fastapi.testclient import TestClient

from domain.datasets.dataset import Dataset
from gateway.app import create_app
from infrastructure.artifacts import Artifacts
from infrastructure.measurements import set_progress
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.builders.platform import BASE_MODEL, Platform

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def uploads(settings: Settings) -> list[str]:
    return Artifacts(settings.artifacts).list("uploads")


def test_an_upload_is_stored_and_visible(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    answer = client.post(
        "/api/datasets", params={"name": " chats "}, content=LINE, headers=person.headers
    )
    assert answer.status_code == 202
    uploaded = answer.json()
    assert (uploaded["name"], uploaded["status"]) == ("chats", "validating")
    assert client.get("/api/datasets", headers=person.headers).json()["data"] == [uploaded]

    dataset = platform.log.load(Dataset, uploaded["id"])
    assert Artifacts(platform.settings.artifacts).get(dataset.upload_ref) == LINE
    assert dataset.upload_sha256 == sha256(LINE).hexdigest()


def test_progress_and_report(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    validating, ready = platform.dataset(person, ready=False), platform.dataset(person)
    with connect(platform.settings) as connection:
        set_progress(connection, validating, 3, 50, 100)
    shown = client.get(f"/api/datasets/{validating}", headers=person.headers).json()
    assert shown["progress"] == {"lines": 3, "bytes": 50, "total_bytes": 100}
    early = client.get(f"/api/datasets/{validating}/report", headers=person.headers)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "wrong_state")

    Artifacts(platform.settings.artifacts).put(
        "datasets/x/report.json",
        b'{"status": "ready_for_training", "examples": 10, "duplicates": 1, "lines": 11,'
        b' "bytes": 100, "sha256": "11", "normalised_bytes": 90, "warnings": [{"code": '
        b'"duplicate_lines", "message": "1 line repeats", "count": 1, "lines": [7]}],'
        b' "errors": [], "error_count": 0}',
    )
    shown = client.get(f"/api/datasets/{ready}", headers=person.headers).json()
    assert (shown["status"], shown["examples"], shown["progress"]) == (
        "ready_for_training",
        10,
        None,
    )
    report = client.get(f"/api/datasets/{ready}/report", headers=person.headers).json()
    assert report["warnings"][0]["lines"] == [7]


def test_a_repeated_upload_is_one_dataset(client: TestClient, platform: Platform) -> None:
    person = platform.person()

    def upload(content: bytes) -> tuple[int, str | None]:
        answer = client.post(
            "/api/datasets?name=chats",
            content=content,
            headers=person.headers | {"idempotency-key": "once"},
        )
        return answer.status_code, answer.json().get("id")

    with ThreadPoolExecutor(4) as threads:
        answers = set(threads.map(upload, [LINE] * 4))
    assert len(answers) == 1
    assert upload(LINE) in answers
    assert upload(LINE * 2) == (409, None)
    (ref,) = uploads(platform.settings)
    assert Artifacts(platform.settings.artifacts).get(ref) == LINE


def test_a_file_over_the_limit_leaves_nothing(platform: Platform, projecting: None) -> None:
    settings = platform.settings.model_copy(update={"dataset_max_bytes": 3 * 1024**2 // 2})
    person = platform.person()
    declared = b"x" * (settings.dataset_max_bytes + 1)
    with TestClient(create_app(settings)) as client:
        for content in (declared, iter([declared[:-1], b"x"])):
            answer = client.post("/api/datasets?name=big", content=content, headers=person.headers)
            assert answer.status_code == 413
            assert "1.5 MiB" in answer.json()["error"]["message"]
        assert client.get("/api/datasets", headers=person.headers).json()["data"] == []
    assert uploads(settings) == []


def test_an_upload_without_a_name_is_refused(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    for query in ("", "?name=", "?name=%20"):
        answer = client.post(f"/api/datasets{query}", content=LINE, headers=person.headers)
        assert answer.status_code == 422
        assert answer.json()["error"]["fields"][0]["field"] == "name"
    assert uploads(platform.settings) == []


def test_an_upload_without_a_key_stores_nothing(client: TestClient, platform: Platform) -> None:
    assert client.post("/api/datasets?name=x", content=LINE).status_code == 401
    assert client.get(f"/api/datasets/{uuid4()}").status_code == 401
    assert uploads(platform.settings) == []


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
    for _ in range(2):
        assert client.get(path, headers=person.headers).status_code == 404
    left = client.get("/api/datasets", headers=person.headers).json()["data"]
    assert [each["id"] for each in left] == [str(free)]
    again = client.post("/api/jobs", json=job, headers=person.headers)
    assert (again.status_code, again.json()["error"]["field"]) == (404, "dataset")
