"""What each page costs who opens it for the first time: bytes on the wire, requests, and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

import pytest
from playwright.sync_api import Page

from tests.browser.exhibition import Exhibition
from tests.browser.states import STATES, State
from tests.browser.tabs import Tabs

MOST_BYTES = 250_000
AIM_PAINT_MS = 500
"""Not asserted: how quick a page is depends on what else the machine does."""

FIRST_PAINT = """() => new Promise((resolve) => {
  const found = () => performance.getEntriesByName("first-contentful-paint")[0];
  const look = () => found() ? resolve(found().startTime) : setTimeout(look, 10);
  look();
})"""


NAMED = attrgetter("name")


@dataclass
class Cost:
    """Of one page."""

    name: str
    bytes: int
    requests: int
    first_paint_ms: float
    loaded_ms: float


@pytest.fixture(scope="module")
def costs(pytestconfig: pytest.Config) -> Iterator[list[Cost]]:
    """Printed when all pages were opened."""
    measured: list[Cost] = []
    yield measured
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{'page':<28}{'kB':>8}{'requests':>10}{'first paint':>14}{'loaded':>10}")
        for each in measured:
            print(
                f"{each.name:<28}{each.bytes / 1000:>8.1f}{each.requests:>10}"
                f"{each.first_paint_ms:>11.0f} ms{each.loaded_ms:>7.0f} ms"
            )
        print(f"aims: under {MOST_BYTES / 1000:.0f} kB, first paint under {AIM_PAINT_MS} ms")


@pytest.mark.parametrize("state", [each for each in STATES if each.prepare is None], ids=NAMED)
def test_a_page_is_small_and_has_a_strict_policy(
    state: State, exhibited: Tabs, exhibition: Exhibition, costs: list[Cost]
) -> None:
    page = exhibited.open(exhibition.people[state.person] if state.person else None)
    state.allow(exhibited, exhibition)
    page = _with_empty_cache(page)
    received = _counted(page)
    answer = page.goto(state.path_in(exhibition), wait_until="load")
    assert answer is not None
    directives = [each.strip() for each in answer.headers["content-security-policy"].split(";")]
    assert "default-src 'self'" in directives
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not [each for each in directives if each.startswith(("script-src", "style-src"))]

    paint = page.evaluate(FIRST_PAINT)
    page.wait_for_load_state("networkidle")
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    costs.append(Cost(state.name, sum(received), len(received), paint, loaded))
    assert sum(received) < MOST_BYTES


def _with_empty_cache(page: Page) -> Page:
    """The same browser without what signing in made it keep."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.clearBrowserCache")
    session.detach()
    return page


def _counted(page: Page) -> list[int]:
    """Bytes of each answer, headers and all, as they arrive; of a WebSocket those of each frame."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    received: list[int] = []
    session.on("Network.loadingFinished", lambda it: received.append(it["encodedDataLength"]))
    session.on(
        "Network.webSocketFrameReceived",
        lambda it: received.append(len(it["response"]["payloadData"])),
    )
    return received
