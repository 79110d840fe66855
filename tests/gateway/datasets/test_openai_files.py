"""Files under /v1, through the real client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import openai
import psycopg
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from domain.core.event_log import EventLog
from gateway.datasets import openai as files
from gateway.datasets.upload_form import UNNAMED
from gateway.http import openai_idempotency as idempotency
from gateway.http.openai_vocabulary import dataset_of
from infrastructure.accounts.profiles import dataset_names, delete_dataset_name
from infrastructure.postgres.store import connect
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import ClientOf
from tests.openai_objects import whole
from tests.services.datasets.uploads import VALID

FILE = ("chats.jsonl", VALID)
FORM = [("purpose", (None, b"fine-tune")), ("file", FILE)]
KEY = {"idempotency-key": "once"}
RETRY = {"x-stainless-retry-count": "1"}

Upload = Callable[..., str]


@pytest.fixture
def person(platform: Platform) -> Person:
    return platform.person()


@pytest.fixture
def mine(client_of: ClientOf, person: Person) -> OpenAI:
    """The client of a person."""
    return client_of(person)


@pytest.fixture
def upload(mine: OpenAI) -> Upload:
    """Uploads a file of that person, and returns its ID."""

    def uploaded(content: bytes = VALID, headers: dict[str, str] | None = None) -> str:
        file = ("chats.jsonl", content)
        return mine.files.create(file=file, purpose="fine-tune", extra_headers=headers).id

    return uploaded


@pytest.fixture
def stranger(client_of: ClientOf, platform: Platform) -> OpenAI:
    """The client of another account."""
    return client_of(platform.person())


def test_a_file_is_uploaded_listed_read_and_deleted(mine: OpenAI) -> None:
    file = whole(mine.files.create(file=FILE, purpose="fine-tune"))
    assert (file.filename, file.bytes, file.status) == ("chats.jsonl", len(VALID), "uploaded")
    assert whole(mine.files.retrieve(file.id)) == file
    assert mine.files.content(file.id).content == VALID
    assert [whole(each) for each in mine.files.list(purpose="fine-tune")] == [file]
    assert list(mine.files.list(purpose="fine-tune-results")) == []
    assert list(mine.files.list(purpose="batch")) == []
    assert whole(mine.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        mine.files.retrieve(file.id)


def test_another_accounts_file_is_not_found(upload: Upload, stranger: OpenAI) -> None:
    file = upload()
    for ask in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        for name in (file, "file-none", file.removeprefix("file-")):
            with pytest.raises(openai.NotFoundError):
                ask(name)
    for name in (file, "file-none"):
        with pytest.raises(openai.BadRequestError) as refused:
            stranger.files.list(after=name)
        assert refused.value.param == "after"
    assert list(stranger.files.list()) == []


def test_pages_have_all_files_once_and_in_order(
    mine: OpenAI, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [upload() for _ in range(3)]
    first = mine.files.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)
    assert [each.id for each in first] == made[::-1], "the client requests the other pages"
    assert [each.id for each in mine.files.list(limit=2, order="asc")] == made
    monkeypatch.setattr(files, "PAGE_SIZE", 2)
    assert mine.files.list().data == first.data


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_files_can_be_deleted_while_they_are_listed(
    mine: OpenAI, upload: Upload, order: Literal["asc", "desc"]
) -> None:
    made = [upload() for _ in range(5)]
    listed = mine.files.list(limit=2, order=order)
    assert sorted(mine.files.delete(file.id).id for file in listed) == sorted(made)


def test_a_rejected_file_has_its_errors(mine: OpenAI, platform: Platform, upload: Upload) -> None:
    name = upload(b"{}\n" * 9)
    platform.validate_upload(dataset_of(name))
    platform.project()
    shown = whole(mine.files.retrieve(name))
    assert shown.status == "error"
    assert shown.status_details is not None
    assert shown.status_details.startswith("line 1: ")
    assert "; line 2: " in shown.status_details
    assert shown.status_details.endswith("and 6 more")
    assert mine.files.content(name).content == b"{}\n" * 9
    platform.artifacts.delete_directory("datasets")
    (deleted,) = mine.files.list().data
    assert (deleted.status, deleted.status_details) == ("error", None), "it was deleted just now"


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("purpose", (None, b"batch")), ("file", FILE)], "purpose"),
        ([("file", FILE), ("purpose", (None, b"batch"))], "purpose"),
        ([("purpose", (None, b"fine-tune"))], "file"),
        ([*FORM, ("expires_after[anchor]", (None, b"created_at"))], "expires_after"),
        ([], None),
    ],
)
def test_a_form_that_is_refused_leaves_nothing(
    client: TestClient, platform: Platform, person: Person, parts: list[Any], param: str | None
) -> None:
    refused = client.post("/v1/files", files=parts, headers=person.headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert platform.artifacts.list("uploads") == []


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'filename="a\xffb\x00.jsonl"', "a\ufffdb.jsonl"),
        (b"filename*=unicode_escape''a%5Cud800b.jsonl", UNNAMED),  # RFC 7578 has no such names
    ],
)
def test_characters_that_cannot_be_stored_are_removed_from_a_name(
    client: TestClient, person: Person, disposition: bytes, name: str
) -> None:
    head = b"--b\r\nContent-Disposition: form-data; name="
    body = head + b"purpose\r\n\r\nfine-tune\r\n"
    body += head + b"file; " + disposition + b"\r\n\r\n" + VALID + b"\r\n--b--\r\n"
    headers = person.headers | {"content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/files", content=body, headers=headers)
    assert (answer.status_code, answer.json()["filename"]) == (200, name)


@pytest.mark.parametrize(("module", "name"), [(idempotency, "give_key"), (EventLog, "find")])
def test_an_upload_that_the_database_never_knew_is_not_kept(
    late_client: TestClient,
    platform: Platform,
    person: Person,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
) -> None:
    def away(*_: object) -> None:
        raise psycopg.OperationalError("away")

    with monkeypatch.context() as broken:
        broken.setattr(module, name, away)
        answer = late_client.post("/v1/files", files=FORM, headers=person.headers)
    assert answer.status_code == 503
    assert platform.artifacts.list("uploads") == []


def test_the_key_of_a_deleted_file_does_not_restore_its_name(
    mine: OpenAI, platform: Platform, upload: Upload
) -> None:
    file = upload(headers=KEY)
    mine.files.delete(file)
    with connect(platform.settings) as connection:
        delete_dataset_name(connection, dataset_of(file))
        with pytest.raises(openai.ConflictError):
            upload(headers=KEY)
        assert dataset_names(connection, [dataset_of(file)]) == {}


def test_a_retried_upload_is_one_file(platform: Platform, upload: Upload) -> None:
    first, second = upload(), upload()
    assert first != second
    assert upload(headers=RETRY) == second
    keyed = upload(headers=KEY)
    assert upload(headers=KEY) == keyed
    with pytest.raises(openai.ConflictError):
        upload(VALID * 2, KEY)
    assert len(platform.artifacts.list("uploads")) == 3


def test_a_retry_long_after_an_equal_upload_is_another(platform: Platform, upload: Upload) -> None:
    old = upload()
    with connect(platform.settings) as connection:
        connection.execute("UPDATE request_keys SET asked_at = asked_at - interval '15 minutes'")
    retried = upload(headers=RETRY)
    assert retried != old
    assert upload(headers=RETRY) == retried
