"""The page of a job in a real browser, while a real trainer works on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Page, Route, WebSocketRoute, expect

from domain.account import Account
from infrastructure.store import open_log
from tests.browser.exhibition import Exhibition
from tests.browser.tabs import TIMEOUT_SECONDS, Tabs
from tests.causes import command
from tests.running import EcoLinkUnderTest

EXAMPLES = 40


def started(person: EcoLinkUnderTest, folder: Path, epochs: int) -> str:
    """A job that trains; returns the path of its page."""
    return "/fine-tune/" + job_of(person, folder, epochs).rpartition("/")[2]


def job_of(person: EcoLinkUnderTest, folder: Path, epochs: int) -> str:
    return person.approve(person.dataset(folder, EXAMPLES), epochs=epochs, save_steps=5)


def sequences(page: Page) -> list[int]:
    """Of the lines of the timeline, the oldest first."""
    found = page.locator("#timeline li").evaluate_all(
        "lines => lines.map(line => Number(line.dataset.sequence))"
    )
    return found[::-1]


def told(person: EcoLinkUnderTest, path: str) -> list[int]:
    """The sequences of a job's own events and its meters'."""
    job = path.rpartition("/")[2]
    events = person.client.get("/events", job=job, limit=1000)["data"]
    return [each["sequence"] for each in events if not each["event"].startswith("Gpus")]


def lines(page: Page) -> list[str]:
    return page.locator("#log-lines .line").all_text_contents()


def test_a_page_misses_nothing_while_its_gateway_is_away(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = started(person, tmp_path, epochs=8)
    page = tabs.open(person, path)
    expect(page.locator("#timeline")).to_contain_text("Training began", timeout=120_000)
    with tabs.gateway_down():
        person.kill("gateway")
        expect(page.locator("#job-head")).to_contain_text("registered", timeout=180_000)
        expect(page.locator("#connection")).to_be_hidden()
    person.await_end(f"/jobs/{path.rpartition('/')[2]}")
    expect(page.locator("#timeline")).to_contain_text("It took")
    page.wait_for_timeout(2000)  # the last that is measured and settled
    assert sequences(page) == told(person, path)
    live = lines(page)
    page.reload()
    assert lines(page) == live
    assert sequences(page) == told(person, path)


def test_two_browsers_see_the_same(tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path) -> None:
    path = started(person, tmp_path, epochs=6)
    pages = [tabs.open(person, path) for _ in range(2)]
    for page in pages:
        expect(page.locator("#job-head")).to_contain_text("registered", timeout=180_000)
        expect(page.locator("#timeline")).to_contain_text("It took")
        page.wait_for_timeout(2000)
    first, second = (
        [page.locator(f"#job-{part}").inner_text() for part in ("progress", "cost", "checkpoints")]
        + [page.locator("#curve-summary").inner_text(), page.locator("#balance-now").inner_text()]
        + lines(page)
        for page in pages
    )
    assert first == second
    assert sequences(pages[0]) == sequences(pages[1]) == told(person, path)


def test_pause_top_up_resume_and_cancel_without_a_reload(
    tabs: Tabs, person: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = started(person, tmp_path, epochs=100)
    page = tabs.open(person, path)
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#timeline")).to_contain_text("Training began", timeout=120_000)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator("#job-state")).to_be_focused()  # as its button is gone
    expect(page.locator("#job-head")).to_contain_text("Paused by you", timeout=120_000)
    resume = page.get_by_role("button", name="Resume")
    expect(resume).to_be_enabled()
    _spend(person)
    expect(resume).to_be_disabled()
    expect(page.locator("#balance-now")).to_contain_text("$0.00")

    person.top_up(5)
    expect(resume).to_be_enabled()
    resume.click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator("#timeline")).to_contain_text("Resumed from step", timeout=120_000)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#job-head")).to_contain_text("Stopped by you", timeout=120_000)
    expect(page.get_by_role("button", name="Promote")).to_be_visible()
    assert page.evaluate("window.sameDocument")


def test_the_keyboard_is_enough(exhibited: Tabs, exhibition: Exhibition) -> None:
    page = exhibited.open(exhibition.people["ada"], exhibition.paths["training"])
    cancel = page.get_by_role("button", name="Cancel")
    cancel.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("stops the job permanently")
    expect(dialog.get_by_role("button", name="Keep as it is")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(cancel).to_be_focused()
    given: list[Route] = []
    page.route("**/cancel", lambda route: given.append(route))
    page.keyboard.press("Enter")
    confirm = dialog.get_by_role("button", name="Cancel the job")
    confirm.press("Enter")
    expect(dialog).to_be_hidden()
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    expect(confirm).to_be_disabled()  # until it is answered
    given[0].fulfill(status=204)
    expect(confirm).to_be_enabled()


def test_lines_that_come_while_the_log_is_loaded_are_kept(
    exhibited: Tabs, exhibition: Exhibition
) -> None:
    page = exhibited.open(exhibition.people["ada"])
    sockets: list[WebSocketRoute] = []
    asked: list[Route] = []
    page.route_web_socket("**/live?*", lambda socket: sockets.append(socket))
    page.route("**/log", lambda route: asked.append(route))
    page.goto(exhibition.paths["training"])
    log = page.locator("#log-lines")
    known = lines(page)
    log.evaluate("log => { for (const line of log.children) line.dataset.known = ''; }")
    _until(page, lambda: bool(sockets))
    frame: dict[str, object] = {"sequence": 0, "events": []}
    sockets[0].send(json.dumps(frame | {"line": None}))
    _until(page, lambda: bool(asked))
    line = '<span class="line" data-line="1.99">late</span>'
    late = f'<hx-partial hx-target="#log-lines" hx-swap="beforeend">{line}</hx-partial>'
    sockets[0].send(json.dumps(frame | {"line": [1, 99], "content": late}))
    expect(log).to_contain_text("late")
    asked[0].continue_()
    expect(log.locator("[data-known]")).to_have_count(0)
    assert lines(page) == [*known, "late"]


def test_a_hundred_thousand_points_are_a_page_like_any_other(
    exhibited: Tabs, exhibition: Exhibition
) -> None:
    page = exhibited.open(exhibition.people["ada"])
    began = time.monotonic()
    page.goto(exhibition.paths["many-points"])
    expect(page.locator("#chart canvas")).to_be_visible()
    print(f"\n100,000 points are drawn after {time.monotonic() - began:.2f} s")
    points = page.evaluate(
        "async () => (await (await fetch(location.pathname + '/curve')).json()).steps.length"
    )
    assert 700 < points <= 1500


def test_a_curve_that_cannot_be_fetched_is_asked_for_again(
    exhibited: Tabs, exhibition: Exhibition
) -> None:
    page = exhibited.open(exhibition.people["ada"])
    failures = iter(range(2))

    def answer(route: Route) -> None:
        if next(failures, None) is None:
            route.continue_()
        else:
            route.fulfill(status=200, content_type="text/html", body="")

    page.route("**/curve", answer)
    page.goto(exhibition.paths["training"])
    expect(page.locator("#curve-note")).to_have_text("The curve is being loaded again…")
    expect(page.locator("#chart canvas")).to_be_visible()
    expect(page.locator("#curve-note")).to_be_hidden()
    assert next(failures, None) is None


def test_a_zoom_stays_until_all_is_asked_for(exhibited: Tabs, exhibition: Exhibition) -> None:
    page = exhibited.open(exhibition.people["ada"], exhibition.paths["training"])
    drawn = page.locator("#chart .u-over")
    expect(drawn).to_be_visible()
    box = drawn.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 50, steps=5)
    page.mouse.up()
    page.emulate_media(color_scheme="dark")  # all is drawn anew
    show_all = page.get_by_role("button", name="Show all")
    show_all.click()
    expect(show_all).to_be_hidden()


def _until(page: Page, holds: Callable[[], bool]) -> None:
    """Let the browser go on until something that it is to do has been done."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def _spend(person: EcoLinkUnderTest) -> None:
    """Something else uses up the balance."""
    with open_log(person.settings) as log, command("spend"):
        account = log.load(Account, UUID(str(person.account.account_id)))
        spent = account.available_micros
        account.settle(captured_micros=spent, reserved_micros=spent)
        log.commit(account)
