"""A real browser at a running stack: people with money, and tabs that must stay free of errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.tabs import PHONE_WIDTH, TIMEOUT_SECONDS, Tabs
from tests.conftest import CI
from tests.running import EcoLinkUnderTest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--disable-gpu", "--disable-background-networking"]


# Not for the whole run: Playwright's loop counts as this thread's running one, beside which no test
# can run a loop of its own. The stack comes first, as starting it does.
@pytest.fixture(scope="package")
def chromium(ecolink: EcoLinkUnderTest) -> Iterator[Browser]:
    """The system's Chromium, for all browser tests that run one after another."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        reason = "no Chromium on this machine; `apt-get install chromium` brings it"
        if CI in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=TIMEOUT_SECONDS * 1000)
    options = [*OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def tabs(chromium: Browser, ecolink: EcoLinkUnderTest) -> Iterator[Tabs]:
    """Opens tabs; the test fails at its end if a console, a request or the CSP complained."""
    opened = Tabs(chromium, ecolink)
    yield opened
    opened.close()


@pytest.fixture
def newcomer(ecolink: EcoLinkUnderTest) -> Iterator[Callable[..., EcoLinkUnderTest]]:
    """Makes accounts: `newcomer(dollars=0.5)`."""
    with ExitStack() as open_clients:
        yield lambda dollars=25: open_clients.enter_context(ecolink.newcomer(dollars))


@pytest.fixture
def person(newcomer: Callable[..., EcoLinkUnderTest]) -> EcoLinkUnderTest:
    """Somebody with $25 and nothing else, who may upload, approve and wait by the API."""
    return newcomer()


@pytest.fixture
def page(tabs: Tabs, person: EcoLinkUnderTest) -> Page:
    """A tab in which the person is signed in; `page.goto("/datasets")`."""
    return tabs.open(person)


@pytest.fixture
def dark_page(tabs: Tabs, person: EcoLinkUnderTest) -> Page:
    """As `page`, of somebody who likes it dark."""
    return tabs.open(person, dark=True)


@pytest.fixture
def phone(tabs: Tabs, person: EcoLinkUnderTest) -> Page:
    """As `page`, 375 px wide."""
    return tabs.open(person, width=PHONE_WIDTH)
