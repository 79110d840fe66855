"""The page of a job in a browser, on the sample platform."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Route, WebSocket, WebSocketRoute, expect

from tests.browser.sample_platform import SamplePlatform
from tests.browser.tabs import Tabs, until


def test_a_job_is_cancelled_by_keyboard(sample_tabs: Tabs, sample: SamplePlatform) -> None:
    page = sample_tabs.open(sample.people["ada"])
    frames: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))),
    )
    page.goto(sample.paths["training"])
    # The first view replaces parts of the page.
    until(page, lambda: any("job-dialogs" in frame for frame in frames))
    cancel = page.get_by_role("button", name="Cancel")
    cancel.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("[data-note^=cancel-]")).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
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
    expect(confirm).to_be_disabled()  # until the response arrives
    until(page, lambda: len(given) == 1)
    given[0].fulfill(status=204)
    expect(confirm).to_be_enabled()


@pytest.mark.full
def test_leaving_a_page_before_it_is_connected_causes_no_error(
    sample_tabs: Tabs, sample: SamplePlatform
) -> None:
    context = sample_tabs.open(sample.people["ada"]).context
    for _ in range(10):
        page = context.new_page()
        with page.expect_websocket():
            page.goto(sample.paths["training"], wait_until="commit")
        page.close()


def test_log_lines_received_while_the_log_loads_are_kept(
    sample_tabs: Tabs, sample: SamplePlatform
) -> None:
    page = sample_tabs.open(sample.people["ada"])
    sockets: list[WebSocketRoute] = []
    asked: list[Route] = []
    page.route_web_socket("**/live?*", lambda socket: sockets.append(socket))
    page.route("**/log", lambda route: asked.append(route))
    page.goto(sample.paths["training"])
    log = page.locator("#log-lines")
    known = log.locator(".line").all_text_contents()
    log.evaluate("log => { for (const line of log.children) line.dataset.known = ''; }")
    until(page, lambda: bool(sockets))
    frame: dict[str, object] = {"sequence": 0, "events": []}
    sockets[0].send(json.dumps(frame | {"line": None}))
    until(page, lambda: bool(asked))
    line = '<span class="line" data-line="1.99">late</span>'
    late = f'<hx-partial hx-target="#log-lines" hx-swap="beforeend">{line}</hx-partial>'
    sockets[0].send(json.dumps(frame | {"line": [1, 99], "content": late}))
    expect(log).to_contain_text("late")
    asked[0].continue_()
    expect(log.locator("[data-known]")).to_have_count(0)
    assert log.locator(".line").all_text_contents() == [*known, "late"]


def test_a_failed_request_for_the_curve_is_repeated(
    sample_tabs: Tabs, sample: SamplePlatform
) -> None:
    page = sample_tabs.open(sample.people["ada"])
    failures = iter(range(2))

    def answer(route: Route) -> None:
        if next(failures, None) is None:
            route.continue_()
        else:
            route.fulfill(status=200, content_type="text/html", body="")

    page.route("**/curve", answer)
    page.goto(sample.paths["training"])
    expect(page.locator("#curve-note")).not_to_be_empty()
    expect(page.locator("#chart canvas")).to_be_visible()
    expect(page.locator("#curve-note")).to_be_hidden()
    assert next(failures, None) is None


def test_a_zoom_stays_until_it_is_reset(sample_tabs: Tabs, sample: SamplePlatform) -> None:
    page = sample_tabs.open(sample.people["ada"], sample.paths["training"])
    drawn = page.locator("#chart .u-over")
    expect(drawn).to_be_visible()
    box = drawn.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 50, steps=5)
    page.mouse.up()
    page.emulate_media(color_scheme="dark")  # redraws the chart
    show_all = page.get_by_role("button", name="Show all")
    show_all.click()
    expect(show_all).to_be_hidden()


@pytest.mark.full
def test_a_job_is_saved_as_a_template_without_leaving_its_live_page(
    sample_tabs: Tabs, sample: SamplePlatform
) -> None:
    page = sample_tabs.open(sample.people["ada"])
    sockets: list[WebSocket] = []
    page.on("websocket", lambda each: sockets.append(each))
    page.goto(sample.paths["training"])
    until(page, lambda: bool(sockets))
    page.locator("#job-head").evaluate("head => { head.dataset.known = ''; }")
    page.get_by_role("button", name="Save as template…").click()
    page.locator("#template-name").fill("From the live page")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.locator("#notices [role=status]")).to_contain_text("From the live page")
    expect(page.locator("#template-dialog")).to_be_hidden()
    expect(page.locator("#job-head[data-known]")).to_have_count(1)
    assert [socket.is_closed() for socket in sockets] == [False]
