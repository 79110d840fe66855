"""What is done to a page until it is in a state, as a person would do it."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from gateway.http.sessions import COOKIE


def menu(page: Page) -> None:
    """The account's menu is open."""
    page.locator("details.menu summary").click()
    expect(page.get_by_role("link", name="API reference")).to_be_visible()


def choose(page: Page, *files: tuple[str, bytes]) -> None:
    """Choose files with these names."""
    page.get_by_label("Choose files").set_input_files(
        [{"name": name, "mimeType": "application/jsonl", "buffer": text} for name, text in files]
    )


def chosen_files(page: Page) -> None:
    """Two files wait to be uploaded, of which one cannot be."""
    choose(page, ("may-chats.jsonl", b"{}"), ("nothing.jsonl", b""))
    expect(page.locator(".queued").last).to_be_visible()


def failed_uploads(page: Page) -> None:
    """One file is too large, one was refused, and the connection was lost with another."""
    page.get_by_label("Choose files").evaluate(
        """(chooser) => {
            const chosen = new DataTransfer();
            chosen.items.add(new File([new Uint8Array(81_300_000)], "all-tickets.jsonl"));
            chooser.files = chosen.files;
            chooser.dispatchEvent(new Event("change"));
        }"""
    )
    choose(page, ("may-chats.jsonl", b"x" * 310_000), ("june-chats.jsonl", b"x" * 290_000))

    def answer(route: Route) -> None:
        if "june" in route.request.url:
            return route.abort("connectionreset")
        message = "the artifact store cannot be reached now; try again in a moment"
        return route.fulfill(status=503, json={"error": {"message": message}})

    page.route(f"**{UPLOADS}*", answer)
    page.get_by_role("button", name="Upload 2 files").click()
    expect(page.locator(".queued.is-refused")).to_have_count(3)


UPLOADS = "/api/datasets?name="


def session_ended(page: Page) -> None:
    """What the browser still has of a session is worth nothing any more."""
    url = page.url
    page.goto("about:blank")  # or what the page asks for meanwhile takes it elsewhere
    page.context.add_cookies([{"name": COOKIE, "value": "ended", "url": url}])
    page.goto(url)
    expect(page.get_by_label("API key")).to_be_visible()


def wrong_key(page: Page) -> None:
    """A key that nobody has was tried."""
    page.get_by_label("API key").fill("eco_9dJk2wq0")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()


def examples(page: Page) -> None:
    """A dataset's examples are shown."""
    expect(page.locator("article mark").first).to_be_visible()


def asks(button: str) -> Callable[[Page], None]:
    """A button was pressed, and the page asks whether that is meant."""

    def prepare(page: Page) -> None:
        page.get_by_role("button", name=button, exact=True).first.click()
        expect(page.get_by_role("dialog")).to_be_visible()

    return prepare


def two_chosen(page: Page) -> None:
    """Two jobs of the list are ticked, which is the limit."""
    for number in range(2):
        page.locator("input[name=jobs]").nth(number).check()
    expect(page.locator("#compare-help")).to_have_attribute("data-chosen", "2")


def compared(page: Page) -> None:
    """Two jobs of the list were chosen, and are compared."""
    two_chosen(page)
    page.get_by_role("button", name="Compare curves").click()
    expect(page.get_by_role("heading", name="Two jobs compared")).to_be_visible()


def priced(page: Page) -> None:
    """All is chosen, and priced."""
    for name, value in (
        ("base_model", "llama-3.1-8b-instruct"),
        ("gpu_type", "h100"),
        ("region", "eu-central"),
    ):
        page.locator(f"#{name}").select_option(value)
        expect(page.locator(f"#{name}")).to_have_attribute("data-chosen", value)
    expect(page.locator("#summary")).to_be_visible()


def advanced(page: Page) -> None:
    """Tier 2 is open, with what is wrong in it."""
    priced(page)
    page.get_by_text("Advanced", exact=False).first.click()
    page.locator("#dropout").fill("2")
    page.locator("#dropout").press("Tab")
    expect(page.locator("#dropout-problem")).to_be_visible()


def as_code(page: Page) -> None:
    """The same as a command and as a program."""
    priced(page)
    page.locator("#copies > summary").click()
    expect(page.locator("#command-line")).to_be_visible()


def drawn(page: Page) -> None:
    """The curve of a job is there, if it has one."""
    page.wait_for_load_state("networkidle")


def table(page: Page) -> None:
    """The curve is told as a table."""
    drawn(page)
    page.locator("#curve-table > summary").click()
    expect(page.locator("#curve-table tbody tr").first).to_be_visible()


def asked_to_pause(page: Page) -> None:
    """The question before a pause."""
    drawn(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def closed(code: int, said: str) -> Callable[[Page], None]:
    """The page has lost its connection; after code 1 it will have another one."""

    def prepare(page: Page) -> None:
        drawn(page)
        page.locator("#job").evaluate(
            "(job, detail) => job.dispatchEvent(new CustomEvent('htmx:ws:close', { detail }))",
            {"reason": "closed", "code": code, "connection": {"config": {"reconnectCodes": [1]}}},
        )
        expect(page.locator("#connection")).to_contain_text(said)

    return prepare


def refused_count(page: Page) -> None:
    """More GPUs were asked for than a job may have."""
    asks("Resume")(page)
    page.get_by_label("GPU count").fill("9")
    expect(page.locator("#resume-quote .problem")).to_be_visible()


def asked_to_undeploy_a_base(page: Page) -> None:
    """The question before a base answers no more."""
    page.get_by_role("row", name="qwen2.5").get_by_role("button", name="Undeploy").click()
    expect(page.get_by_role("dialog")).to_be_visible()


LISTS = ("dataset", "base_model", "gpu_type", "region")
NEW = "/fine-tune/new"
CHOSEN = {
    "dataset": "tickets — 1,500 examples",
    "base_model": "llama-3.1-8b-instruct",
    "gpu_type": "l4",
    "region": "eu-central",
}


def wizard(until: str, **fields: str) -> Callable[[Page], None]:
    """The wizard, anew, with these fields, once it shows `until`."""

    def prepare(page: Page) -> None:
        page.get_by_role("button", name="Start over").click()
        with page.expect_navigation():
            page.get_by_role("dialog").get_by_role("button", name="Start over").click()
        for name, value in (CHOSEN | fields).items():
            field = page.locator(f"#{name}")
            if name in LISTS:
                field.select_option(value)
            else:
                field.evaluate("(field) => field.closest('details')?.setAttribute('open', '')")
                field.fill(value)
        expect(page.locator(until)).to_be_visible()

    return prepare


def changed(page: Page) -> None:
    """The estimate that was approved is not the one that was seen."""
    wizard("#approve:enabled")(page)
    # At once: an estimate that comes in between would be the one that was seen.
    page.locator("input[name=seen]").evaluate(
        "(seen) => { seen.value = 'another'; document.querySelector('#approve').click(); }"
    )
    expect(page.locator("#approve-alert")).to_be_visible()


def refused_amount(page: Page) -> None:
    """An amount that cannot be paid."""
    page.get_by_label("Amount in dollars").fill("0")
    page.locator("#top-up-button").click()
    expect(page.locator("#amount-problem")).to_be_visible()


def new_key(page: Page) -> None:
    """A key was made just now."""
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#new-secret")).to_be_visible()


def asked_to_undeploy(page: Page) -> None:
    """The question before a checkpoint is given up."""
    row = page.locator(".row", has_text="ckpt-step").first
    row.get_by_role("button", name="Undeploy").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def conversation(page: Page) -> None:
    """A model and its base have answered; nothing serves here, so that it is told to the page."""

    def answer(route: Route) -> None:
        asked = json.loads(route.request.post_data or "")
        base = not asked["model"].startswith("ft:")
        words = ASSISTANT if base else "I am sorry to hear that. May I have your order number?"
        said: list[dict[str, object]] = [
            {"choices": [{"delta": {"content": words}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"completion_tokens": 58 if base else 13}},
        ]
        events = [f"data: {json.dumps(each)}\n\n" for each in said]
        body = "".join(events) + "data: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/models/playground/say", answer)
    page.get_by_label("Message").fill("My parcel has not arrived yet.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer[data-state=done]")).to_have_count(2)


ASSISTANT = (
    "I'm an AI assistant and I don't have information about your parcel. Here are some things you "
    "can do:\n\n1. Check the tracking number.\n2. Contact the carrier.\n3. Contact the shop where "
    "you bought it."
)
