"""A real browser, account holders with money, and tabs that must stay free of errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from infrastructure.settings import Settings
from tests.browser.sample_platform import SamplePlatform, serve_samples
from tests.browser.tabs import TIMEOUT_SECONDS, Tabs
from tests.conftest import CI, own_database, whole_product
from tests.running import EcoLinkUnderTest

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--disable-gpu", "--disable-background-networking"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run browser tests one after another, because they share slow fixtures."""
    items.sort(key=lambda item: HERE in item.path.parents)


HUB = "https://hub.example.com"
"""Hub of the sample platform. Nothing connects to it."""


# Not for the whole session: while Playwright runs its event loop in this thread, async tests fail.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium for all browser tests."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        reason = "Chromium is missing. Install it with `apt-get install chromium`."
        if CI in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=TIMEOUT_SECONDS * 1000)
    options = [*OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def ecolink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EcoLinkUnderTest]:
    """One stack for all tests in a browser."""
    with whole_product(tmp_path_factory) as under_test:
        yield under_test


@pytest.fixture
def tabs(chromium: Browser, ecolink: EcoLinkUnderTest) -> Iterator[Tabs]:
    """Tabs on the running stack. At its end, the test fails if a tab had errors."""
    assert ecolink.settings.gateway_url is not None
    opened = Tabs(chromium, ecolink.settings.gateway_url)
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def sample(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamplePlatform]:
    """Serve a platform with every state of every page. No process changes it."""
    with own_database(servers, tmp_path_factory.mktemp("sample")) as settings:
        with serve_samples(settings.model_copy(update={"hub_endpoint": HUB})) as served:
            yield served


@pytest.fixture
def sample_tabs(chromium: Browser, sample: SamplePlatform) -> Iterator[Tabs]:
    """Tabs on the sample platform."""
    tabs = Tabs(chromium, sample.url)
    yield tabs
    tabs.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Path | None:
    """Folder for screenshots, if requested."""
    folder: Path | None = request.config.getoption("--screenshots")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def newcomer(ecolink: EcoLinkUnderTest) -> Iterator[Callable[..., EcoLinkUnderTest]]:
    """Create accounts: `newcomer(dollars=0.5)`."""
    with ExitStack() as open_clients:
        yield lambda dollars=25: open_clients.enter_context(ecolink.newcomer(dollars))


@pytest.fixture
def person(newcomer: Callable[..., EcoLinkUnderTest]) -> EcoLinkUnderTest:
    """A new account with $25, and a client of the API."""
    return newcomer()


@pytest.fixture
def page(tabs: Tabs, person: EcoLinkUnderTest) -> Page:
    """A tab in which the person is signed in."""
    return tabs.open(person)
