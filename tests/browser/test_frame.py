"""What all pages share: the frame around them, and the harness that watches them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.tabs import PHONE_WIDTH, Tabs
from tests.running import EcoLinkUnderTest

PAGES = ("/datasets", "/fine-tune", "/models", "/billing")


def test_a_link_signs_in_and_signing_out_asks_again(page: Page) -> None:
    expect(page).to_have_url(re.compile("/fine-tune$"))
    page.locator("details.menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/datasets")
    expect(page.get_by_label("API key")).to_be_focused()


def test_nothing_is_wider_than_a_phone(phone: Page) -> None:
    for path in PAGES[:2]:
        phone.goto(path)
        assert phone.evaluate("document.documentElement.scrollWidth") == PHONE_WIDTH, path


def test_what_the_policy_refuses_fails_a_test(tabs: Tabs, person: EcoLinkUnderTest) -> None:
    page = tabs.open(person, "/datasets")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.head.append(script);
        }"""
    )
    assert page.evaluate("window.ran") is None
    with pytest.raises(AssertionError, match="Content Security Policy"):
        tabs.close()
    tabs.problems.clear()
    tabs.contexts.clear()
