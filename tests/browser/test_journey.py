"""Journeys across the pages, on the real stack with real training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.tabs import PHONE_WIDTH, Tabs
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = pytest.mark.timeout(900)

TRAINING_MS = 180_000
LONG = {"epochs": 100, "gradient_accumulation": 1, "save_steps": 100}
STATUS = ".page-head .badge"


@pytest.mark.full
def test_a_model_is_trained_and_used_by_keyboard(page: Page) -> None:
    page.goto("/datasets")
    with page.expect_file_chooser() as chooser:
        _reach(page, page.get_by_label("Choose files"))
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "sums.jsonl", "mimeType": "", "buffer": _chats(40)})
    _press(page, page.get_by_role("button", name="Upload", exact=True))
    train = (
        page.get_by_role("row")
        .filter(has_text="ready to train")
        .get_by_role("button", name="Train")
    )
    expect(train).to_be_visible()
    _press(page, train)

    expect(page).to_have_url(re.compile("/fine-tune/new"))
    _choose(page, page.locator("#base_model"), "tiny")
    expect(page.locator("#gpu_type")).to_have_value("cpu")
    _reach(page, page.locator("#epochs"))
    page.keyboard.press("Control+A")
    with page.expect_response(re.compile("/estimate")):
        page.keyboard.type("1")
        page.keyboard.press("Tab")
    page.wait_for_load_state("networkidle")
    approve = page.get_by_role("button", name="Approve & Train")
    expect(approve).to_be_enabled()
    _press(page, approve)

    expect(page).to_have_url(re.compile("/fine-tune/ftjob-"))
    expect(page.locator(STATUS)).to_have_text("registered", timeout=TRAINING_MS)
    _press(page, page.get_by_role("button", name="Deploy", exact=True).first)
    playground = page.get_by_role("button", name="Open the playground")
    expect(playground).to_be_visible(timeout=TRAINING_MS)
    _press(page, playground)
    _reach(page, page.locator("#message"))
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=TRAINING_MS)
    page.keyboard.type("What is 2 plus 2?")
    page.keyboard.press("Enter")
    answers = page.locator("#turns .answer")
    expect(answers).to_have_count(2)
    for answer in answers.all():
        expect(answer.locator("[data-figures]")).to_contain_text(" in ", timeout=TRAINING_MS)


@pytest.mark.full
def test_a_job_paused_at_zero_resumes_after_a_top_up_in_another_tab(
    page: Page, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = person.dataset(tmp_path, 100)
    with person.paused("scheduler"):
        job = person.approve(dataset, **LONG)
        person.spend_all_but(seconds=15, job=job)
    page.goto(_page_of(job))
    page.evaluate("window.sameDocument = true")
    expect(page.get_by_role("heading", name="Balance reached zero")).to_be_visible(
        timeout=TRAINING_MS
    )
    resume = page.get_by_role("button", name="Resume", exact=True).first
    expect(resume).to_be_disabled()
    # On a busy machine, the balance is used up before the first step.
    started = len(person.events(job, "TrainingStarted"))

    second = page.context.new_page()
    second.goto("/billing")
    second.get_by_label("Amount in dollars").fill("5")
    second.get_by_role("button", name="Top up", exact=True).click()
    expect(second.locator("#balance-now")).to_contain_text("$5")
    expect(resume).to_be_enabled()
    expect(page.locator("#balance-now")).to_contain_text("$5")
    resume.click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator(STATUS)).to_have_text("training", timeout=TRAINING_MS)
    person.await_events(job, "TrainingStarted", started + 1)
    # Before its first step, a cancelled job has no checkpoint.
    eventually(lambda: person.client.get(job)["step"] > 0, TIMEOUT_SECONDS)

    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("heading", name="Stopped by you")).to_be_visible(timeout=TRAINING_MS)
    expect(page.locator("[data-kept-until]")).to_be_visible()
    assert page.evaluate("window.sameDocument"), "no reload"


@pytest.mark.full
def test_two_browsers_agree_after_the_gateway_was_killed(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    job = person.approve(person.dataset(tmp_path, 400), **LONG)
    pages = [
        tabs.open(person, _page_of(job)),
        tabs.open(person, _page_of(job), dark=True, width=PHONE_WIDTH),
    ]
    person.await_events(job, "CheckpointSaved", 1)
    with tabs.gateway_down():
        person.kill("gateway")
        person.await_events(job, "CheckpointSaved", 2)
        for page in pages:
            expect(page.locator("[data-checkpoint]")).not_to_have_count(1)

    pages[0].get_by_role("button", name="Pause", exact=True).click()
    pages[0].get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(pages[0].locator("#job-state")).to_be_focused()  # the button has disappeared
    for page in pages:
        expect(page.get_by_role("heading", name="Paused by you")).to_be_visible(timeout=TRAINING_MS)
        expect(page.get_by_text("Balance reached zero")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    person.await_status(job, "paused")

    def are_complete() -> bool:
        events = len(person.client.get(f"{job}/timeline")["data"])
        logged = len(person.client.get(f"{job}/log", lines=1000)["data"])
        one, other = map(_sequences, pages)
        figures = {_figures(page) for page in pages}
        counts = [len(_log(page)) for page in pages]
        return len(one) == events and one == other and len(figures) == 1 and counts == [logged] * 2

    eventually(are_complete)
    live = _log(pages[0])
    pages[0].reload()
    assert _log(pages[0]) == live
    sequences = _sequences(pages[0])
    assert sequences == sorted(set(sequences), reverse=True), "each event once, newest first"
    person.client.post(f"{job}/cancel", {})


def _chats(count: int) -> bytes:
    chats = [
        [
            {"role": "user", "content": f"What is {n} plus {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}."},
        ]
        for n in range(count)
    ]
    return "".join(json.dumps({"messages": chat}) + "\n" for chat in chats).encode()


def _page_of(job: str) -> str:
    return f"/fine-tune/{job.rpartition('/')[2]}"


def _reach(page: Page, target: Locator) -> None:
    """Press Tab until the target has the focus."""
    expect(target).to_be_visible()
    for _ in range(120):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach {target}")


def _press(page: Page, target: Locator) -> None:
    _reach(page, target)
    page.keyboard.press("Enter")


def _choose(page: Page, target: Locator, beginning: str) -> None:
    """Type the beginning of an option."""
    _reach(page, target)
    page.keyboard.type(beginning)
    page.keyboard.press("Tab")
    expect(target).to_have_value(beginning)


def _sequences(page: Page) -> list[int]:
    items = page.locator("#timeline [data-sequence]")
    return [int(text) for text in items.evaluate_all("all => all.map(it => it.dataset.sequence)")]


def _log(page: Page) -> list[str]:
    return page.locator("#log-lines .line").all_text_contents()


def _figures(page: Page) -> str:
    return page.locator("#job-progress .figures").inner_text()
