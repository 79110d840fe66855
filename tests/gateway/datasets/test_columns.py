"""Columns of datasets: chosen at the upload, shown, and changed in a new dataset."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.datasets.columns import Role
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import ClientOf
from tests.gateway.datasets.conftest import Pages
from tests.services.datasets.formats import jsonl, table

ROWS = [
    {"id": str(number), "q": f"Question {number}?", "a": f"Answer {number}.", "note": "x"}
    for number in range(5)
]
TABLE = table(ROWS)
CHOSEN = {"user": "q", "assistant": "a"}

Call = Callable[..., Any]


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


@pytest.fixture
def rejected(platform: Platform, person: Person) -> UUID:
    """A dataset whose columns EcoLink cannot guess."""
    dataset_id = platform.upload(person.account_id, TABLE)
    platform.validate_upload(dataset_id)
    platform.project()
    assert platform.log.load(Dataset, dataset_id).status is DatasetStatus.REJECTED
    return dataset_id


def examples(platform: Platform, dataset_id: UUID) -> list[Any]:
    """Return the messages of a dataset after its validation."""
    platform.validate_upload(dataset_id)
    platform.project()
    dataset = platform.log.load(Dataset, dataset_id)
    assert dataset.status is DatasetStatus.READY_FOR_TRAINING
    lines = platform.artifacts.get(dataset.ref).splitlines()
    return [json.loads(line)["messages"] for line in lines]


def messages(row: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]


def test_columns_are_chosen_at_the_upload(
    call: Call, client_of: ClientOf, person: Person, platform: Platform
) -> None:
    params = {"name": "faq", "columns": json.dumps(CHOSEN)}
    status, uploaded = call("POST", "", params=params, content=TABLE)
    assert status == 202
    create = client_of(person).files.create
    file = create(file=("faq.csv", TABLE), purpose="fine-tune", extra_body={"columns": CHOSEN})
    for name in (uploaded["id"], file.id.removeprefix("file-")):
        assert examples(platform, UUID(name)) == [messages(row) for row in ROWS]
    _, report = call("GET", f"/{uploaded['id']}/report")
    assert (report["format"], report["unit"]) == ("CSV", "row")
    assert (report["columns"], report["columns_chosen"]) == (CHOSEN, True)
    assert [each["code"] for each in report["warnings"]] == ["unused_columns"]
    _, shown = call("GET", f"/{uploaded['id']}/columns")
    assert set(shown["unused"]) == set(shown["names"]) - set(CHOSEN.values()) != set()


@pytest.mark.parametrize(
    "columns",
    [
        *("user", '["q"]', "{}", '{"user": "q"}', '{"user": "q", "assistant": "q"}'),
        *('{"role": "q"}', '{"messages": "q", "user": "a"}', '{"user": 5, "assistant": "a"}'),
        '{"user": "", "assistant": "a"}',
    ],
)
def test_unusable_columns_are_refused(call: Call, platform: Platform, columns: str) -> None:
    status, answer = call("POST", "", params={"name": "faq", "columns": columns}, content=TABLE)
    assert (status, answer["error"]["field"]) == (422, "columns")
    assert platform.artifacts.list("uploads") == []


def test_other_columns_make_a_new_dataset(call: Call, rejected: UUID, platform: Platform) -> None:
    _, shown = call("GET", f"/{rejected}/columns")
    assert shown["names"] == ["id", "q", "a", "note"]
    assert (shown["columns"], shown["chosen"]) == ({}, False)
    assert [row["row"] for row in shown["rows"]] == [1, 2, 3]
    assert [row["values"] for row in shown["rows"]] == ROWS[:3]
    assert "User's text (user) and Answer (assistant)" in shown["problem"]
    assert not any(row["problem"] for row in shown["rows"])
    wanted = {"columns": CHOSEN}
    status, new = call("POST", f"/{rejected}/columns", key="once", json=wanted)
    assert (status, new["parent"], new["status"]) == (202, str(rejected), "validating")
    assert call("POST", f"/{rejected}/columns", key="once", json=wanted)[1]["id"] == new["id"]
    assert len(platform.artifacts.list("uploads")) == 3, "two uploads, and the chosen columns"
    other = {"columns": CHOSEN | {"system": "note"}}
    assert call("POST", f"/{rejected}/columns", key="once", json=other)[0] == 409
    assert examples(platform, UUID(new["id"])) == [messages(row) for row in ROWS]
    _, shown = call("GET", f"/{new['id']}/columns")
    assert (shown["columns"], shown["chosen"]) == (CHOSEN, True)
    assert shown["rows"][0]["messages"] == messages(ROWS[0])
    events = platform.log.recorder.select_notifications(start=1, limit=1000)
    assert not any(b"Question" in each.state or b'"q"' in each.state for each in events)


def test_a_generated_dataset_with_other_columns_is_a_version_of_it(
    call: Call, person: Person, platform: Platform
) -> None:
    generated = uuid4()
    platform.artifacts.put("uploads/made", TABLE)
    with because(platform.cause):
        options = UploadOptions(synthesis_id=uuid4())
        sha256 = hashlib.sha256(TABLE).hexdigest()
        file = ("uploads/made", sha256, len(TABLE))
        platform.log.commit(Dataset.uploaded(generated, person.account_id, *file, options))
    platform.validate_upload(generated)
    platform.project()
    _, new = call("POST", f"/{generated}/columns", json={"columns": CHOSEN})
    assert (new["parent"], new["synthesis_id"]) == (str(generated), None)


def test_the_new_dataset_outlives_the_existing_one(
    call: Call, client: TestClient, person: Person, rejected: UUID, platform: Platform
) -> None:
    _, new = call("POST", f"/{rejected}/columns", json={"columns": CHOSEN})
    path = f"/api/datasets/{rejected}"
    assert client.delete(path, headers=person.headers).status_code == 204
    platform.artifacts.delete(platform.log.load(Dataset, rejected).upload_ref)
    assert examples(platform, UUID(new["id"])) == [messages(row) for row in ROWS]


def test_columns_that_the_file_lacks_are_refused(call: Call, rejected: UUID) -> None:
    wanted = {"columns": {"user": "q", "assistant": "missing"}}
    status, answer = call("POST", f"/{rejected}/columns", json=wanted)
    assert (status, answer["error"]["field"]) == (422, "columns")
    assert "'missing'" in answer["error"]["message"]


def test_a_dataset_without_its_file_keeps_its_columns(
    call: Call, rejected: UUID, platform: Platform
) -> None:
    """EcoLink 0.1 deleted rejected uploads, and stored no first rows."""
    dataset = platform.log.load(Dataset, rejected)
    platform.artifacts.delete(dataset.upload_ref)
    platform.artifacts.delete(f"{dataset.home}/sample.json")
    assert call("GET", f"/{rejected}/columns")[1]["rows"] == []
    status, answer = call("POST", f"/{rejected}/columns", json={"columns": CHOSEN})
    assert (status, answer["error"]["code"]) == (409, "wrong_state")


def test_a_dataset_in_validation_and_a_strangers_one_have_no_columns(
    call: Call, person: Person, platform: Platform
) -> None:
    waiting = platform.upload(person.account_id, TABLE)
    theirs = platform.upload(platform.person().account_id, TABLE)
    platform.validate_upload(theirs)
    platform.project()
    for dataset_id, expected in ((waiting, 409), (theirs, 404)):
        assert call("GET", f"/{dataset_id}/columns")[0] == expected
        wanted = {"columns": CHOSEN}
        assert call("POST", f"/{dataset_id}/columns", json=wanted)[0] == expected


def test_the_page_changes_columns_after_a_preview(pages: Pages, platform: Platform) -> None:
    dataset_id = platform.upload(pages.browser.person.account_id, TABLE)
    platform.validate_upload(dataset_id)
    html = pages.open(f"/{dataset_id}")
    assert f'href="/datasets/{dataset_id}/columns"' in html
    assert 'data-code="unknown_columns"' in html
    assert "EcoLink cannot tell which columns to use." in html
    assert "Fix it and upload the file again" not in html
    assert "Choose columns</a>" in html
    html = pages.open(f"/{dataset_id}/columns")
    assert html.count("<option>note</option>") == len(Role)
    assert html.count("data-problem") == 1
    assert "Answer 2." in html
    preview = pages.open(f"/{dataset_id}/columns?user=q&assistant=a&system=", part=True)
    assert "Answer 2." in preview
    assert "Answer 3." not in preview
    assert "data-unused" in preview
    assert "<code>note</code>" in preview
    half = pages.open(f"/{dataset_id}/columns?user=q", part=True)
    assert re.search(r"data-problem>No column is chosen for Answer \(assistant\)\.", half)
    assert "Answer 2." in half, "a user needs the values for the choice"
    answer = pages.browser.client.post(
        f"/datasets/{dataset_id}/columns",
        data={"user": "q", "assistant": "a", "name": "faq", "key": "k"},
        headers=pages.browser.htmx,
    )
    new = UUID(answer.headers["hx-redirect"].rpartition("/")[2])
    assert examples(platform, new) == [messages(row) for row in ROWS]
    html = pages.open(f"/{new}")
    assert 'data-role="user"' in html
    assert f'href="/datasets/{dataset_id}"' in html


def test_a_problem_of_all_rows_appears_once(pages: Pages, platform: Platform) -> None:
    dataset_id = platform.upload(pages.browser.person.account_id, TABLE)
    platform.validate_upload(dataset_id)
    preview = pages.open(f"/{dataset_id}/columns?user=q&assistant=a&tools=note", part=True)
    assert preview.count("field-problem") == 1
    assert "Answer 2." in preview


def test_a_copy_needs_room_in_the_quota(
    call: Call, rejected: UUID, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.datasets.uploads.room_for_upload", lambda *_: len(TABLE) - 1)
    status, answer = call("POST", f"/{rejected}/columns", json={"columns": CHOSEN})
    assert (status, answer["error"]["code"]) == (429, "quota_exceeded")
    assert len(platform.artifacts.list("uploads")) == 1


def test_a_key_that_only_a_late_row_has_can_be_chosen(
    platform: Platform, person: Person, call: Call
) -> None:
    rows = [{"q": f"Question {number}?", "a": "Yes."} for number in range(60)]
    content = jsonl([*rows, {"q": "Last?", "a": "No.", "context": "Be brief."}])
    dataset_id = platform.upload(person.account_id, content)
    platform.validate_upload(dataset_id)
    platform.project()
    status, shown = call("GET", f"/{dataset_id}/columns")
    assert (status, shown["names"]) == (200, ["q", "a", "context"])
    chosen = {"columns": CHOSEN | {"system": "context"}}
    status, new = call("POST", f"/{dataset_id}/columns", json=chosen)
    assert status == 202, new
    *_, last = examples(platform, UUID(new["id"]))
    assert [each["role"] for each in last] == ["system", "user", "assistant"]
