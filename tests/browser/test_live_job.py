"""The page of a job in a real browser, while a real trainer works on it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect

from domain.account import Account
from infrastructure.store import open_log
from tests.browser.tabs import Tabs
from tests.causes import command
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.full

EXAMPLES = 40


def started(person: EcoLinkUnderTest, folder: Path, epochs: int) -> str:
    """A job that trains; returns the path of its page."""
    return "/fine-tune/" + job_of(person, folder, epochs).rpartition("/")[2]


def job_of(person: EcoLinkUnderTest, folder: Path, epochs: int) -> str:
    return person.approve(person.dataset(folder, EXAMPLES), epochs=epochs, save_steps=5)


def sequences(page: Page) -> list[int]:
    """Of the lines of the timeline, the oldest first."""
    found = page.locator("#timeline li").evaluate_all(
        "lines => lines.map(line => Number(line.dataset.sequence))"
    )
    return found[::-1]


def told(person: EcoLinkUnderTest, path: str) -> list[int]:
    """The sequences of a job's own events and its meters'."""
    job = path.rpartition("/")[2]
    events = person.client.get("/events", job=job, limit=1000)["data"]
    return [each["sequence"] for each in events if not each["event"].startswith("Gpus")]


def lines(page: Page) -> list[str]:
    return page.locator("#log-lines .line").all_text_contents()


def test_a_page_misses_nothing_while_its_gateway_is_away(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = started(person, tmp_path, epochs=8)
    page = tabs.open(person, path)
    expect(page.locator("#timeline")).to_contain_text("Training began", timeout=120_000)
    with tabs.gateway_down():
        person.kill("gateway")
        expect(page.locator("#job-head")).to_contain_text("registered", timeout=180_000)
        expect(page.locator("#connection")).to_be_hidden()
    person.await_end(f"/jobs/{path.rpartition('/')[2]}")
    expect(page.locator("#timeline")).to_contain_text("It took")
    page.wait_for_timeout(2000)  # the last that is measured and settled
    assert sequences(page) == told(person, path)
    live = lines(page)
    page.reload()
    assert lines(page) == live
    assert sequences(page) == told(person, path)


def test_pause_top_up_resume_and_cancel_without_a_reload(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = started(person, tmp_path, epochs=100)
    page = tabs.open(person, path)
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#timeline")).to_contain_text("Training began", timeout=120_000)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator("#job-state")).to_be_focused()  # as its button is gone
    expect(page.locator("#job-head")).to_contain_text("Paused by you", timeout=120_000)
    resume = page.get_by_role("button", name="Resume")
    expect(resume).to_be_enabled()
    _spend(person)
    expect(resume).to_be_disabled()
    expect(page.locator("#balance-now")).to_contain_text("$0.00")

    person.top_up(5)
    expect(resume).to_be_enabled()
    resume.click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator("#timeline")).to_contain_text("Resumed from step", timeout=120_000)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#job-head")).to_contain_text("Stopped by you", timeout=120_000)
    expect(page.get_by_role("button", name="Promote")).to_be_visible()
    assert page.evaluate("window.sameDocument")


def _spend(person: EcoLinkUnderTest) -> None:
    """Something else uses up the balance."""
    with open_log(person.settings) as log, command("spend"):
        account = log.load(Account, UUID(str(person.account.account_id)))
        spent = account.available_micros
        account.settle(captured_micros=spent, reserved_micros=spent)
        log.commit(account)
