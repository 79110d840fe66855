"""The pages of datasets: each state in its words, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from uuid import UUID

import pytest

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from infrastructure.measurements import set_progress
from infrastructure.store import connect
from services.datasets.file_format import UNSUPPORTED
from services.datasets.findings import SENTENCES
from services.datasets.report import Code
from services.datasets.validation import validate
from tests.gateway.conftest import BASE_MODEL, World
from tests.gateway.web.dataset_page import (
    ASSISTANT,
    CHAT,
    USER,
    count,
    opened,
    settle,
    words,
)
from tests.gateway.web.signed_in import Browser


def test_without_datasets_the_format_is_shown(browser: Browser) -> None:
    shown = words(opened(browser, "/datasets"))
    assert "No datasets yet" in shown
    assert '{"messages": [{"role": "system"' in shown
    assert "Choose files" in shown


def test_the_example_line_is_a_valid_dataset(browser: Browser) -> None:
    html = opened(browser, "/datasets")
    line = unescape(html.partition('<pre class="format"')[2].partition(">")[2].partition("</")[0])
    report = validate([line.encode()], len, on_progress=id, max_bytes=10**6)
    assert (report.errors, report.warnings, report.examples) == ((), (), 1)


def test_each_state_is_told_in_the_document_s_words(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    ready = upload(CHAT, {"messages": [USER, ASSISTANT]}, name="ready one")
    upload("no json", CHAT, name="bad one")
    waiting = upload(CHAT, name="new one", validated=False)
    with connect(world.settings) as connection:
        set_progress(connection, waiting, 1234, 50, 100)
    settle(browser)
    html = opened(browser, "/datasets")
    shown = words(html)
    assert "new one validating 1,234 lines, 50 B of" in shown
    assert "bad one rejected 1 error" in shown
    assert "ready one ready to train 2 counting…" in shown
    assert html.count("Train<span") == 1
    assert f'href="/fine-tune/new?dataset={ready}"' in html
    count(world, ready, base, 40)
    settle(browser)
    assert "ready one ready to train 2 40" in words(opened(browser, "/datasets"))


def test_the_list_is_asked_for_again_only_while_something_moves(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    def polls() -> bool:
        settle(browser)
        return "every 1500ms" in opened(browser, "/datasets", part=True)

    assert not polls()
    upload("no json")
    assert not polls()
    upload(CHAT, validated=False)
    assert polls()


def test_a_part_of_the_list_is_no_whole_page(browser: Browser) -> None:
    assert opened(browser, "/datasets", part=True).lstrip().startswith('<section id="datasets"')


def test_a_long_list_has_pages(
    browser: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.datasets.pages.datasets.LISTED", 2)
    for _ in range(3):
        world.dataset(browser.person)
    settle(browser)
    newest, second, oldest = (
        each["id"] for each in browser.client.get("/api/datasets").json()["data"]
    )
    html = opened(browser, "/datasets")
    assert f"/datasets?after={second}" in html
    older = opened(browser, f"/datasets?after={second}")
    assert (oldest in older, newest in older) == (True, False)
    assert "Newest" in older


def test_another_account_s_dataset_is_not_there(
    browser: Browser, world: World, upload: Callable[..., UUID]
) -> None:
    theirs = world.dataset(world.person())
    settle(browser)
    for path in (f"/datasets/{theirs}", f"/datasets/{theirs}/examples"):
        assert browser.client.get(path).status_code == 404
    answer = browser.client.post(f"/datasets/{theirs}/delete", headers=browser.htmx)
    assert f"No dataset {theirs}" in answer.text


def test_a_validation_is_followed_until_it_is_over(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(CHAT, validated=False)
    settle(browser)
    shown = opened(browser, f"/datasets/{dataset_id}", part=True)
    assert "every 1s" in shown
    assert "Every line is being checked" in words(shown)
    with connect(world.settings) as connection:
        set_progress(connection, dataset_id, 7, 2_500_000, 5_000_000)
    assert "7 lines, 2.5 MB of" in words(opened(browser, f"/datasets/{dataset_id}", part=True))


def test_a_rejected_dataset_opens_to_its_lines(
    browser: Browser, upload: Callable[..., UUID], world: World
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
    shown = words(html)
    assert "2 of 5 lines cannot be trained on." in shown
    assert "Line 2" in shown
    assert "column 5" in shown
    assert '&#34;It said &#34;<mark class="wrong">&lt;</mark>b&gt;hi' in html
    assert "<b>hi</b>" not in html
    assert '<mark class="wrong">{&#34;role&#34;: &#34;bot&#34;' in html
    assert SENTENCES[Code.BLANK_LINES].format(count=1, lines="line") in shown
    assert "every 1s" not in html
    assert "Train</a>" not in html


def test_errors_beyond_those_that_are_kept_are_counted(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(*["no json"] * 103)
    settle(browser)
    assert "And 3 more lines with errors." in words(opened(browser, f"/datasets/{dataset_id}"))


def test_a_file_that_is_no_dataset_at_all_is_told_so(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload("PK\x03\x04")
    settle(browser)
    shown = words(opened(browser, f"/datasets/{dataset_id}"))
    assert "Nothing can be trained on this file." in shown
    assert UNSUPPORTED[b"PK\x03\x04"] in shown


def test_a_ready_dataset_shows_its_facts(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload(CHAT, CHAT, {"messages": [USER, ASSISTANT]})
    settle(browser)
    path = f"/datasets/{dataset_id}"
    html = opened(browser, path)
    shown = words(html)
    assert "Examples 2" in shown
    assert "Repeated lines left out 1" in shown
    assert "tiny still being counted…" in shown
    assert "every 1s" in html
    count(world, dataset_id, base, 40, 70)
    settle(browser)
    html = opened(browser, path)
    assert "tiny 110 70 is cut 64" in words(html)
    assert "every 1s" not in html
    assert f'href="/fine-tune/new?dataset={dataset_id}"' in html


def test_a_base_whose_template_refuses_the_dataset_says_so(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload(CHAT)
    with because(world.cause):
        dataset = world.log.load(Dataset, dataset_id)
        dataset.refuse_tokens(base.name, base.manifest_sha256, 1)
        world.log.commit(dataset)
    settle(browser)
    shown = words(opened(browser, f"/datasets/{dataset_id}"))
    assert "tiny cannot train on it: its chat template refuses example 1" in shown


def test_a_dataset_is_deleted_after_a_question(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(CHAT)
    settle(browser)
    path = f"/datasets/{dataset_id}"
    asked = words(opened(browser, path))
    assert "The file with its 1 example, and the report" in asked
    assert "Models that were trained on it stay" in asked
    assert browser.client.post(f"{path}/delete").status_code == 403
    answer = browser.client.post(f"{path}/delete", headers=browser.htmx)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (200, "/datasets")
    assert browser.client.get(path).status_code == 404


def test_a_dataset_that_a_job_needs_is_not_deleted(browser: Browser, world: World) -> None:
    world.base_model()
    dataset_id = world.dataset(browser.person)
    job = {"dataset": str(dataset_id), "base_model": BASE_MODEL}
    approved = browser.client.post("/api/jobs", json=job, headers=browser.htmx)
    assert approved.status_code in (201, 202)
    answer = browser.client.post(f"/datasets/{dataset_id}/delete", headers=browser.htmx)
    assert "1 of your jobs train on it and are not over" in words(answer.text)
    assert answer.headers["hx-retarget"] == "#notices"


def test_the_limit_and_the_path_of_uploads_are_known_to_the_script(
    browser: Browser, world: World
) -> None:
    html = opened(browser, "/datasets")
    assert f'data-limit="{world.settings.dataset_max_bytes}"' in html
    assert 'data-path="/api/datasets"' in html


def test_nothing_of_a_dataset_is_in_its_events(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    upload('{"messages": "a secret that is wrong"}')
    notifications = world.log.recorder.select_notifications(start=1, limit=1000)
    assert all(b"secret" not in bytes(each.state) for each in notifications)
