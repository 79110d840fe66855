"""Size, requests and time of the first visit to each page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.sample_platform import MANY_POINTS, SamplePlatform
from tests.browser.states import PAGES, State
from tests.browser.tabs import Tabs

pytestmark = pytest.mark.full

MOST_BYTES = 250_000
AIM_PAINT_MS, AIM_MANY_POINTS_MS = 500, 1000
"""Not asserted, because the times depend on the machine's load."""

FIRST_PAINT = """() => new Promise((resolve) => {
  const found = () => performance.getEntriesByName("first-contentful-paint")[0];
  const look = () => found() ? resolve(found().startTime) : setTimeout(look, 10);
  look();
})"""


@pytest.mark.parametrize("state", PAGES, ids=lambda state: state.name)
def test_a_page_is_small_and_has_a_strict_policy(
    state: State,
    sample_tabs: Tabs,
    sample: SamplePlatform,
    record_property: Callable[[str, object], None],
) -> None:
    page = sample_tabs.open(sample.people[state.person] if state.person else None)
    state.allow(sample_tabs, sample)
    page = _with_empty_cache(page)
    received = _counted(page)
    answer = page.goto(state.path_in(sample), wait_until="load")
    assert answer is not None
    directives = [each.strip() for each in answer.headers["content-security-policy"].split(";")]
    assert "default-src 'self'" in directives
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not [each for each in directives if each.startswith(("script-src", "style-src"))]

    paint = page.evaluate(FIRST_PAINT)
    page.wait_for_load_state("networkidle")
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    record_property(
        "measured",
        f"{state.path:<28}{sum(received) / 1000:>7.1f} kB{len(received):>4} requests, first paint "
        f"{paint:>5.0f} ms (aim: {AIM_PAINT_MS}), loaded {loaded:>5.0f} ms",
    )
    assert sum(received) < MOST_BYTES


def _with_empty_cache(page: Page) -> Page:
    """Clear the browser's cache, which signing in filled."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.clearBrowserCache")
    session.detach()
    return page


def _counted(page: Page) -> list[int]:
    """Return a growing list of the bytes of each response and each WebSocket frame."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    received: list[int] = []
    session.on("Network.loadingFinished", lambda it: received.append(it["encodedDataLength"]))
    session.on(
        "Network.webSocketFrameReceived",
        lambda it: received.append(len(it["response"]["payloadData"])),
    )
    return received


def test_a_page_with_a_hundred_thousand_points_opens(
    sample_tabs: Tabs, sample: SamplePlatform, record_property: Callable[[str, object], None]
) -> None:
    page = sample_tabs.open(sample.people["ada"])
    received = _counted(page)
    page.goto(sample.paths["many-points"], wait_until="load")
    expect(page.locator("canvas").first).to_be_visible()
    drawn = page.evaluate("performance.now()")
    record_property(
        "measured",
        f"{MANY_POINTS:,} loss points drawn after {drawn:.0f} ms (aim: {AIM_MANY_POINTS_MS}) with "
        f"{sum(received) / 1000:.0f} kB",
    )
    assert sum(received) < MOST_BYTES
    points = page.evaluate(
        "async () => (await (await fetch(location.pathname + '/curve')).json()).steps.length"
    )
    assert 700 < points <= 1500
