"""User actions that bring a page into a state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from gateway.http.sessions import COOKIE


def open_menu(page: Page) -> None:
    """Open the account's menu."""
    page.locator("details.menu summary").click()
    expect(page.get_by_role("link", name="API reference")).to_be_visible()


def choose_files(page: Page, *files: tuple[str, bytes]) -> None:
    """Choose files to upload."""
    page.get_by_label("Choose files").set_input_files(
        [{"name": name, "mimeType": "application/jsonl", "buffer": text} for name, text in files]
    )


def choose_two_files(page: Page) -> None:
    """Choose two files, one of them empty."""
    choose_files(page, ("may-chats.jsonl", b"{}"), ("nothing.jsonl", b""))
    expect(page.locator(".queued").last).to_be_visible()


def fail_uploads(page: Page) -> None:
    """Upload files that are too large, refused, and interrupted."""
    page.get_by_label("Choose files").evaluate(
        """(chooser) => {
            const chosen = new DataTransfer();
            chosen.items.add(new File([new Uint8Array(81_300_000)], "all-tickets.jsonl"));
            chooser.files = chosen.files;
            chooser.dispatchEvent(new Event("change"));
        }"""
    )
    choose_files(page, ("may-chats.jsonl", b"x" * 310_000), ("june-chats.jsonl", b"x" * 290_000))

    def answer(route: Route) -> None:
        if "june" in route.request.url:
            return route.abort("connectionreset")
        message = "the artifact store cannot be reached now; try again in a moment"
        return route.fulfill(status=503, json={"error": {"message": message}})

    page.route(f"**{UPLOAD_URL}*", answer)
    page.get_by_role("button", name="Upload 2 files").click()
    expect(page.locator(".queued.is-refused")).to_have_count(3)


UPLOAD_URL = "/api/datasets?name="


def end_session(page: Page) -> None:
    """Replace the session's cookie by an invalid one."""
    url = page.url
    page.goto("about:blank")  # or what the page asks for meanwhile takes it elsewhere
    page.context.add_cookies([{"name": COOKIE, "value": "ended", "url": url}])
    page.goto(url)
    expect(page.get_by_label("API key")).to_be_visible()


def enter_wrong_key(page: Page) -> None:
    """Sign in with an unknown key."""
    page.get_by_label("API key").fill("eco_9dJk2wq0")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()


def enter_wrong_public_key(page: Page) -> None:
    """Start a verification with a wrong key, head and position."""
    page.get_by_label("Public key").fill("ecolink/f3a1+0a1b2c3d+AbCd")
    page.get_by_label("Kept head").fill("ecolink/f3a1\n1742\n")
    page.get_by_label("Start after position").fill("soon")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#since-problem")).to_be_visible()


def await_examples(page: Page) -> None:
    """Wait for the examples of a dataset."""
    expect(page.locator("article mark").first).to_be_visible()


def open_hub(page: Page) -> None:
    """Open the form for a dataset from a hub."""
    page.locator("#hub summary").click()
    page.get_by_label("Repository").fill("acme/chats")


def open_budgets(page: Page) -> None:
    """Open the form of the budgets of API keys, and enter a wrong amount for one."""
    form = page.locator("details.budget").first
    form.locator("summary").click()
    form.locator("input[name=limit]").fill("much")
    form.get_by_role("button", name="Save").click()
    expect(page.locator("details.budget .field-problem")).to_be_visible()


def press(button: str) -> Callable[[Page], None]:
    """Return an action that presses a button which opens a dialog."""

    def prepare(page: Page) -> None:
        page.get_by_role("button", name=button, exact=True).first.click()
        expect(page.get_by_role("dialog")).to_be_visible()

    return prepare


def choose_two_jobs(page: Page) -> None:
    """Select two jobs, which is the maximum."""
    for number in range(2):
        page.locator("input[name=jobs]").nth(number).check()
    expect(page.locator("#compare-help")).to_have_attribute("data-chosen", "2")


def compare_two_jobs(page: Page) -> None:
    """Compare two jobs."""
    choose_two_jobs(page)
    page.get_by_role("button", name="Compare curves").click()
    expect(page.get_by_role("heading", name="Compare jobs")).to_be_visible()


def choose_all_fields(page: Page) -> None:
    """Choose base model, GPU type and region, so that the wizard shows an estimate."""
    for name, value in (
        ("base_model", "llama-3.1-8b-instruct"),
        ("gpu_type", "h100"),
        ("region", "eu-central"),
    ):
        page.locator(f"#{name}").select_option(value)
        expect(page.locator(f"#{name}")).to_have_attribute("data-chosen", value)
    expect(page.locator("#summary")).to_be_visible()


def enter_invalid_dropout(page: Page) -> None:
    """Enter an invalid value in an advanced field."""
    choose_all_fields(page)
    page.get_by_text("Advanced", exact=False).first.click()
    page.locator("#dropout").fill("2")
    page.locator("#dropout").press("Tab")
    expect(page.locator("#dropout-problem")).to_be_visible()


def show_code(page: Page) -> None:
    """Show the job as a command and as a program."""
    choose_all_fields(page)
    page.locator("#copies > summary").click()
    expect(page.locator("#command-line")).to_be_visible()


def await_curve(page: Page) -> None:
    """Wait for the job's curve, if it has one."""
    page.wait_for_load_state("networkidle")


def show_curve_table(page: Page) -> None:
    """Show the curve as a table."""
    await_curve(page)
    page.locator("#curve-table > summary").click()
    expect(page.locator("#curve-table tbody tr").first).to_be_visible()


def lose_connection(code: int, said: str) -> Callable[[Page], None]:
    """Return an action that closes the page's connection. After code 1, the page reconnects."""

    def prepare(page: Page) -> None:
        await_curve(page)
        page.locator("#job").evaluate(
            "(job, detail) => job.dispatchEvent(new CustomEvent('htmx:ws:close', { detail }))",
            {"reason": "closed", "code": code, "connection": {"config": {"reconnectCodes": [1]}}},
        )
        expect(page.locator("#connection")).to_contain_text(said)

    return prepare


def enter_excessive_gpu_count(page: Page) -> None:
    """Enter more GPUs than a job may have."""
    press("Resume")(page)
    page.get_by_label("GPU count").fill("9")
    expect(page.locator("#resume-quote .problem")).to_be_visible()


def press_undeploy_base(page: Page) -> None:
    """Press the button that undeploys a base model."""
    page.get_by_role("row", name="qwen2.5").get_by_role("button", name="Undeploy").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def preview_price(page: Page) -> None:
    """Preview another price of a GPU type."""
    page.get_by_label("Price of one GPU per hour").fill("1.25")
    page.get_by_role("button", name="Preview", exact=True).click()
    expect(page.get_by_role("button", name="Confirm")).to_be_visible()


def preview_old_price(page: Page) -> None:
    """Preview another price in a form that was opened before another change."""
    page.locator("#gpu-type input[name=version]").evaluate("each => { each.value = 1; }")
    preview_price(page)
    expect(page.locator("[data-stale]")).to_be_visible()


def preview_capacity(page: Page) -> None:
    """Preview a smaller number of GPUs in a region."""
    page.get_by_label("GPU type").select_option("l4")
    page.get_by_label("Number of GPUs").fill("0")
    page.locator("#capacity").get_by_role("button", name="Preview").click()
    expect(page.get_by_role("button", name="Confirm")).to_be_visible()


def prove_growth(page: Page) -> None:
    """Prove that the log begins with the events of the newest head."""
    head = page.locator("#newest-head").text_content()
    assert head is not None
    page.get_by_label("Kept head").fill(head)
    page.get_by_role("button", name="Prove").click()
    expect(page.locator("[data-grown]")).to_be_visible()


LISTS = ("dataset", "base_model", "gpu_type", "region")
WIZARD = "/fine-tune/new"
CHOSEN = {
    "dataset": "tickets — 1,500 examples",
    "base_model": "llama-3.1-8b-instruct",
    "gpu_type": "l4",
    "region": "eu-central",
}


def fill_wizard(until: str, **fields: str) -> Callable[[Page], None]:
    """Return an action that fills an empty wizard until the page shows a selector."""

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


def choose_every_option(page: Page) -> None:
    """Choose each option that is not the default, with a learning rate that cannot learn."""
    options = {"learning_rate": "1e-8", "early_stopping_patience": "2", "n_checkpoints": "3"}
    options |= {"eval_steps": "25", "early_stopping_threshold": "0.01"}
    fill_wizard("#cautions", suffix="support", max_sequence_length="128", **options)(page)
    for name in ("deploy", "load_best_model_at_end", "use_rslora", "use_dora"):
        page.locator(f"#{name}").check()
    page.get_by_role("button", name="All linear layers").click()
    expect(page.locator("#preset-3[aria-pressed=true]")).to_be_visible()


def approve_changed_estimate(page: Page) -> None:
    """Approve an estimate that differs from the shown one."""
    fill_wizard("#approve:enabled")(page)
    # At once: an estimate that comes in between would be the one that was seen.
    page.locator("input[name=seen]").evaluate(
        "(seen) => { seen.value = 'another'; document.querySelector('#approve').click(); }"
    )
    expect(page.locator("#approve-alert")).to_be_visible()


def enter_zero_amount(page: Page) -> None:
    """Enter an amount that cannot be paid."""
    page.get_by_label("Amount in dollars").fill("0")
    page.locator("#top-up-button").click()
    expect(page.locator("#amount-problem")).to_be_visible()


def create_key(page: Page) -> None:
    """Create an API key."""
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#new-secret")).to_be_visible()


def create_limited_key(page: Page) -> None:
    """Create a member's key with a name and an expiry."""
    form = page.locator("#key-form")
    form.get_by_label("Name").fill("evaluation script")
    form.get_by_label("Expires").select_option("30")
    form.get_by_text("Role and scopes").click()
    form.get_by_label("Role").select_option("member")
    form.get_by_label("deploy").uncheck()
    create_key(page)


def create_webhook(page: Page) -> None:
    """Create a webhook for two types of events."""
    form = page.locator("#webhook-form")
    form.get_by_label("URL").fill("https://hooks.example.com/ecolink")
    form.locator("summary").click()
    form.get_by_label("balance.low").uncheck()
    page.get_by_role("button", name="Create webhook").click()
    expect(page.locator("#new-secret")).to_be_visible()


def show_attempts(page: Page) -> None:
    """Show the attempts of the newest delivery that waits."""
    page.locator("[data-status=pending] summary").first.click()
    expect(page.locator("[data-status=pending] ol").first).to_be_visible()


def view_account_of_ada(page: Page) -> None:
    """Show the account of ada to an auditor."""
    page.get_by_label("Name or ID of another account").fill("ada")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".viewing strong")).to_have_text("ada")


def request_wrong_days(page: Page) -> None:
    """Request an invoice whose last day is before its first day."""
    page.get_by_text("Other days").click()
    page.locator("#first").fill("2026-11-02")
    page.locator("#last").fill("2026-11-01")
    page.locator("#request-days").click()
    expect(page.locator("#invoice-problem")).to_be_visible()


def press_undeploy_checkpoint(page: Page) -> None:
    """Press the button that undeploys a checkpoint."""
    row = page.locator(".row", has_text="ckpt-step").first
    row.get_by_role("button", name="Undeploy").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def send_message(page: Page) -> None:
    """Send a message to a model and its base. The replies are made up, because nothing serves."""

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


def move_slider(page: Page) -> None:
    """Move the slider of a job's audit page to an earlier event with the keyboard."""
    title = page.locator("#moment-title")
    _, number, _, count = title.inner_text().split()
    assert number == count
    slider = page.locator("#number")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    expect(title).to_have_text(f"Event {int(count) - 3} of {count}")
    expect(slider).to_be_focused()
    position = page.locator("#moment-event a").first.inner_text()
    expect(page).to_have_url(re.compile(rf"\?at={position}$"))
    page.reload()
    expect(title).to_have_text(f"Event {int(count) - 3} of {count}")
