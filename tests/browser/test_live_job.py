"""The page of a job in a real browser, while a real trainer works on it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import Locator, Page, expect

from domain.billing.account import Account
from infrastructure.store import open_log
from tests.browser.tabs import Tabs
from tests.builders.commands import command
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = pytest.mark.full


def job_of(person: EcoLinkUnderTest, folder: Path, examples: int, epochs: int) -> str:
    return person.approve(person.dataset(folder, examples), epochs=epochs, save_steps=5)


def page_of(job: str) -> str:
    return f"/fine-tune/{job.rpartition('/')[2]}"


def sequences(page: Page) -> list[int]:
    """Of the lines of the timeline, the oldest first."""
    found = page.locator("#timeline li").evaluate_all(
        "lines => lines.map(line => Number(line.dataset.sequence))"
    )
    return found[::-1]


def told(person: EcoLinkUnderTest, job: str) -> list[int]:
    """The sequences of a job's own events and its meters'."""
    events = person.client.get("/events", job=job.rpartition("/")[2], limit=1000)["data"]
    return [each["sequence"] for each in events if not each["event"].startswith("Gpus")]


def event(page: Page, topic: str) -> Locator:
    """The first event of a topic on the timeline."""
    return page.locator(f"#timeline [data-topic={topic}]").first


def status(page: Page, status: str) -> Locator:
    """The head of the page, in a status."""
    return page.locator(f"#job-head [data-status={status}]")


def lines(page: Page) -> list[str]:
    return page.locator("#log-lines .line").all_text_contents()


def test_a_page_misses_nothing_while_its_gateway_is_away(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    job = job_of(person, tmp_path, examples=40, epochs=8)
    page = tabs.open(person, page_of(job))
    expect(event(page, "TrainingStarted")).to_be_visible(timeout=120_000)
    with tabs.gateway_down():
        person.kill("gateway")
        expect(status(page, "registered")).to_be_visible(timeout=180_000)
        expect(page.locator("#connection")).to_be_hidden()
    person.await_end(job)
    expect(event(page, "EstimateScored")).to_be_visible()

    def is_whole() -> bool:
        logged = person.client.get(f"{job}/log", lines=1000)["data"]
        return sequences(page) == told(person, job) and len(lines(page)) == len(logged)

    eventually(is_whole)  # with the last that is logged and settled
    live = lines(page)
    page.reload()
    assert lines(page)[: len(live)] == live
    eventually(is_whole)


def test_pause_top_up_resume_and_cancel_without_a_reload(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    job = job_of(person, tmp_path, examples=400, epochs=100)
    page = tabs.open(person, page_of(job))
    page.evaluate("window.sameDocument = true")
    # Before its first step there is nothing to resume from.
    eventually(lambda: person.client.get(job)["step"] > 0, TIMEOUT_SECONDS)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator("#job-state")).to_be_focused()  # as its button is gone
    expect(status(page, "paused")).to_be_visible(timeout=120_000)
    resume = page.get_by_role("button", name="Resume")
    expect(resume).to_be_enabled()
    person.await_status(job, "paused")  # its lease is given back
    _spend(person)
    expect(resume).to_be_disabled()
    expect(page.locator("#balance-now")).to_contain_text("$0.00")

    person.top_up(5)
    expect(resume).to_be_enabled()
    resume.click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(event(page, "ResumeCertified")).to_be_visible(timeout=120_000)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(status(page, "cancelled")).to_be_visible(timeout=120_000)
    expect(page.get_by_role("button", name="Promote")).to_be_visible()
    assert page.evaluate("window.sameDocument")


def _spend(person: EcoLinkUnderTest) -> None:
    """Something else uses up the balance."""
    with open_log(person.settings) as log, command("spend"):
        account = log.load(Account, UUID(str(person.account.account_id)))
        spent = account.available_micros
        account.settle(captured_micros=spent, reserved_micros=spent)
        log.commit(account)
