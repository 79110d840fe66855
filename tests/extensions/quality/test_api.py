"""Quality reports, filters and comparisons, through the APIs and the pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from psycopg_pool import ConnectionPool

from domain.datasets.dataset import DatasetStatus
from extensions.quality.domain.quality_report import QualityReport
from extensions.quality.service import filtered_name
from extensions.quality.view import marked
from extensions.quality.warnings import contamination_warnings
from gateway.datasets import uploads
from infrastructure.postgres.store import Connection
from tests.builders.planted import Writer, line_of
from tests.builders.platform import Person, Platform
from tests.extensions.quality.conftest import QualityService
from tests.gateway.conftest import ClientOf
from tests.gateway.datasets.conftest import Pages

pytestmark = pytest.mark.usefixtures("analyses_in_this_process")

CHATS = [Writer(seed).chat() for seed in range(20, 32)]
MAIL = "jane.doe@example.com"

Call = Callable[..., Any]


def content_of(chats: list[list[str]]) -> bytes:
    return b"".join(line_of(chat) + b"\n" for chat in chats)


NEAR = [CHATS[0][0], CHATS[0][1].replace(".", "!", 1)]
TRAIN = content_of([CHATS[0], NEAR, *CHATS[1:9], [f"Write to {MAIL}.", CHATS[9][1]]])
VALIDATION = content_of([CHATS[3], CHATS[10], CHATS[11]])


@pytest.fixture
def person(platform: Platform) -> Person:
    return platform.person()


@pytest.fixture
def call(client: TestClient, person: Person) -> Call:
    """Sends a request below /api/datasets, and returns the status and the JSON."""

    def called(method: str, path: str, key: str | None = None, **sent: Any) -> tuple[int, Any]:
        headers = person.headers | ({"idempotency-key": key} if key else {})
        answer = client.request(method, f"/api/datasets{path}", headers=headers, **sent)
        return answer.status_code, answer.json()

    return called


@pytest.mark.full
def test_a_report_filters_and_comparisons_through_the_api(
    call: Call, client_of: ClientOf, person: Person, service: QualityService
) -> None:
    train = service.upload(TRAIN, person.account_id)
    validation = service.upload(VALIDATION, person.account_id)
    assert call("GET", f"/{train}/quality")[0] == 409
    service.catch_up()
    status, waiting = call("GET", f"/{train}/quality")
    assert (status, "still analyzing" in waiting["error"]["message"]) == (409, True)
    service.analyze()
    _, report = call("GET", f"/{train}/quality")
    found = {each["kind"]: each for each in report["findings"]}
    assert found["near_duplicate"]["lines"] == [2]
    assert found["email_address"]["lines"] == [11]
    (personal,) = found["email_address"]["samples"]
    assert MAIL not in personal["excerpt"]
    assert MAIL in personal["before"]
    assert "[EMAIL_ADDRESS]" in personal["after"]
    assert found["near_duplicate"]["samples"][0]["excerpt"].startswith(CHATS[0][0][:20])
    blind = QualityReport(**report).without_excerpts()
    assert MAIL not in str(blind)
    assert CHATS[0][0][:20] not in blind.model_dump_json()
    assert blind.counts == QualityReport(**report).counts
    _, shown = call("GET", f"/{train}")
    assert (shown["analyzed"], shown["findings"]["near_duplicate"]) == (11, 1)

    path = f"/{train}/contamination?validation_dataset={validation}"
    assert call("GET", path)[1] == {"state": "waiting", "result": None}
    service.compare()
    _, compared = call("GET", path)
    assert (compared["state"], compared["result"]["exact"], compared["result"]["lines"]) == (
        "done", 1, [5]
    )  # fmt: skip
    assert call("GET", f"/{train}/contamination?validation_dataset={train}")[0] == 422

    filters = {"near_duplicates": True, "personal_data": "mask", "contaminates": str(validation)}
    body = {"filters": filters, "name": "clean"}
    status, new = call("POST", f"/{train}/filters", key="one", json=body)
    assert status == 202
    assert (new["parent"], new["name"], new["status"]) == (str(train), "clean", "validating")
    assert new["filters"]["contaminates"] == str(validation)
    assert call("POST", f"/{train}/filters", key="one", json=body)[1]["id"] == new["id"]
    assert call("POST", f"/{train}/filters", json={"filters": {}})[0] == 422
    wrong = {"filters": {"languages": ["english"]}}
    assert "ISO 639-1" in str(call("POST", f"/{train}/filters", json=wrong)[1])
    assert call("POST", f"/{new['id']}/filters", json=body)[0] == 409
    service.catch_up()
    _, new = call("GET", f"/{new['id']}")
    assert (new["status"], new["examples"]) == ("ready_for_training", 9)
    assert (
        call("POST", f"/{new['id']}/columns", json={"columns": {"messages": "messages"}})[0] == 409
    )
    files = client_of(person).files
    content = files.content(f"file-{UUID(new['id']).hex}").content
    assert content.count(b"\n") == 9
    assert MAIL.encode() not in content
    assert b"[EMAIL_ADDRESS]" in content

    _, versions = call("GET", f"/{new['id']}/versions")
    assert [each["id"] for each in versions["data"]] == [str(train), new["id"]]
    difference = f"/{new['id']}/difference"
    assert call("GET", difference)[1]["state"] == "waiting"
    service.compare()
    _, found = call("GET", difference)
    assert found["base"] == str(train)
    counts = [found["result"][name] for name in ("unchanged", "added", "removed", "changed")]
    assert counts == [8, 0, 2, 1]
    assert call("GET", f"/{train}/difference")[0] == 422


def test_filtered_versions_have_different_names(
    call: Call, person: Person, service: QualityService
) -> None:
    dataset_id = service.upload(TRAIN, person.account_id)
    service.catch_up()
    names = [
        call("POST", f"/{dataset_id}/filters", json={"filters": {"min_characters": least}})[1]
        for least in (1, 2)
    ]
    assert [each["name"] for each in names] == ["dataset (filtered)", "dataset (filtered 2)"]
    assert filtered_name("dataset (filtered 2)", []) == "dataset (filtered)"


@pytest.mark.full
def test_a_repeated_request_returns_the_version_after_the_deletion_of_its_parent(
    call: Call, person: Person, service: QualityService
) -> None:
    parent = service.upload(TRAIN, person.account_id)
    service.catch_up()
    filters = {"filters": {"near_duplicates": True}}
    columns = {"columns": {"messages": "messages"}, "name": "other columns"}
    requests = [("filters", filters), ("columns", columns)]
    made = [call("POST", f"/{parent}/{path}", key=path, json=body) for path, body in requests]
    assert [status for status, _ in made] == [202, 202]
    service.catch_up()
    service.delete(parent)
    service.catch_up()
    for (path, body), (_, version) in zip(requests, made, strict=True):
        status, again = call("POST", f"/{parent}/{path}", key=path, json=body)
        assert (status, again["id"], again["name"]) == (202, version["id"], version["name"])
        assert call("POST", f"/{parent}/{path}", json=body)[0] in (404, 409)
    other = {"filters": {"near_duplicates": True, "similarity": 0.8}}
    status, problem = call("POST", f"/{parent}/filters", key="filters", json=other)
    assert (status, problem["error"]["code"]) == (409, "idempotency_key_reused")


def test_errors_of_filters_name_the_field_the_value_and_a_fix(
    call: Call,
    person: Person,
    service: QualityService,
    pages: Pages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = service.upload(TRAIN, person.account_id)
    service.catch_up()
    itself = {"filters": {"contaminates": str(parent)}}
    _, problem = call("POST", f"/{parent}/filters", json=itself)
    assert problem["error"]["field"] == "filters.contaminates"
    assert str(parent) in problem["error"]["message"]
    _, problem = call("GET", f"/{parent}/difference?base={parent}")
    assert (problem["error"]["field"], str(parent) in problem["error"]["message"]) == ("base", True)
    monkeypatch.setattr(uploads, "room_for_upload", lambda *_: 7)
    status, problem = call(
        "POST", f"/{parent}/filters", json={"filters": {"near_duplicates": True}}
    )
    assert status == 429
    assert "7 bytes left. Delete datasets" in problem["error"]["message"]
    own = service.upload(TRAIN, pages.browser.person.account_id)
    service.catch_up()
    answer = pages.browser.client.post(
        f"/datasets/{own}/filters", data={"similarity": "0.2"}, headers=pages.browser.htmx
    )
    assert "Similarity" in answer.text
    assert "0.2" in answer.text


@pytest.mark.full
def test_the_pages_show_findings_filters_versions_and_changes(
    pages: Pages, service: QualityService, pool: ConnectionPool[Connection]
) -> None:
    person = pages.browser.person
    train = service.upload(TRAIN, person.account_id)
    other = service.upload(VALIDATION, person.account_id)
    service.catch_up()
    assert "Analyzing the examples" in pages.open(f"/{train}")
    service.analyze()
    html = pages.open(f"/{train}")
    assert 'data-finding="near_duplicate"' in html
    assert "Line 2, like line 1" in html
    assert f"Write to {MAIL}.</q> → <q>Write to [EMAIL_ADDRESS].</q>" in html
    assert f'<option value="{other}"' in html
    assert html.count('class="histogram is-small"') == 3

    form = {"near_duplicates": "true", "personal_data": "mask", "key": "k", "name": "clean"}
    headers = pages.browser.htmx
    answer = pages.browser.client.post(f"/datasets/{train}/filters", data=form, headers=headers)
    assert answer.status_code == 200
    location = answer.headers["hx-redirect"]
    new_id = UUID(location.rpartition("/")[2])
    service.catch_up()
    assert service.dataset(new_id).status is DatasetStatus.READY_FOR_TRAINING
    html = pages.open(f"/{new_id}")
    assert "Removes near-duplicates. Masks personal data." in html
    assert "Change columns" not in html
    assert f'href="/datasets/{new_id}/difference?base={train}"' in html
    assert "Comparing…" in pages.open(f"/{new_id}/difference?base={train}")
    assert "Comparing…" in pages.open(
        f"/{train}/contamination?validation_dataset={other}", part=True
    )
    service.compare()
    html = pages.open(f"/{new_id}/difference?base={train}", part=True)
    assert 'data-change="removed"' in html
    assert "[EMAIL_ADDRESS]" in html
    html = pages.open(f"/{train}/contamination?validation_dataset={other}", part=True)
    assert 'data-affected="1"' in html
    wrong = pages.browser.client.post(
        f"/datasets/{train}/filters", data={"min_characters": "x"}, headers=headers
    )
    assert "hx-redirect" not in wrong.headers
    assert "min_characters" in wrong.text
    assert "data-parent" in pages.open(f"?parent={train}")


@pytest.mark.full
def test_a_quote_warns_about_near_duplicates_and_shared_examples(
    client: TestClient, platform: Platform, person: Person, service: QualityService
) -> None:
    platform.base_model()
    train = service.upload(TRAIN, person.account_id)
    validation = service.upload(VALIDATION, person.account_id)
    service.catch_up()
    service.analyze()
    for dataset_id in (train, validation):
        platform.count(dataset_id)
    body = {"dataset": str(train), "base_model": "tiny"}

    def quoted(**more: str) -> list[str]:
        platform.project()
        answer = client.post("/api/estimates", json=body | more, headers=person.headers)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()["dataset_warnings"]) <= set(answer.json()["warnings"])
        return answer.json()["dataset_warnings"]

    (alone,) = quoted()
    assert "1 example of the dataset (9%) is nearly equal" in alone
    assert "held-out loss" in alone
    assert len(quoted(validation_dataset=str(validation))) == 1
    service.compare()
    near, shared = quoted(validation_dataset=str(validation))
    assert "held-out loss" not in near
    assert "1 example of the validation dataset is also in the training dataset" in shared


def test_datasets_without_shared_examples_cause_no_warning() -> None:
    assert contamination_warnings(None) == []
    assert contamination_warnings({"affected": 0, "exact": 0, "near": 0}) == []


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("call 1 2 now", "call [P] now", (["1 2"], ["[P]"])),
        ("a b", "a b c", ([], [" c"])),
        ("a b c…", "a x c d…", (["b"], ["x"])),
        (None, "a", ([], [])),
        ("a", None, ([], [])),
    ],
)
def test_the_different_words_of_two_texts_are_marked(
    old: str | None, new: str | None, parts: tuple[list[str], list[str]]
) -> None:
    found = marked(old, new)
    assert tuple([text for text, differs in side if differs] for side in found) == parts
    assert ["".join(text for text, _ in side) for side in found] == [old or "", new or ""]
