"""The list of jobs in a browser."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.sample_platform import SamplePlatform
from tests.browser.tabs import Tabs


def test_at_most_two_jobs_can_be_compared(sample_tabs: Tabs, sample: SamplePlatform) -> None:
    page = sample_tabs.open(sample.people["ada"], "/fine-tune")
    boxes = page.locator("input[name=jobs]")
    first, second, third = (boxes.nth(number) for number in range(3))
    button, words = page.locator("#compare-button"), page.locator("#compare-help")
    first.check()
    expect(words).to_have_attribute("data-chosen", "1")
    expect(third).to_be_enabled()
    expect(button).to_be_disabled()
    second.check()
    expect(words).to_have_attribute("data-chosen", "2")
    expect(third).to_be_disabled()
    expect(button).to_be_enabled()
    # The rows are replaced while a job runs; the limit must hold for the new boxes, too.
    page.evaluate("document.dispatchEvent(new CustomEvent('htmx:after:swap'))")
    expect(third).to_be_disabled()
    first.uncheck()
    expect(words).to_have_attribute("data-chosen", "1")
    expect(third).to_be_enabled()
    third.check()
    expect(first).to_be_disabled()
    expect(words).to_have_attribute("data-chosen", "2")
