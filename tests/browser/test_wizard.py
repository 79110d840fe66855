"""The wizard in a browser: changes, drafts and gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from gateway.jobs.pages.wizard.entries import refusal
from tests.browser.sample_platform import SamplePlatform
from tests.browser.tabs import Tabs, until
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.full

PATH = "/fine-tune/new"
JOB = re.compile(r"/fine-tune/ftjob-[0-9a-f]{32}$")
MOST_STOPS = 80  # of the Tab key on one page


@pytest.fixture
def dataset(person: EcoLinkUnderTest, tmp_path: Path) -> str:
    return person.dataset(tmp_path, 10)


def approve(page: Page) -> Locator:
    return page.locator("#approve")


def begin(page: Page, dataset: str) -> None:
    """Open the wizard with a dataset, and choose the base."""
    page.goto(f"{PATH}?dataset={dataset}")
    page.get_by_label("Base model", exact=True).select_option("tiny")
    expect(page).to_have_url(re.compile(f"{PATH}$"))  # the first change saves a draft
    expect(page.locator("#phases")).to_be_visible()


def test_alpha_follows_r_until_it_is_changed(page: Page, dataset: str) -> None:
    begin(page, dataset)
    rank, alpha = (
        page.get_by_label("LoRA r", exact=True),
        page.get_by_label("LoRA alpha", exact=True),
    )
    rank.fill("32")
    expect(alpha).to_have_value("64")
    expect(rank).to_be_focused()
    alpha.fill("20")
    rank.fill("8")
    expect(page.locator("#follow-r")).to_be_visible()
    expect(alpha).to_have_value("20")
    page.locator("#follow-r").click()
    expect(alpha).to_have_value("16")


def test_a_response_does_not_disturb_typing(page: Page, dataset: str) -> None:
    begin(page, dataset)
    page.get_by_text("Advanced", exact=True).click()
    name = page.get_by_label("Job name", exact=True)
    name.focus()
    with page.expect_response(lambda answer: answer.url.endswith("/estimate")):
        name.press_sequentially("support bot 2026", delay=120)
    expect(name).to_have_value("support bot 2026")
    expect(name).to_be_focused()
    expect(page.locator("#suffix-problem")).to_have_text(refusal("suffix", "support bot 2026"))
    assert name.evaluate("(field) => field.selectionStart") == len("support bot 2026")
    expect(page.get_by_label("Dropout", exact=True)).to_be_visible()  # the section stays open


def test_the_draft_survives_reload_back_and_a_second_tab(page: Page, dataset: str) -> None:
    begin(page, dataset)
    page.get_by_label("Epochs", exact=True).fill("7")
    page.get_by_label("LoRA r", exact=True).fill("64")
    expect(page.get_by_label("LoRA alpha", exact=True)).to_have_value("128")

    def is_kept(tab: Page) -> None:
        expect(tab.get_by_label("Dataset", exact=True)).to_have_value(dataset)
        expect(tab.get_by_label("Base model", exact=True)).to_have_value("tiny")
        expect(tab.get_by_label("Epochs", exact=True)).to_have_value("7")
        expect(tab.get_by_label("LoRA alpha", exact=True)).to_have_value("128")
        expect(tab.locator("#phases")).to_be_visible()

    page.reload()
    is_kept(page)
    page.goto("/fine-tune")
    page.go_back()
    is_kept(page)
    second = page.context.new_page()
    second.goto(PATH)
    is_kept(second)
    second.get_by_role("button", name="Start over").click()
    second.get_by_role("dialog").get_by_role("button", name="Start over").click()
    expect(second.get_by_label("Epochs", exact=True)).to_have_value("3")


def test_a_job_is_approved_by_keyboard_alone(page: Page, dataset: str) -> None:
    page.goto(f"{PATH}?dataset={dataset}")
    stop_at(page, "base_model")
    page.keyboard.type("tiny")
    expect(page.get_by_label("Base model", exact=True)).to_have_value("tiny")
    stop_at(page, "epochs")
    page.keyboard.type("1")  # replaces the selected text
    expect(page.get_by_label("Epochs", exact=True)).to_have_value("1")
    expect(page.locator("#steps .figure").nth(1).locator("dd")).to_contain_text("1")
    stop_at(page, "approve")
    page.keyboard.press("Enter")
    expect(page).to_have_url(JOB)


def stop_at(page: Page, element_id: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == element_id:
            return
    raise AssertionError(f"Tab does not come to #{element_id}")


def test_an_unseen_estimate_is_shown_instead_of_approved(page: Page, dataset: str) -> None:
    begin(page, dataset)
    expect(approve(page)).to_be_enabled()
    page.evaluate(
        """() => {
            document.getElementById("epochs").value = "50";
            document.getElementById("approve").click();
        }"""
    )
    notice = page.locator("#approve-alert")
    expect(notice).to_be_visible()
    with page.expect_response(lambda answer: "keep=false" in answer.url):
        pass
    expect(notice).to_be_visible()  # also after a refresh of the quote


def test_the_form_is_inert_during_an_approval(page: Page, dataset: str) -> None:
    begin(page, dataset)
    held: list[Route] = []
    page.route(f"**{PATH}", lambda route: held.append(route))
    approve(page).click()
    expect(page.locator("#wizard")).to_have_attribute("inert", "")
    until(page, lambda: len(held) == 1)
    held[0].fulfill(status=204)
    expect(page.locator("#wizard")).not_to_have_attribute("inert", "")
    expect(approve(page)).to_be_focused()
    approve(page).click()
    expect(page.locator("#wizard")).to_have_attribute("inert", "")
    page.locator("#epochs").dispatch_event("change")  # would replace the response
    until(page, lambda: len(held) == 2)
    held[1].continue_()
    expect(page).to_have_url(JOB)


def test_a_top_up_in_a_second_tab_opens_the_balance_gate(
    newcomer: Callable[..., EcoLinkUnderTest], tabs: Tabs, tmp_path: Path
) -> None:
    poor = newcomer(dollars=0.0001)
    page = tabs.open(poor)
    begin(page, poor.dataset(tmp_path, 10))
    gate = page.locator("#balance-gate")
    expect(gate).to_have_class("is-closed")
    expect(gate).to_contain_text("$0.01")
    expect(gate.get_by_role("link", name="Top up")).to_have_attribute("href", "/billing")
    expect(approve(page)).to_be_disabled()
    poor.top_up(5)
    expect(approve(page)).to_be_enabled()


@pytest.fixture
def busy(newcomer: Callable[..., EcoLinkUnderTest], tmp_path: Path) -> Iterator[None]:
    """Another account's job holds all GPUs of the default type."""
    other = newcomer()
    (tmp_path / "theirs").mkdir()
    long = {"epochs": 100, "gradient_accumulation": 1, "save_steps": 100_000}
    job = other.approve(other.dataset(tmp_path / "theirs", 1000), gpu_count=2, **long)
    other.await_events(job, "SegmentAllocated", 1)
    yield
    other.client.post(f"{job}/cancel", {})
    other.await_status(job, "cancelled")


def test_busy_gpus_close_the_capacity_gate(
    busy: None, page: Page, dataset: str, person: EcoLinkUnderTest
) -> None:
    begin(page, dataset)
    expect(page.locator("#capacity-gate")).to_have_class("is-closed")
    expect(approve(page)).to_be_disabled()

    page.locator("#elsewhere").get_by_role("button").first.click()
    expect(page.get_by_label("GPU type", exact=True)).to_have_value("cpu-small")
    expect(approve(page)).to_be_enabled()

    page.get_by_label("GPU type", exact=True).select_option("cpu")
    expect(approve(page)).to_be_disabled()
    page.locator("#wait").check()
    expect(page.locator("#capacity-gate")).to_have_class("is-open")
    approve(page).click()
    expect(page).to_have_url(JOB)
    job = f"/jobs/{page.url.rpartition('/')[2]}"
    assert person.client.get(job)["phase"] == "waiting for a GPU"
    person.client.post(f"{job}/cancel", {})


def test_a_link_to_a_problem_opens_its_section(page: Page, dataset: str) -> None:
    begin(page, dataset)
    page.get_by_text("Advanced", exact=True).click()
    page.get_by_label("Seed", exact=True).fill("none")
    expect(page.locator("#seed")).to_have_attribute("aria-invalid", "true")
    page.locator("#advanced > summary").click()
    expect(page.get_by_label("Seed", exact=True)).to_be_hidden()
    page.locator('#gates a[href="#seed"]').click()
    expect(page.get_by_label("Seed", exact=True)).to_be_focused()


def test_a_continued_model_keeps_its_shape_and_a_saved_template_the_page(
    sample_tabs: Tabs, sample: SamplePlatform
) -> None:
    page = sample_tabs.open(sample.people["ada"], PATH)
    rank, alpha = page.locator("#lora_r"), page.locator("#lora_alpha")
    base, dataset = page.locator("#base_model"), page.locator("#dataset")

    def values(choice: Locator) -> list[str]:
        options = choice.locator("option").all()
        return [value for each in options if (value := each.get_attribute("value"))]

    names = values(base)
    plain = next(each for each in names if not each.startswith("ft:"))
    dataset.select_option(values(dataset)[0])
    base.select_option(plain)
    rank.fill("8")
    expect(alpha).to_have_value("16")
    base.select_option(next(each for each in names if each.startswith("ft:")))
    expect(rank).to_be_disabled()
    expect(page.locator("#use_dora")).to_be_disabled()
    expect(rank).to_have_value("16")
    expect(alpha).to_have_value("32")
    base.select_option(plain)
    expect(rank).to_be_enabled()
    expect(rank).to_have_value("16")
    page.get_by_role("button", name="Save as template…").click()
    page.locator("#template-name").fill("Mine")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.locator("#notices")).to_contain_text("Saved as the template Mine")
    expect(page.locator("#save-template")).to_be_hidden()
    expect(page).to_have_url(re.compile(f"{PATH}$"))
