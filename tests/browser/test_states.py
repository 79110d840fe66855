"""Accessibility and width of each page in each state: light, dark, and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.axe import violations
from tests.browser.sample_platform import SamplePlatform
from tests.browser.states import STATES, State
from tests.browser.tabs import HEIGHT, PHONE_WIDTH, WIDTH, Tabs

BROKEN = r"""() => {
  const units = "[KMG]i?B|B|ms|s|min|h|%";
  const number = `(?<![\\w.-])[\u2212+(-]?\\$?\\d[\\d.,:%]*\\)?(?:\\s(?:${units})(?![a-z]))?`;
  const whole = new RegExp(`${number}|[0-9a-f]{8,}`, "g");
  const broken = [];
  for (const cell of document.querySelectorAll("td, th, .figure dd, .facts dd")) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
      for (const found of texts.currentNode.data.matchAll(whole)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, found.index);
        range.setEnd(texts.currentNode, found.index + found[0].length);
        const rects = [...range.getClientRects()].filter((each) => each.width > 0);
        const tops = rects.map((each) => Math.round(each.top));
        if (new Set(tops).size > 1) broken.push(found[0]);
      }
  }
  return broken;
}"""
"""Return numbers with signs and units, and IDs, that wrap within a cell."""


QUICK = {
    *("sign-in", "dataset-ready", "quality-many", "wizard", "job-training", "job-failed"),
    *("billing", "models", "playground", "ops", "ops-catalog", "audit-verification"),
}
"""States that `make test` checks. `make test-full` checks all."""

PHONE_TABLES = (
    "audit",
    "audit-account",
    "audit-verification",
    "billing",
    "dataset-ready",
    "invoices",
    "job-table",
    "jobs",
    "jobs-compared",
    "models",
    "notices",
    "ops",
    "ops-account",
    "ops-accounts",
    "ops-alerts",
    "ops-catalog",
    "ops-checks",
    "ops-estimates",
    "ops-gpu-type",
    "ops-money",
    "ops-parked",
    "ops-security",
    "ops-what-if",
    "quality-many",
    "webhook",
    "webhooks",
    "wizard",
)

READ_BY_AUDITOR = (
    "billing",
    "dataset-ready",
    "dataset-rejected",
    "datasets",
    "job-cancelled",
    "job-paused-owner",
    "job-registered",
    "job-training",
    "models",
    "ops",
    "ops-account",
    "ops-accounts",
    "ops-alerts",
    "ops-catalog",
    "ops-estimates",
    "ops-money",
    "ops-parked",
    "ops-seals",
    "ops-what-if",
    "playground",
    "webhooks",
    "wizard",
)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(each, id=each.name, marks=[] if each.name in QUICK else pytest.mark.full)
        for each in STATES
    ],
)
def test_a_state_is_accessible_and_fits_a_phone(
    state: State, sample_tabs: Tabs, sample: SamplePlatform, pictures: Path | None
) -> None:
    page = state.open(sample_tabs, sample)
    wrong: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        wrong += [f"{scheme}: {each}" for each in violations(page)]
        if scheme == "light" or state.dark:
            _take(page, pictures, f"{state.name}{'-dark' if scheme == 'dark' else ''}")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": PHONE_WIDTH, "height": HEIGHT})
    if (width := _width(page)) > PHONE_WIDTH:
        wrong.append(f"phone: it is {width} px wide")
    if state.name in PHONE_TABLES:
        wrong += [f"phone: {each} wraps" for each in page.evaluate(BROKEN)]
    if state.phone:
        wrong += [f"phone: {each}" for each in violations(page)]
        _take(page, pictures, f"{state.name}-phone")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    assert not wrong, "\n".join(wrong)


@pytest.mark.full
def test_an_auditor_sees_no_control_that_needs_another_right(
    sample_tabs: Tabs, sample: SamplePlatform, pictures: Path | None
) -> None:
    states = {each.name: each for each in STATES}
    page = states["auditor"].open(sample_tabs, sample)
    wrong: list[str] = []
    for name in READ_BY_AUDITOR:
        page.goto(sample_tabs.url + states[name].path_in(sample))
        page.locator("main h1").wait_for()
        controls = page.locator("main").locator("[data-needs], [hx-post]").all()
        wrong += [f"{name}: {each.inner_text()}" for each in controls if each.is_visible()]
        wrong += [f"{name}: {each}" for each in violations(page)]
        _take(page, pictures, f"auditor-{name}")
    assert not wrong, "\n".join(wrong)


def _width(page: Page) -> int:
    """Return the width of the page in pixels, after it has adapted to the window."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    width = PHONE_WIDTH + 1
    for _ in range(20):
        width = page.evaluate("document.documentElement.scrollWidth")
        if width <= PHONE_WIDTH:
            break
        page.wait_for_timeout(100)
    return width


def _take(page: Page, pictures: Path | None, name: str) -> None:
    if pictures is not None:
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
