"""Files under /v1, through the real client."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import psycopg
import pytest
from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from gateway.app import create_app
from gateway.datasets import openai as files
from gateway.datasets.upload_form import UNNAMED
from gateway.http import openai_idempotency as idempotency
from gateway.http.openai_vocabulary import dataset_of
from infrastructure.artifacts import Artifacts
from infrastructure.profiles import dataset_names, delete_dataset_name
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.builders.platform import Platform
from tests.gateway.conftest import ClientOf
from tests.openai_objects import whole

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
FILE = ("chats.jsonl", LINE)


def stored(settings: Settings) -> list[str]:
    return Artifacts(settings.artifacts).list("uploads")


def test_a_file_is_uploaded_listed_read_and_deleted(
    client_of: ClientOf, platform: Platform
) -> None:
    client = client_of(platform.person())
    file = whole(client.files.create(file=FILE, purpose="fine-tune"))
    assert (file.filename, file.bytes, file.status) == ("chats.jsonl", len(LINE), "uploaded")
    assert whole(client.files.retrieve(file.id)) == file
    assert client.files.content(file.id).content == LINE
    assert [whole(each) for each in client.files.list(purpose="fine-tune")] == [file]
    assert list(client.files.list(purpose="fine-tune-results")) == []

    assert whole(client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_another_accounts_file_is_not_found(client_of: ClientOf, platform: Platform) -> None:
    file = client_of(platform.person()).files.create(file=FILE, purpose="fine-tune")
    stranger = client_of(platform.person())
    for ask in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        for name in (file.id, "file-none", file.id.removeprefix("file-")):
            with pytest.raises(openai.NotFoundError):
                ask(name)
    assert list(stranger.files.list()) == []


def test_pages_have_all_files_once_and_in_order(client_of: ClientOf, platform: Platform) -> None:
    client = client_of(platform.person())
    made = [client.files.create(file=FILE, purpose="fine-tune").id for _ in range(5)]
    first = client.files.list(limit=2)
    assert first.has_more
    assert [each.id for each in first] == made[::-1], "the client asks for the other pages itself"
    assert [each.id for each in client.files.list(limit=2, order="asc")] == made
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.list(after="file-none")
    assert refused.value.param == "after"


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_files_can_be_deleted_while_they_are_listed(
    client_of: ClientOf, platform: Platform, order: Literal["asc", "desc"]
) -> None:
    client = client_of(platform.person())
    made = {client.files.create(file=FILE, purpose="fine-tune").id for _ in range(5)}
    deleted: list[str] = []
    for file in client.files.list(limit=2, order=order):
        deleted.append(client.files.delete(file.id).id)
    assert (set(deleted), len(deleted)) == (made, 5)
    stranger = client_of(platform.person())
    with pytest.raises(openai.BadRequestError):
        stranger.files.list(after=deleted[0])


def test_a_page_of_files_has_its_most(
    client_of: ClientOf, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PAGE_SIZE", 2)
    client = client_of(platform.person())
    made = [client.files.create(file=FILE, purpose="fine-tune").id for _ in range(3)]
    first = client.files.list()
    assert (len(first.data), first.has_more) == (2, True)
    assert [each.id for each in first] == made[::-1]


def test_a_rejected_file_has_its_errors(client_of: ClientOf, platform: Platform) -> None:
    person = platform.person()
    client = client_of(person)
    file = client.files.create(file=FILE, purpose="fine-tune")
    report = {"status": "rejected", "examples": 0, "duplicates": 0, "lines": 9, "bytes": 100}
    errors = [{"line": n, "code": "invalid_json", "message": "it is no JSON"} for n in range(1, 6)]
    Artifacts(platform.settings.artifacts).put(
        "datasets/y/report.json",
        json.dumps(report | {"warnings": [], "errors": errors, "error_count": 9}).encode(),
    )
    with because(platform.cause):
        dataset = platform.log.load(Dataset, dataset_of(file.id))
        dataset.reject(9, "datasets/y/report.json")
        platform.log.commit(dataset)
    platform.project()
    shown = whole(client.files.retrieve(file.id))
    assert shown.status == "error"
    assert shown.status_details is not None
    assert shown.status_details.startswith("line 1: ")
    assert "; line 2: " in shown.status_details
    assert shown.status_details.endswith("and 6 more")
    with pytest.raises(openai.ConflictError):
        client.files.content(file.id)
    Artifacts(platform.settings.artifacts).delete("datasets/y/report.json")
    (deleted,) = client.files.list().data
    assert (deleted.status, deleted.status_details) == ("error", None), "it was deleted just now"


@pytest.mark.parametrize("first", ["purpose", "file"])
def test_a_form_that_is_refused_leaves_nothing(
    client: TestClient, platform: Platform, first: str
) -> None:
    person = platform.person()
    parts = [("purpose", (None, b"batch")), ("file", FILE)]
    parts.sort(key=lambda part: part[0] != first)
    refused = client.post("/v1/files", files=parts, headers=person.headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "purpose")
    no_file = client.post(
        "/v1/files", files=[("purpose", (None, b"fine-tune"))], headers=person.headers
    )
    assert (no_file.status_code, no_file.json()["error"]["param"]) == (400, "file")
    no_form = client.post("/v1/files", content=LINE, headers=person.headers)
    assert no_form.status_code == 400
    assert stored(platform.settings) == []


def test_a_file_that_shall_expire_is_refused(client_of: ClientOf, platform: Platform) -> None:
    files = client_of(platform.person()).files
    with pytest.raises(openai.BadRequestError) as refused:
        files.create(
            file=FILE,
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert refused.value.param == "expires_after"


def test_a_file_over_the_limit_leaves_nothing(platform: Platform, projecting: None) -> None:
    settings = platform.settings.model_copy(update={"dataset_max_bytes": 100_000})
    person = platform.person()
    with TestClient(create_app(settings)) as client:
        for size in (100_001, 200_000):
            answer = client.post(
                "/v1/files",
                files=[("purpose", (None, b"fine-tune")), ("file", ("a", b"x" * size))],
                headers=person.headers,
            )
            assert answer.status_code == 413
    assert stored(settings) == []


def test_characters_that_cannot_be_stored_are_removed_from_a_name(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()

    def upload(disposition: bytes) -> Any:
        head = b"--b\r\nContent-Disposition: form-data; name="
        body = head + b"purpose\r\n\r\nfine-tune\r\n"
        body += head + b"file; " + disposition + b"\r\n\r\n" + LINE + b"\r\n--b--\r\n"
        headers = person.headers | {"content-type": "multipart/form-data; boundary=b"}
        return client.post("/v1/files", content=body, headers=headers)

    kept = upload(b'filename="a\xffb\x00.jsonl"')
    assert (kept.status_code, kept.json()["filename"]) == (200, "a\ufffdb.jsonl")
    unnamed = upload(b"filename*=unicode_escape''a%5Cud800b.jsonl")  # RFC 7578 has no such names
    assert (unnamed.status_code, unnamed.json()["filename"]) == (200, UNNAMED)


def test_an_upload_that_the_database_never_knew_is_not_kept(
    late_client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = platform.person()

    def away(*_: object) -> None:
        raise psycopg.OperationalError("away")

    form = [("purpose", (None, b"fine-tune")), ("file", FILE)]
    for module, function in ((idempotency, "give_key"), (EventLog, "find")):
        with monkeypatch.context() as broken:
            broken.setattr(module, function, away)
            answer = late_client.post("/v1/files", files=form, headers=person.headers)
        assert answer.status_code == 503
    assert stored(platform.settings) == []


def test_the_key_of_a_deleted_file_brings_back_no_name(
    client_of: ClientOf, platform: Platform
) -> None:
    client = client_of(platform.person())
    key = {"idempotency-key": "once"}
    file = client.files.create(file=FILE, purpose="fine-tune", extra_headers=key)
    client.files.delete(file.id)
    with connect(platform.settings) as connection:
        delete_dataset_name(connection, dataset_of(file.id))
        with pytest.raises(openai.ConflictError):
            client.files.create(file=FILE, purpose="fine-tune", extra_headers=key)
        assert dataset_names(connection, [dataset_of(file.id)]) == {}


def test_a_retry_long_after_an_equal_upload_is_another(
    client_of: ClientOf, platform: Platform
) -> None:
    client = client_of(platform.person())
    again = {"x-stainless-retry-count": "1"}

    def upload(headers: dict[str, str]) -> str:
        return client.files.create(file=FILE, purpose="fine-tune", extra_headers=headers).id

    old = upload({})
    with connect(platform.settings) as connection:
        connection.execute("UPDATE request_keys SET asked_at = asked_at - interval '15 minutes'")
    retried = upload(again)
    assert retried != old
    assert upload(again) == retried


def test_a_retried_upload_is_one_file(client_of: ClientOf, platform: Platform) -> None:
    client = client_of(platform.person())

    def upload(headers: dict[str, str], content: bytes = LINE) -> str:
        file = ("a", content)
        return client.files.create(file=file, purpose="fine-tune", extra_headers=headers).id

    first, second = upload({}), upload({})
    assert first != second
    assert upload({"x-stainless-retry-count": "1"}) == second
    keyed = upload({"idempotency-key": "once"})
    assert upload({"idempotency-key": "once"}) == keyed
    with pytest.raises(openai.ConflictError):
        upload({"idempotency-key": "once"}, LINE * 2)
    assert len(stored(platform.settings)) == 3
