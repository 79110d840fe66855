"""What all pages share: the frame around them, and the harness that watches them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect
from starlette.requests import Request as HttpRequest

from gateway.http.errors import Problem
from gateway.web.errors import answer
from tests.browser.tabs import PHONE_WIDTH, Tabs
from tests.running import EcoLinkUnderTest

PAGES = ("/datasets", "/fine-tune", "/models", "/billing")
ESTIMATES = "**/fine-tune/new/estimate*"


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


def test_what_passes_is_said_once_and_takes_nothing_of_the_page(page: Page, tabs: Tabs) -> None:
    page.goto("/fine-tune/new")
    alert, epochs = page.get_by_role("alert"), page.get_by_label("Epochs", exact=True)
    tabs.allowed.append("502 (Bad Gateway)")  # as a proxy says it while the gateway starts
    page.route(ESTIMATES, lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    epochs.fill("7")
    expect(alert).to_have_attribute("data-passing", "")
    expect(epochs).to_have_value("7")

    page.unroute(ESTIMATES)
    page.route(ESTIMATES, _no_database)
    epochs.fill("8")
    expect(alert).to_contain_text("no database")
    alert.evaluate("(notice) => { notice.said = 'once' }")
    with page.expect_response(ESTIMATES):
        epochs.fill("9")
    assert alert.evaluate("(notice) => notice.said") == "once"

    page.unroute(ESTIMATES)
    epochs.fill("6")
    expect(alert).to_have_count(0)
    expect(epochs).to_have_value("6")


def _no_database(route: Route) -> None:
    request = HttpRequest({"type": "http", "method": "POST", "headers": [(b"hx-request", b"true")]})
    problem = Problem(code="unavailable", message="there is no database now")
    notice = answer(request, 503, problem, {})
    route.fulfill(headers=dict(notice.headers), body=bytes(notice.body))
