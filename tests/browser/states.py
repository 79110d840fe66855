"""Every page in every state that it has: what is checked, measured and photographed of each.

A page of one's own is one line here, and a state on it one more; `paths` of the exhibition names
the pages of single datasets and jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page, Route, expect

from tests.browser.exhibition import Exhibition
from tests.browser.tabs import Tabs


@dataclass(frozen=True)
class State:
    """A page, whose it is, and what is done to it until it is in the state."""

    name: str
    path: str
    """Or the name of one of the exhibition's paths, if it is no path."""
    person: str | None = "ada"
    prepare: Callable[[Page], None] | None = None
    dark: bool = False
    """Whether it is photographed in dark, too; narrow it is for `phone`."""
    phone: bool = False
    missing: bool = False
    """Whether the page says that there is none."""

    def open(self, tabs: Tabs, exhibition: Exhibition, **how: object) -> Page:
        """A tab that shows it."""
        visitor = exhibition.people[self.person] if self.person else None
        self.allow(tabs, exhibition)
        page = tabs.open(visitor, self.path_in(exhibition), **how)  # type: ignore[arg-type]
        self.settle(page)
        return page

    def allow(self, tabs: Tabs, exhibition: Exhibition) -> None:
        """The console of a page that is not there says so, or that it may not be there yet."""
        if self.missing:
            tabs.allowed.append(f"({tabs.url}{self.path_in(exhibition)})")

    def settle(self, page: Page) -> None:
        """Wait until nothing is loading, and do what leads to the state."""
        page.wait_for_load_state("load")
        if self.prepare is not None:
            self.prepare(page)

    def path_in(self, exhibition: Exhibition) -> str:
        """Where it is."""
        if self.path.startswith("/"):
            return self.path
        name, _, rest = self.path.partition("?")
        return exhibition.paths[name] + (f"?{rest}" if rest else "")


def menu(page: Page) -> None:
    """The account's menu is open."""
    page.locator("details.menu summary").click()
    expect(page.get_by_role("link", name="API reference")).to_be_visible()


def chosen_files(page: Page) -> None:
    """Two files wait to be uploaded, of which one cannot be."""
    files = [("may-chats.jsonl", b"{}"), ("nothing.jsonl", b"")]
    page.get_by_label("Choose files").set_input_files(
        [{"name": name, "mimeType": "application/jsonl", "buffer": text} for name, text in files]
    )
    expect(page.get_by_text("This file is empty.")).to_be_visible()


def examples(page: Page) -> None:
    """A dataset's examples are shown."""
    expect(page.locator("article mark").first).to_be_visible()


def asks(button: str) -> Callable[[Page], None]:
    """A button was pressed, and the page asks whether that is meant."""

    def prepare(page: Page) -> None:
        page.get_by_role("button", name=button, exact=True).first.click()
        expect(page.get_by_role("dialog")).to_be_visible()

    return prepare


def compared(page: Page) -> None:
    """Two jobs of the list were chosen, and are compared."""
    for number in range(2):
        page.locator("input[name=jobs]").nth(number).check()
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
    page.get_by_text("The same as code").click()
    expect(page.locator("#command-line")).to_be_visible()


def drawn(page: Page) -> None:
    """The curve of a job is there, if it has one."""
    page.wait_for_load_state("networkidle")


def table(page: Page) -> None:
    """The curve is told as a table."""
    drawn(page)
    page.get_by_text("As a table").click()
    expect(page.locator("#curve-table tbody tr").first).to_be_visible()


def asked_to_pause(page: Page) -> None:
    """The question before a pause."""
    drawn(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("dialog")).to_contain_text("the meter stops")


def reconnecting(page: Page) -> None:
    """The page has lost its connection, and will have another one."""
    drawn(page)
    page.locator("#job").evaluate(
        "(job, detail) => job.dispatchEvent(new CustomEvent('htmx:ws:close', { detail }))",
        {"reason": "closed", "code": 1, "connection": {"config": {"reconnectCodes": [1]}}},
    )
    expect(page.locator("#connection")).to_have_text("Reconnecting…")


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
    page.locator("input[name=seen]").evaluate("(seen) => { seen.value = 'another'; }")
    page.locator("#approve").click()
    expect(page.locator("#approve-alert")).to_be_visible()


def refused_amount(page: Page) -> None:
    """An amount that cannot be paid."""
    page.get_by_label("Amount in dollars").fill("0")
    page.locator("#top-up-button").click()
    expect(page.locator("#amount-problem")).to_be_visible()


def new_key(page: Page) -> None:
    """A key was made just now."""
    page.get_by_role("button", name="Make a key").click()
    expect(page.locator("#new-secret")).to_be_visible()


def asked_to_undeploy(page: Page) -> None:
    """The question before a checkpoint is given up."""
    row = page.locator(".row", has_text="ckpt-step").first
    row.get_by_role("button", name="Undeploy").click()
    expect(page.get_by_role("dialog")).to_contain_text("may be deleted then")


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
    expect(page.locator(".answer", has_text="tokens in")).to_have_count(2)


ASSISTANT = (
    "I'm an AI assistant and I don't have information about your parcel. Here are some things you "
    "can do:\n\n1. Check the tracking number.\n2. Contact the carrier.\n3. Contact the shop where "
    "you bought it."
)

STATES = (
    State("sign-in", "/sign-in", person=None, dark=True, phone=True),
    State("sign-in-link", "sign-in link", person=None, phone=True),
    State("sign-in-used-link", "/sign-in/used", person=None),
    State("no-such-page", "/nowhere", missing=True),
    State("no-such-job", f"/fine-tune/ftjob-{'0' * 32}", missing=True, dark=True, phone=True),
    State("menu", "/fine-tune", prepare=menu),
    State("datasets", "/datasets", dark=True, phone=True),
    State("datasets-none", "/datasets", person="newcomer"),
    State("datasets-chosen", "/datasets", prepare=chosen_files, phone=True),
    State("dataset-ready", "dataset support-chats", prepare=examples, dark=True, phone=True),
    State("dataset-rejected", "dataset broken-export", dark=True, phone=True),
    State("dataset-validating", "dataset all-tickets-2026"),
    State("dataset-delete", "dataset support-chats", prepare=asks("Delete…")),
    State("wizard", "wizard", prepare=priced, dark=True, phone=True),
    State("wizard-few-examples", "wizard few examples", prepare=priced),
    State("wizard-advanced", "wizard mistaken", person="linus", prepare=advanced),
    State("wizard-code", "wizard", prepare=as_code),
    State("wizard-no-balance", "wizard no balance", person="grace", prepare=priced),
    State("wizard-nothing", "/fine-tune/new", person="newcomer"),
    State(
        "wizard-4-bit",
        NEW,
        person="mary",
        prepare=wizard("#precision.is-warn", micro_batch_size="8"),
    ),
    State(
        "wizard-does-not-fit",
        NEW,
        person="mary",
        prepare=wizard("#does-not-fit", micro_batch_size="256"),
    ),
    State(
        "wizard-waiting",
        NEW,
        person="mary",
        prepare=wizard("#elsewhere", gpu_type="a100-40"),
        dark=True,
        phone=True,
    ),
    State("wizard-changed", NEW, person="mary", prepare=changed, phone=True),
    State("jobs", "/fine-tune", dark=True, phone=True),
    State("jobs-compared", "/fine-tune", prepare=compared, dark=True, phone=True),
    State("jobs-none", "/fine-tune", person="newcomer"),
    State("job-waiting", "waiting", prepare=drawn),
    State("job-training", "training", prepare=drawn, dark=True, phone=True),
    State("job-training-just-begun", "training-just-begun", prepare=drawn),
    State("job-many-points", "many-points", prepare=drawn),
    State("job-table", "training", prepare=table, phone=True),
    State("job-pause", "training", prepare=asked_to_pause, dark=True, phone=True),
    State("job-evaluating", "evaluating", prepare=drawn),
    State("job-registering", "registering", prepare=drawn),
    State("job-registered", "registered", prepare=drawn, dark=True, phone=True),
    State("job-registered-undeployed", "registered-undeployed", prepare=drawn),
    State("job-paused-owner", "paused-owner", prepare=drawn),
    State("job-paused-balance", "paused-balance", "grace", prepare=drawn, dark=True, phone=True),
    State("job-paused-capacity", "paused-capacity", prepare=drawn),
    State("job-tried-again", "tried-again", prepare=drawn, dark=True, phone=True),
    State("job-failed", "failed", prepare=drawn, dark=True, phone=True),
    State("job-cancelled", "cancelled", prepare=drawn),
    State("job-promoted", "promoted", prepare=drawn),
    State("job-deployment-failed", "deployment-failed", "vera", drawn, dark=True, phone=True),
    State("job-reconnecting", "deploying", "vera", reconnecting, dark=True, phone=True),
    State("job-first-paint", "training"),
    State("job-many-points-first-paint", "many-points"),
    State("job-cancel", "training", prepare=asks("Cancel"), dark=True, phone=True),
    State("job-resume", "paused-owner", prepare=asks("Resume")),
    State("billing", "/billing", dark=True, phone=True),
    State("billing-refused", "/billing", prepare=refused_amount),
    State("billing-new", "/billing", person="newcomer"),
    State("billing-empty", "/billing", person="grace"),
    State("billing-no-days", "/billing?first=2026-02-01&last=2026-01-01", person="newcomer"),
    State("models", "/models", dark=True, phone=True),
    State("models-none", "/models", person="newcomer"),
    State("models-deploying", "/models", person="vera", dark=True, phone=True),
    State("models-promote", "/models", prepare=asks("Promote")),
    State("models-undeploy-checkpoint", "/models", person="vera", prepare=asked_to_undeploy),
    State("models-revoke", "/models", person="newcomer", prepare=asks("Revoke")),
    State("models-new-key", "/models", person="vera", prepare=new_key, dark=True, phone=True),
    State("playground", "/models/playground", dark=True, phone=True),
    State("playground-answered", "/models/playground", "ada", conversation, dark=True, phone=True),
)

FULL_JOBS = ("training", "registered", "failed", "many-points")
"""Of the many states of a job's page those in which most is on it."""

PAGES = tuple(
    {
        each.path.partition("?")[0]: each
        for each in reversed(STATES)
        if each.path in FULL_JOBS or not (each.missing or each.name.startswith("job-"))
    }.values()
)
"""One state of each page."""
