"""Sign-in, error notices, and the detection of errors in the browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect
from starlette.requests import Request as HttpRequest

from gateway.http.errors import Problem
from gateway.web.errors import answer
from tests.browser.tabs import Tabs
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.full

ESTIMATES = "**/fine-tune/new/estimate*"


def test_a_link_signs_in_and_signing_out_requires_a_key(page: Page) -> None:
    expect(page).to_have_url(re.compile("/fine-tune$"))
    page.locator("details.menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/datasets")
    expect(page.get_by_label("API key")).to_be_focused()


def test_a_violation_of_the_content_policy_fails_a_test(
    tabs: Tabs, person: EcoLinkUnderTest
) -> None:
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


def test_a_temporary_error_is_announced_once_and_keeps_the_form(page: Page, tabs: Tabs) -> None:
    page.goto("/fine-tune/new")
    alert, epochs = page.get_by_role("alert"), page.get_by_label("Epochs", exact=True)
    tabs.allowed.append("502 (Bad Gateway)")  # a proxy's response while the gateway starts
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


def test_the_notice_of_a_form_goes_when_the_form_succeeds(page: Page) -> None:
    page.goto("/datasets/generate")
    alert, name = page.get_by_role("alert"), page.get_by_label("Name of the dataset")
    show = page.get_by_role("button", name="Show price")
    show.click()
    expect(alert).to_contain_text("Enter a name for the dataset.")
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")

    name.fill("chats")
    expect(name).not_to_have_attribute("aria-invalid", "true")
    page.route("**/datasets/generate/quote", lambda route: route.fulfill(body="<p>$1.00</p>"))
    show.click()
    expect(page.locator("#quote")).to_contain_text("$1.00")
    expect(alert).to_have_count(0)


def test_choices_for_large_models_follow_the_model(page: Page) -> None:
    page.goto("/datasets/generate")
    model, judge = page.get_by_label("Written by"), page.locator("[name=judge]")
    personas = page.locator("[name=personas]")
    model.evaluate(
        """(select) => {
            select.options[0].dataset.small = "";
            select.append(new Option("large", "model:large"));
        }"""
    )
    personas.set_checked(not personas.is_checked())
    chosen = personas.is_checked()
    small = model.input_value()
    for name, checked in (("model:large", True), (small, False)):
        model.select_option(name)
        expect(judge).to_be_checked(checked=checked)
        expect(personas).to_be_checked(checked=chosen)  # the user's choice stays


def _no_database(route: Route) -> None:
    request = HttpRequest({"type": "http", "method": "POST", "headers": [(b"hx-request", b"true")]})
    problem = Problem(code="unavailable", message="there is no database now")
    notice = answer(request, 503, problem, {})
    route.fulfill(headers=dict(notice.headers), body=bytes(notice.body))
