"""The page of a job in a real browser, on a platform where nothing moves by itself."""

from __future__ import annotations

import json

from playwright.sync_api import Route, WebSocketRoute, expect

from tests.browser.exhibition import Exhibition
from tests.browser.tabs import Tabs, until


def test_the_keyboard_is_enough(exhibited: Tabs, exhibition: Exhibition) -> None:
    page = exhibited.open(exhibition.people["ada"])
    frames: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))),
    )
    page.goto(exhibition.paths["training"])
    # Once what the page was made with has been replaced by its first view.
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
    expect(confirm).to_be_disabled()  # until it is answered
    until(page, lambda: len(given) == 1)
    given[0].fulfill(status=204)
    expect(confirm).to_be_enabled()


def test_a_page_may_be_left_before_its_connection_stands(
    exhibited: Tabs, exhibition: Exhibition
) -> None:
    context = exhibited.open(exhibition.people["ada"]).context
    for _ in range(10):
        page = context.new_page()
        with page.expect_websocket():
            page.goto(exhibition.paths["training"], wait_until="commit")
        page.close()


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
    expect(page.locator("#curve-note")).not_to_be_empty()
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
