"""A real browser at a running stack: people with money, and tabs that must stay free of errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from infrastructure.settings import Settings
from tests.browser.exhibition import Exhibition, opened
from tests.browser.tabs import PHONE_WIDTH, TIMEOUT_SECONDS, Tabs
from tests.conftest import CI, own_database
from tests.running import EcoLinkUnderTest

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--disable-gpu", "--disable-background-networking"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come one after another, whatever the order: they share what takes seconds."""
    items.sort(key=lambda item: HERE in item.path.parents)


# Not for the whole run: while Playwright's loop is this thread's, no test has one of its own.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
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
    assert ecolink.settings.gateway_url is not None
    opened = Tabs(chromium, ecolink.settings.gateway_url)
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def exhibition(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exhibition]:
    """Every state of every page at once, on a platform where nothing moves."""
    with own_database(servers, tmp_path_factory.mktemp("exhibition")) as settings:
        with opened(settings) as told:
            yield told


@pytest.fixture
def exhibited(chromium: Browser, exhibition: Exhibition) -> Iterator[Tabs]:
    """As `tabs`, at the exhibition."""
    tabs = Tabs(chromium, exhibition.url)
    yield tabs
    tabs.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Path | None:
    """Where pictures of the states are written, if somebody asked for them."""
    folder: Path | None = request.config.getoption("--screenshots")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


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
