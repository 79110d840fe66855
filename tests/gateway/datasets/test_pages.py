"""The dataset pages in each state."""

from __future__ import annotations

import re
from html import unescape
from uuid import UUID

import pytest

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset, DatasetStatus
from gateway.datasets.pages import FORMAT, STATUSES
from infrastructure.postgres.store import connect
from infrastructure.training.measurements import set_progress
from services.datasets.validation import validate
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.datasets.conftest import CHAT, SHORT, USER, Pages


def words(html: str) -> str:
    """Return the text of a page with single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def set_lines(pages: Pages, dataset_id: UUID, lines: int, read: int, total: int) -> None:
    with connect(pages.platform.settings) as connection:
        set_progress(connection, dataset_id, lines, read, total)


def test_without_datasets_the_list_shows_the_form_and_a_valid_example(pages: Pages) -> None:
    html = pages.open()
    assert 'class="empty"' in html
    assert 'id="files"' in html
    assert f'data-limit="{pages.platform.settings.dataset_max_bytes}"' in html
    assert 'data-path="/api/datasets"' in html
    assert FORMAT in words(html)
    report = validate([FORMAT.encode()], len, on_progress=id, max_bytes=10**6)
    assert (report.errors, report.warnings, report.examples) == ((), (), 1)


def test_the_list_shows_each_status(pages: Pages, base: BaseModel) -> None:
    ready = pages.upload(CHAT, SHORT, name="ready one")
    pages.upload("no json", CHAT, name="bad one")
    set_lines(pages, pages.upload(CHAT, name="new one", validated=False), 1234, 50, 100)
    html = pages.open()
    for status, name in (
        (DatasetStatus.VALIDATING, "new one"),
        (DatasetStatus.REJECTED, "bad one"),
        (DatasetStatus.READY_FOR_TRAINING, "ready one"),
    ):
        assert f"{name} {STATUSES[status][0]}" in words(html)
        assert f'data-status="{status}"' in html
    assert "1,234 lines, 50 B of" in words(html)
    assert 'class="counting"' in html
    assert html.count("Train<span") == 1
    assert f'href="/fine-tune/new?dataset={ready}"' in html
    pages.count(ready, base, 40)
    label, _ = STATUSES[DatasetStatus.READY_FOR_TRAINING]
    assert f"{label} 2 40" in words(pages.open())


def test_the_list_polls_its_table_only_during_validation(pages: Pages, base: BaseModel) -> None:
    def polls() -> bool:
        html = pages.open(part=True)
        assert html.lstrip().startswith('<section id="datasets"')
        return "every 1500ms" in html

    assert not polls()
    pages.upload("no json")
    assert not polls()
    pages.upload(CHAT, validated=False)
    assert polls()


def test_a_long_list_has_pages(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.datasets.pages.PAGE_SIZE", 2)
    oldest, second, newest = (pages.upload(CHAT, validated=False) for _ in range(3))
    assert f"/datasets?after={second}" in pages.open()
    older = pages.open(f"?after={second}")
    assert (str(oldest) in older, str(newest) in older) == (True, False)
    assert 'href="/datasets">' in older.partition('aria-label="Pages of datasets"')[2]


def test_another_accounts_dataset_is_not_found(pages: Pages, platform: Platform) -> None:
    theirs, browser = platform.dataset(platform.person()), pages.browser
    pages.open()
    for path in (f"/datasets/{theirs}", f"/datasets/{theirs}/examples"):
        assert browser.client.get(path).status_code == 404
    answer = browser.client.post(f"/datasets/{theirs}/delete", headers=browser.htmx)
    assert 'data-code="not_found"' in answer.text


def test_the_page_follows_a_validation(pages: Pages) -> None:
    dataset_id = pages.upload(CHAT, validated=False)
    shown = pages.open(f"/{dataset_id}", part=True)
    assert "every 1s" in shown
    assert 'class="validation"' in shown
    set_lines(pages, dataset_id, 7, 2_500_000, 5_000_000)
    assert "7 lines, 2.5 MB of" in words(pages.open(f"/{dataset_id}", part=True))


def test_a_rejected_dataset_shows_its_errors(pages: Pages) -> None:
    dataset_id = pages.upload(
        CHAT,
        '{"messages": [{"role": "user", "content": "It said "<b>hi</b>""}]}',
        {"messages": [USER, {"role": "bot", "content": "x" * 500}]},
        "",
        {**CHAT, "id": 1},
    )
    html = pages.open(f"/{dataset_id}")
    assert 'data-errors="2"' in html
    assert '<li data-line="2" data-code=' in html
    assert '&#34;It said &#34;<mark class="wrong">&lt;</mark>b&gt;hi' in html
    assert "<b>hi</b>" not in html
    assert '<mark class="wrong">{&#34;role&#34;: &#34;bot&#34;' in html
    assert '<li data-code="blank_lines">' in html
    assert "every 1s" not in html
    assert "Train</a>" not in html
    states = event_states(pages.platform)
    assert all(b"It said" not in state for state in states), "events contain no file content"


def event_states(platform: Platform) -> list[bytes]:
    notifications = platform.log.recorder.select_notifications(start=1, limit=1000)
    return [bytes(each.state) for each in notifications]


def test_errors_beyond_the_reported_ones_are_counted(pages: Pages) -> None:
    assert 'data-more="3"' in pages.open(f"/{pages.upload(*['no json'] * 103)}")


def test_an_error_of_the_whole_file_has_no_line(pages: Pages) -> None:
    assert '<li data-line="file"' in pages.open("/" + str(pages.upload("PK\x03\x04")))


def test_a_ready_dataset_shows_its_facts(pages: Pages, base: BaseModel) -> None:
    dataset_id = pages.upload(CHAT, CHAT, SHORT)
    html = pages.open(f"/{dataset_id}")
    assert "Examples 2" in words(html)
    assert 'data-base="tiny" data-lengths="counting"' in html
    assert "every 1s" in html
    pages.count(dataset_id, base, 40, 70)
    html = pages.open(f"/{dataset_id}")
    assert 'data-base="tiny" data-lengths="known"' in html
    assert {"110", "70", "64"} <= set(words(html).split())
    assert 'class="over"' in html
    assert "every 1s" not in html
    assert f'href="/fine-tune/new?dataset={dataset_id}"' in html


def test_a_base_model_whose_template_refuses_the_dataset_is_marked(
    pages: Pages, platform: Platform, base: BaseModel
) -> None:
    dataset_id = pages.upload(CHAT)
    with because(platform.cause):
        dataset = platform.log.load(Dataset, dataset_id)
        dataset.refuse_tokens(base.name, base.manifest_sha256, 1)
        platform.log.commit(dataset)
    assert 'data-base="tiny" data-lengths="refused"' in pages.open(f"/{dataset_id}")


def test_deleting_a_dataset_asks_first(pages: Pages) -> None:
    dataset_id, browser = pages.upload(CHAT), pages.browser
    path = f"/datasets/{dataset_id}"
    assert '<dialog id="delete-dataset"' in pages.open(f"/{dataset_id}")
    assert browser.client.post(f"{path}/delete").status_code == 403
    answer = browser.client.post(f"{path}/delete", headers=browser.htmx)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (200, "/datasets")
    assert browser.client.get(path).status_code == 404


def test_a_dataset_in_use_is_not_deleted(pages: Pages, platform: Platform) -> None:
    platform.base_model()
    browser = pages.browser
    dataset_id = platform.dataset(browser.person)
    job = {"dataset": str(dataset_id), "base_model": BASE_MODEL}
    assert browser.client.post("/api/jobs", json=job, headers=browser.htmx).is_success
    answer = browser.client.post(f"/datasets/{dataset_id}/delete", headers=browser.htmx)
    assert 'data-code="wrong_state"' in answer.text
    assert answer.headers["hx-retarget"] == "#notices"
