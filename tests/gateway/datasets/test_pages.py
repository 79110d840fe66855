"""The dataset pages: each state, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from uuid import UUID

import pytest

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset, DatasetStatus
from gateway.datasets.pages import FORMAT, STATUSES
from infrastructure.measurements import set_progress
from infrastructure.store import connect
from services.datasets.validation import validate
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.datasets.dataset_page import (
    ASSISTANT,
    CHAT,
    USER,
    count,
    opened,
    settle,
    words,
)
from tests.gateway.web.signed_in import Browser

STATUS_NAMES = (
    (DatasetStatus.VALIDATING, "new one"),
    (DatasetStatus.REJECTED, "bad one"),
    (DatasetStatus.READY_FOR_TRAINING, "ready one"),
)


def test_without_datasets_the_format_is_shown(browser: Browser) -> None:
    html = opened(browser, "/datasets")
    assert 'class="empty"' in html
    assert FORMAT in words(html)
    assert 'id="files"' in html


def test_the_example_line_is_a_valid_dataset(browser: Browser) -> None:
    html = opened(browser, "/datasets")
    line = unescape(html.partition('<pre class="format"')[2].partition(">")[2].partition("</")[0])
    report = validate([line.encode()], len, on_progress=id, max_bytes=10**6)
    assert (report.errors, report.warnings, report.examples) == ((), (), 1)


def test_the_list_shows_each_status(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    ready = upload(CHAT, {"messages": [USER, ASSISTANT]}, name="ready one")
    upload("no json", CHAT, name="bad one")
    waiting = upload(CHAT, name="new one", validated=False)
    with connect(platform.settings) as connection:
        set_progress(connection, waiting, 1234, 50, 100)
    settle(browser)
    html = opened(browser, "/datasets")
    shown = words(html)
    for status, name in STATUS_NAMES:
        assert f"{name} {STATUSES[status][0]}" in shown
        assert f'data-status="{status}"' in html
    assert "1,234 lines, 50 B of" in shown
    assert 'class="counting"' in html
    assert html.count("Train<span") == 1
    assert f'href="/fine-tune/new?dataset={ready}"' in html
    count(platform, ready, base, 40)
    settle(browser)
    assert f"{STATUSES[DatasetStatus.READY_FOR_TRAINING][0]} 2 40" in words(
        opened(browser, "/datasets")
    )


def test_the_list_polls_only_during_validation(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    def polls() -> bool:
        settle(browser)
        return "every 1500ms" in opened(browser, "/datasets", part=True)

    assert not polls()
    upload("no json")
    assert not polls()
    upload(CHAT, validated=False)
    assert polls()


def test_htmx_gets_only_the_table(browser: Browser) -> None:
    assert opened(browser, "/datasets", part=True).lstrip().startswith('<section id="datasets"')


def test_a_long_list_has_pages(
    browser: Browser, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.datasets.pages.PAGE_SIZE", 2)
    for _ in range(3):
        platform.dataset(browser.person)
    settle(browser)
    newest, second, oldest = (
        each["id"] for each in browser.client.get("/api/datasets").json()["data"]
    )
    html = opened(browser, "/datasets")
    assert f"/datasets?after={second}" in html
    older = opened(browser, f"/datasets?after={second}")
    assert (oldest in older, newest in older) == (True, False)
    assert 'href="/datasets">' in older.partition('aria-label="Pages of datasets"')[2]


def test_another_accounts_dataset_is_not_found(
    browser: Browser, platform: Platform, upload: Callable[..., UUID]
) -> None:
    theirs = platform.dataset(platform.person())
    settle(browser)
    for path in (f"/datasets/{theirs}", f"/datasets/{theirs}/examples"):
        assert browser.client.get(path).status_code == 404
    answer = browser.client.post(f"/datasets/{theirs}/delete", headers=browser.htmx)
    assert 'data-code="not_found"' in answer.text


def test_the_page_follows_a_validation(
    browser: Browser, upload: Callable[..., UUID], platform: Platform
) -> None:
    dataset_id = upload(CHAT, validated=False)
    settle(browser)
    shown = opened(browser, f"/datasets/{dataset_id}", part=True)
    assert "every 1s" in shown
    assert 'class="validation"' in shown
    with connect(platform.settings) as connection:
        set_progress(connection, dataset_id, 7, 2_500_000, 5_000_000)
    assert "7 lines, 2.5 MB of" in words(opened(browser, f"/datasets/{dataset_id}", part=True))


def test_a_rejected_dataset_shows_its_errors(
    browser: Browser, upload: Callable[..., UUID], platform: Platform
) -> None:
    dataset_id = upload(
        CHAT,
        '{"messages": [{"role": "user", "content": "It said "<b>hi</b>""}]}',
        {"messages": [USER, {"role": "bot", "content": "x" * 500}]},
        "",
        {**CHAT, "id": 1},
    )
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}")
    assert 'data-errors="2"' in html
    assert '<li data-line="2" data-code=' in html
    assert '&#34;It said &#34;<mark class="wrong">&lt;</mark>b&gt;hi' in html
    assert "<b>hi</b>" not in html
    assert '<mark class="wrong">{&#34;role&#34;: &#34;bot&#34;' in html
    assert '<li data-code="blank_lines">' in html
    assert "every 1s" not in html
    assert "Train</a>" not in html


def test_errors_beyond_the_reported_ones_are_counted(
    browser: Browser, upload: Callable[..., UUID], platform: Platform
) -> None:
    dataset_id = upload(*["no json"] * 103)
    settle(browser)
    assert 'data-more="3"' in opened(browser, f"/datasets/{dataset_id}")


def test_an_error_of_the_whole_file_has_no_line(
    browser: Browser, upload: Callable[..., UUID], platform: Platform
) -> None:
    dataset_id = upload("PK\x03\x04")
    settle(browser)
    assert '<li data-line="file"' in opened(browser, f"/datasets/{dataset_id}")


def test_a_ready_dataset_shows_its_facts(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    dataset_id = upload(CHAT, CHAT, {"messages": [USER, ASSISTANT]})
    settle(browser)
    path = f"/datasets/{dataset_id}"
    html = opened(browser, path)
    shown = words(html)
    assert "Examples 2" in shown
    assert 'data-base="tiny" data-lengths="counting"' in html
    assert "every 1s" in html
    count(platform, dataset_id, base, 40, 70)
    settle(browser)
    html = opened(browser, path)
    assert 'data-base="tiny" data-lengths="known"' in html
    assert {"110", "70", "64"} <= set(words(html).split())
    assert 'class="over"' in html
    assert "every 1s" not in html
    assert f'href="/fine-tune/new?dataset={dataset_id}"' in html


def test_a_base_model_whose_template_refuses_the_dataset(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    dataset_id = upload(CHAT)
    with because(platform.cause):
        dataset = platform.log.load(Dataset, dataset_id)
        dataset.refuse_tokens(base.name, base.manifest_sha256, 1)
        platform.log.commit(dataset)
    settle(browser)
    shown = opened(browser, f"/datasets/{dataset_id}")
    assert 'data-base="tiny" data-lengths="refused"' in shown


def test_deleting_a_dataset_asks_first(
    browser: Browser, upload: Callable[..., UUID], platform: Platform
) -> None:
    dataset_id = upload(CHAT)
    settle(browser)
    path = f"/datasets/{dataset_id}"
    assert '<dialog id="delete-dataset"' in opened(browser, path)
    assert browser.client.post(f"{path}/delete").status_code == 403
    answer = browser.client.post(f"{path}/delete", headers=browser.htmx)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (200, "/datasets")
    assert browser.client.get(path).status_code == 404


def test_a_dataset_in_use_is_not_deleted(browser: Browser, platform: Platform) -> None:
    platform.base_model()
    dataset_id = platform.dataset(browser.person)
    job = {"dataset": str(dataset_id), "base_model": BASE_MODEL}
    approved = browser.client.post("/api/jobs", json=job, headers=browser.htmx)
    assert approved.status_code in (201, 202)
    answer = browser.client.post(f"/datasets/{dataset_id}/delete", headers=browser.htmx)
    assert 'data-code="wrong_state"' in answer.text
    assert answer.headers["hx-retarget"] == "#notices"


def test_the_page_has_the_upload_limit_and_path(browser: Browser, platform: Platform) -> None:
    html = opened(browser, "/datasets")
    assert f'data-limit="{platform.settings.dataset_max_bytes}"' in html
    assert 'data-path="/api/datasets"' in html


def test_nothing_of_a_dataset_is_in_its_events(
    browser: Browser, upload: Callable[..., UUID], platform: Platform
) -> None:
    upload('{"messages": "a secret that is wrong"}')
    notifications = platform.log.recorder.select_notifications(start=1, limit=1000)
    assert all(b"secret" not in bytes(each.state) for each in notifications)
