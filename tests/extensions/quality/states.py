"""The pages of datasets with findings, and of comparisons, in their states."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.states import State


def open_findings(page: Page) -> None:
    """Open the first examples of each finding."""
    for each in page.locator("#findings details summary").all():
        each.click()


def compare_validation(page: Page) -> None:
    """Compare a dataset with the first version of another one."""
    found = page.locator("#contamination select option", has_text="all regions").last
    page.locator("#contamination select").select_option(found.get_attribute("value"))
    expect(page.locator("#contamination [data-affected]")).to_be_visible()


STATES = (
    State("quality-many", "quality many", "vera", dark=True, phone=True),
    State("quality-none", "quality none", "vera", phone=True),
    State("quality-analyzing", "quality analyzing", "vera", phone=True),
    State("quality-partial", "quality partial", "vera", phone=True),
    State("quality-failed", "quality failed", "vera", phone=True),
    State("quality-findings", "quality many", "vera", prepare=open_findings, phone=True),
    State("contamination", "quality partial", "vera", prepare=compare_validation, phone=True),
    State("difference", "difference done", "vera", dark=True, phone=True),
    State("difference-waiting", "difference waiting", "vera", phone=True),
    State("difference-failed", "difference failed", "vera", phone=True),
)
