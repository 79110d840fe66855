"""Datasets in a browser: uploads by chooser, drop and keyboard, and their pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.full

SLOW_BYTES_PER_SECOND = 100_000
POLL_MS = 1_000  # interval at which a page polls


def chat(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Where is order {number}?"},
            {"role": "assistant", "content": f"Order {number} arrives tomorrow."},
        ]
    }


def jsonl(name: str, *lines: Any) -> FilePayload:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    content = "".join(text + "\n" for text in texts).encode()
    return {"name": name, "mimeType": "application/jsonl", "buffer": content}


CHATS = [chat(number) for number in range(7)]


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))


def drop(page: Page, *files: FilePayload) -> None:
    """Drag files onto the page and drop them."""
    carried = page.evaluate_handle(
        """(files) => {
            const carried = new DataTransfer();
            for (const [name, text] of files) carried.items.add(new File([text], name));
            return carried;
        }""",
        [[file["name"], file["buffer"].decode()] for file in files],
    )
    page.dispatch_event(".drop", "dragenter", {"dataTransfer": carried})
    expect(page.locator("#upload")).to_have_class(re.compile("is-over"))
    page.dispatch_event(".drop", "drop", {"dataTransfer": carried})


def test_an_upload_becomes_ready_to_train_without_a_reload(page: Page) -> None:
    page.goto("/datasets")
    expect(page.get_by_role("heading", name="No datasets yet")).to_be_visible()
    page.get_by_label("Choose files").set_input_files(jsonl("may chats.jsonl", *CHATS, CHATS[0]))
    expect(page.get_by_label("Name")).to_have_value("may chats")
    page.get_by_label("Name").fill("shop chats")
    page.get_by_role("button", name="Upload", exact=True).click()
    ready = row(page, "shop chats")
    expect(ready).to_contain_text("ready to train")
    expect(ready).not_to_contain_text("counting")
    expect(ready.get_by_role("cell").nth(1)).to_have_text("7")
    expect(ready.get_by_role("button", name="Train on shop chats")).to_have_attribute(
        "href", re.compile(r"/fine-tune/new\?dataset=")
    )
    ready.get_by_role("link", name="shop chats", exact=True).click()
    expect(page.get_by_text("1 line repeats an earlier example")).to_be_visible()
    learned = page.locator("article mark")
    expect(learned.first).to_contain_text("Order 0 arrives tomorrow.")
    expect(page.get_by_text("1 to 5 of 7")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(learned.first).to_contain_text("Order 5 arrives tomorrow.")
    expect(page.get_by_role("button", name="Next")).to_be_focused()


def test_dropped_files_are_uploaded_and_a_rejected_one_shows_its_invalid_lines(page: Page) -> None:
    page.goto("/datasets")
    bad = '{"messages": [{"role": "user", "content": "It said "no" to me"}]}'
    drop(page, jsonl("good.jsonl", *CHATS), jsonl("bad.jsonl", CHATS[0], bad))
    page.get_by_role("button", name="Upload 2 files").click()
    expect(row(page, "good")).to_contain_text("ready to train")
    expect(row(page, "bad")).to_contain_text("rejected 1 error")
    page.get_by_role("link", name="open bad").click()
    expect(page.locator("[data-errors='1']")).to_be_visible()
    expect(page.get_by_role("heading", name="Line 2")).to_be_visible()
    expect(page.locator("pre.excerpt")).to_have_text(bad)
    expect(page.locator("mark.wrong")).to_have_text("n")


def test_an_open_page_shows_the_end_of_the_validation(
    page: Page, person: EcoLinkUnderTest, ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(jsonl("", *CHATS)["buffer"])
    with ecolink.paused("datasets"):
        uploaded = person.client.upload(path, "chats")
        page.goto(f"/datasets/{uploaded['id']}")
        expect(page.locator(".validation")).to_be_visible()
        question = page.get_by_role("dialog", name="Delete chats?", include_hidden=True)
        expect(question).not_to_contain_text("7 examples")
        page.get_by_role("button", name="Delete…").focus()
    expect(page.get_by_role("button", name="Train")).to_be_visible()
    expect(page.locator("#dataset [hx-trigger^=every]")).to_have_count(0)
    expect(page.locator("figcaption[data-median]")).to_be_visible()
    expect(page.locator("article mark").first).to_contain_text("Order 0 arrives tomorrow.")
    expect(page.locator("[data-lengths=counting]")).to_have_count(0)
    expect(question).to_contain_text("7 examples")
    expect(page.get_by_role("button", name="Delete…")).to_be_focused()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(3 * POLL_MS)
    assert asked == []


def test_an_upload_shows_its_progress_and_can_be_cancelled(page: Page) -> None:
    page.goto("/datasets")
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": 0,
            "downloadThroughput": -1,
            "uploadThroughput": SLOW_BYTES_PER_SECOND,
        },
    )
    page.get_by_label("Choose files").set_input_files(jsonl("slow.jsonl", "x" * 3_000_000))
    page.get_by_role("button", name="Upload", exact=True).click()
    bar = page.get_by_role("progressbar", name="Upload of slow.jsonl")
    expect(bar).to_be_visible()
    expect(bar).to_have_attribute("value", re.compile(r"^0\.\d+$"))
    expect(page.get_by_text(re.compile(r"of 3\.0 MB, \d+%"))).to_be_visible()
    page.get_by_role("button", name="Cancel slow.jsonl").click()
    expect(page.locator(".queued[data-state=cancelled]")).to_be_visible()
    expect(page.locator("#upload-actions")).to_be_hidden()
    expect(page.get_by_role("heading", name="No datasets yet")).to_be_visible()


def test_an_invalid_file_shows_the_reason_and_is_not_uploaded(page: Page) -> None:
    page.goto("/datasets")
    page.evaluate("document.getElementById('upload').dataset.limit = 100")
    page.evaluate("document.getElementById('upload').dataset.limitText = '100 B'")
    page.get_by_label("Choose files").set_input_files(
        [jsonl("large.jsonl", *CHATS), {**jsonl("nothing.jsonl"), "buffer": b""}]
    )
    refused = page.locator(".queued[data-state=refused] .queued-said")
    expect(refused).to_have_count(2)
    expect(refused.first).to_contain_text("100 B")
    expect(page.get_by_role("button", name="Upload")).to_be_hidden()
    page.get_by_role("button", name="Remove large.jsonl").click()
    expect(page.get_by_role("button", name="Remove nothing.jsonl")).to_be_focused()


def test_a_dataset_is_uploaded_and_deleted_by_keyboard(page: Page) -> None:
    page.on("filechooser", lambda _: None)  # without a listener, the browser opens its own dialog
    page.goto("/datasets")
    page.locator("#main").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Generate a dataset")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose files")).to_be_focused()
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files(jsonl("chats.jsonl", *CHATS))
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("typed")  # the proposed name is selected
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="open typed")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="typed", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Train")).to_be_visible()
    page.get_by_role("button", name="Delete…").focus()
    page.keyboard.press("Enter")
    question = page.get_by_role("dialog", name="Delete typed?")
    expect(question).to_contain_text("7 examples")
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    page.keyboard.press("Enter")
    question.get_by_role("button", name="Delete").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/datasets$"))
    expect(page.get_by_role("heading", name="No datasets yet")).to_be_visible()
