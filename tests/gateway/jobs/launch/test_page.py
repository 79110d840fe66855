"""The wizard: its page, its problems and its approvals."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from urllib.parse import unquote
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import because
from domain.core.identity import gpu_pool_id
from domain.core.money import CENT_MICROS
from domain.jobs.job import Job
from domain.training.cautions import cautions
from domain.training.hyperparameters import FIELDS, Group, Hyperparameters, names_in
from gateway.jobs.pages.wizard.entries import GONE_DATASET, refusal, remedy, typed
from gateway.jobs.pages.wizard.page import CHANGED, USED
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.base_models.importing import importing
from infrastructure.postgres.store import connect
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.launch.wizard_form import PATH, Wizard, problem
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser, signed_in
from tests.polling import eventually


def test_a_new_form_has_the_default_of_each_hyperparameter(wizard: Wizard) -> None:
    sent = wizard.shown.fields
    names, default = names_in(Group.BASIC, Group.ADVANCED), typed(Hyperparameters())
    hidden = {"command_key", "made", "alpha_followed", "seen", "tab", "revision"}
    assert {name: value for name, value in sent.items() if name not in hidden} == {
        "dataset": "",
        "validation_dataset": "",
        "base_model": BASE_MODEL,  # the only one
        "suffix": "",
        "gpu_type": "cpu",
        "gpu_count": "1",
        "region": "local",
        "max_cost": "",
        **{
            name: default[name]
            for name in names
            if FIELDS[name].default is not False and name != "beta"  # only with preference pairs
        },
    }
    headings = [each.text for each in wizard.shown.all() if each.tag == "h2"]
    assert [each[0] for each in headings] == list("123456")
    assert "open" not in wizard.shown["advanced"].attributes
    assert wizard.shown["gates"].text == "Choose a dataset."
    assert not wizard.is_clickable


def test_the_page_has_the_specified_sentences(wizard: Wizard) -> None:
    text = wizard.complete().text
    for sentence in (
        "The dataset has 10 examples; 1,000 or more are recommended.",
        "For a typical 1k-example dataset on a 7B base, 1 GPU is almost always the right call.",
        "finishes faster but costs proportionally more",
        "If Tier 2 doesn't matter for your case, leave it.",
        "The lower bound assumes everything goes smoothly; the upper bound includes a 30% headroom",
        "0.60 an hour each",
    ):
        assert sentence in text
    assert "not calibrated" in text
    assert "so the real bill almost always lands inside the range" not in text


def test_it_shows_the_quote_of_the_api(wizard: Wizard) -> None:
    shown = wizard.complete()
    body = {"dataset": str(wizard.dataset), "base_model": BASE_MODEL}
    quote = wizard.browser.client.post(
        "/api/estimates", json=body, headers=wizard.browser.htmx
    ).json()
    assert quote["fit"]["banner"] in shown["precision"].text
    assert quote["balance"]["left"]["text"] in shown["impact"].text
    rows = [each for each in shown["phases"].all() if each.tag == "tr"][1:]
    most = [each["high"]["micros"] for each in quote["estimate"]["phases"]]
    assert len(rows) == len(most)
    small = [0 < each < CENT_MICROS for each in most]
    assert any(small)
    assert ["<$0.01" in row.text for row in rows] == small
    assert [each.text.split()[0] for each in shown["steps"].all() if each.tag == "dd"] == [
        str(quote["effective_batch"]),
        str(quote["estimate"]["total_steps"]),
        "0",
    ]
    assert len([each for each in shown.all() if each.tag == "svg"]) == 2
    assert wizard.is_clickable


def test_datasets_with_the_same_name_have_their_time(wizard: Wizard, platform: Platform) -> None:
    other = platform.dataset(wizard.browser.person)
    platform.project()
    for dataset_id in (wizard.dataset, other):
        assert "UTC" not in wizard.open()[f"dataset-{dataset_id}"].text
        with connect(platform.settings) as connection:
            set_dataset_name(connection, dataset_id, "support")
    for dataset_id in (wizard.dataset, other):
        assert "UTC" in wizard.open()[f"dataset-{dataset_id}"].text


def test_the_balance_impact_has_two_decimals(wizard: Wizard, platform: Platform) -> None:
    for credited in (4_934_001, 2_000):
        platform.credit(wizard.browser.person, credited)
        platform.project()
        impact = wizard.complete()["impact"].text
        now, needed, left = map(Decimal, re.findall(r"\$([0-9.]+)", impact))
        assert now - needed == left
        assert re.fullmatch(r"(?:[^$]*\$[0-9]+\.[0-9]{2}){3}\s*", impact)


def test_one_live_region_summarizes_the_form(wizard: Wizard) -> None:
    assert wizard.shown["status-now"].text == "Choose a dataset."
    status = wizard.complete()["status-now"].text
    assert "$" in status
    assert wizard.change(epochs="x")["status-now"].text == refusal("epochs", "x")
    loud = ("status", "alert")
    page = read_html(wizard.browser.client.get(PATH).text)
    live = [e for e in page["main"].all() if e.attributes.get("role") in loud]
    assert [each.attributes["id"] for each in live] == ["wizard-status"]
    assert all("aria-live" not in each.attributes for each in page["main"].all())


def test_truncated_examples_are_counted_and_warned_of(wizard: Wizard) -> None:
    wizard.complete()
    assert "10 of 10" in wizard.change(max_sequence_length="49")["steps"].text
    assert "50 of 100" in wizard.change(max_sequence_length="45")["truncation"].text
    assert wizard.is_clickable


def test_hyperparameters_that_rarely_work_have_a_warning(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(learning_rate="1", dropout="0.9")
    chosen = Hyperparameters(learning_rate=1.0, dropout=0.9)
    assert all(each in shown["cautions"].text for each in cautions(chosen))
    assert wizard.is_clickable


def test_a_length_that_leaves_no_trainable_token_offers_a_longer_one(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(max_sequence_length="40")
    (button,) = [each for each in shown["nothing-to-learn"].all() if each.tag == "button"]
    assert "50" in button.text
    assert not wizard.is_clickable
    shown = wizard.click("max_sequence_length=50&trainable_tokens=0")
    assert shown.fields["max_sequence_length"] == "50"
    assert wizard.is_clickable


def test_early_stopping_that_cannot_take_effect_has_a_warning(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(early_stopping_patience="3")
    assert "Early stopping cannot take effect" in shown["cautions"].text
    assert wizard.is_clickable


def test_alpha_follows_r_until_the_user_sets_it(wizard: Wizard) -> None:
    wizard.complete()
    assert wizard.change(lora_r="1o").fields["lora_alpha"] == "32"
    assert wizard.change(lora_r="64").fields["lora_alpha"] == "128"
    assert wizard.change(lora_r="8").fields["lora_alpha"] == "16"
    assert wizard.change(lora_alpha="20").fields["lora_alpha"] == "20"
    assert wizard.change(lora_r="32").fields["lora_alpha"] == "20"
    assert wizard.click("lora_alpha=follow").fields["lora_alpha"] == "64"
    assert wizard.change(lora_r="4").fields["lora_alpha"] == "8"


def test_alpha_follows_the_root_of_r_with_rank_stabilized_lora(wizard: Wizard) -> None:
    wizard.complete()
    wizard.change(lora_r="256")
    shown = wizard.change(use_rslora="true")
    assert shown.fields["lora_alpha"] == "32"
    assert shown.find("cautions") is None
    assert wizard.change(use_rslora="").fields["lora_alpha"] == "512"


def test_a_wrong_value_is_refused_beside_its_field(
    wizard: Wizard, subtests: pytest.Subtests
) -> None:
    for name, entry in (
        ("epochs", "abc"),
        ("epochs", ""),
        ("epochs", "2.5"),
        ("epochs", "101"),
        ("learning_rate", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "1e999"),
        ("dropout", "1"),
        ("gpu_count", "0"),
        ("suffix", "a b"),
        ("save_steps", "1,000"),
    ):
        valid = wizard.complete().fields[name]
        with subtests.test(f"{name} {entry}"):
            shown = wizard.change(**{name: entry})
            assert problem(shown, name) == refusal(name, entry)
            assert shown.fields[name] == entry
            assert not wizard.is_clickable
            assert wizard.approve() is None
            assert wizard.jobs() == []
        wizard.change(**{name: valid})
        assert wizard.is_clickable


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("epochs", "Enter a whole number from 1 to 100."),
        ("learning_rate", "Enter a number above 0 and at most 1."),
        ("dropout", "Enter a number of at least 0 and below 1."),
        ("gpu_count", "Enter a whole number from 1 to 64."),
        ("max_sequence_length", "Enter a whole number from 16 to 1,048,576."),
        ("schedule", "Choose cosine, linear, constant or constant_with_warmup."),
    ],
)
def test_a_remedy_states_the_bounds_of_its_field(name: str, sentence: str) -> None:
    assert remedy(name) == sentence


def test_all_problems_are_shown_at_once_beside_the_rest(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(epochs="no", save_steps="no", lora_r="32")
    assert problem(shown, "epochs")
    assert problem(shown, "save_steps")
    assert "open" in shown["advanced"].attributes
    assert shown.fields["lora_alpha"] == "64"
    assert shown.find("precision") is not None  # memory does not depend on them
    assert shown.find("phases") is None  # but the cost does
    assert wizard.change(epochs="3", save_steps="50").find("phases") is not None
    assert wizard.change(learning_rate="x").find("phases") is not None


def test_modules_are_those_of_the_base(wizard: Wizard) -> None:
    wizard.complete()
    boxes = [
        e.attributes["value"]
        for e in wizard.shown["target_modules"].all()
        if "value" in e.attributes
    ]
    assert boxes == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    shown = wizard.change(target_modules=[])
    assert problem(shown, "target_modules") == refusal("target_modules", [])
    shown = wizard.change(target_modules=["qkv_proj"])
    assert "qkv_proj" in problem(shown, "target_modules")


def test_an_empty_list_has_a_banner(browser: Browser) -> None:
    page = read_html(browser.client.get(PATH).text)
    for step in ("step-1", "step-2"):
        assert [e for e in page[step].all() if "banner" in e.attributes.get("class", "")]


def test_too_little_balance_closes_the_gate(client: TestClient, platform: Platform) -> None:
    platform.base_model()
    person = platform.person()
    platform.credit(person, 100)
    wizard = Wizard(signed_in(client, person), platform, platform.dataset(person))
    platform.project()
    wizard.open()
    gate = wizard.complete()["balance-gate"]
    assert gate.attributes["class"] == "is-closed"
    assert next(e for e in gate.all() if e.tag == "a").attributes["href"] == "/billing"
    for shown in (gate, wizard.shown["wizard-bar"]):
        assert "$0.01" in shown.text
    assert not wizard.is_clickable
    assert wizard.approve() is None

    platform.credit(person, 5_000_000)
    assert wizard.look()["balance-gate"].attributes["class"] == "is-open"
    assert wizard.is_clickable


def test_a_region_without_free_gpus_shows_the_wait_and_free_gpus_elsewhere(
    wizard: Wizard,
) -> None:
    wizard.platform.open_pool("cpu-small", 1)
    wizard.platform.occupy(2)
    shown = wizard.complete()
    assert shown["capacity-gate"].attributes["class"] == "is-closed"
    for button in (wizard.button, shown["approve-bar"]):  # of which a screen shows one
        assert "wait" in button.text
    assert shown["capacity-gate"].text in shown["wizard-bar"].text
    assert not wizard.is_clickable
    assert wizard.approve() is None

    def offers() -> list[Node]:  # once the new pool is visible
        return [each for each in wizard.look()["elsewhere"].all() if each.tag == "button"]

    click = eventually(offers)[0]
    choose = unquote(click.attributes["hx-post"].partition("choose=")[2])
    assert wizard.click(choose).fields["gpu_type"] == "cpu-small"
    assert wizard.is_clickable


def test_waiting_in_the_queue_is_an_explicit_choice(wizard: Wizard) -> None:
    wizard.platform.occupy(2)
    wizard.complete()
    assert not [each for each in wizard.shown["elsewhere"].all() if each.tag == "button"]
    assert wizard.shown["wait"]
    wizard.change(wait="true")
    assert wizard.is_clickable
    assert "wait" in wizard.button.text
    assert wizard.approve() is not None


def test_a_choice_that_is_no_longer_available_stays_with_a_problem(wizard: Wizard) -> None:
    wizard.platform.open_pool("cpu-small", 1)
    wizard.complete()
    wizard.change(gpu_type="cpu-small")
    with because(wizard.platform.cause):
        pool = wizard.platform.log.load(GpuPool, gpu_pool_id("local", "cpu-small"))
        pool.change_capacity(0)
        wizard.platform.log.commit(pool)
        wizard.platform.deploying.undeploy_base(BASE_MODEL, lambda: 0)
        wizard.platform.ecolink.delete_dataset(wizard.browser.person.account_id, wizard.dataset, [])
    wizard.platform.project()
    shown = wizard.look()
    assert "cpu-small" in problem(shown, "gpu_type")
    assert BASE_MODEL in problem(shown, "base_model")
    assert problem(shown, "dataset") == GONE_DATASET
    sent = shown.fields
    assert (sent["gpu_type"], sent["base_model"]) == ("cpu-small", BASE_MODEL)
    assert sent["dataset"] == str(wizard.dataset)
    assert shown["gpu_type-gone"]


def test_a_chosen_dataset_is_found_beyond_the_newest(
    wizard: Wizard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.pages.wizard.lists.MOST_DATASETS", 1)
    assert wizard.look().find("more-datasets") is None
    newer = wizard.platform.dataset(wizard.browser.person)
    wizard.platform.project()
    assert wizard.complete()["more-datasets"]
    for each in (wizard.dataset, newer):  # of which one alone is listed
        shown = wizard.change(dataset=str(each))
        assert shown.fields["dataset"] == str(each)
        assert shown.find("dataset-gone") is None
        assert wizard.is_clickable


def test_a_job_is_approved_with_the_chosen_values(wizard: Wizard) -> None:
    wizard.complete()
    own = wizard.platform.dataset(wizard.browser.person)
    wizard.change(suffix="support", validation_dataset=str(own), epochs="2", lora_r="8")
    job_id = wizard.approve()
    assert job_id is not None
    job = wizard.platform.log.load(Job, job_id)
    assert job.plan.dataset_id == wizard.dataset
    assert job.plan.validation is not None
    assert job.plan.validation.dataset_id == own
    assert (job.plan.lora.epochs, job.plan.lora.lora_r, job.plan.lora.lora_alpha) == (2, 8, 16)
    assert (job.order.suffix, job.order.deploy) == ("support", False)


def test_the_validation_dataset_is_another(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(validation_dataset=str(wizard.dataset))
    assert problem(shown, "validation_dataset")


def test_only_the_estimate_that_was_seen_is_approved(wizard: Wizard) -> None:
    wizard.complete()
    assert wizard.approve(epochs="30") is None
    assert wizard.shown["approve-alert"].text == CHANGED
    assert wizard.jobs() == []
    assert wizard.approve() is not None


def test_a_double_click_makes_one_job(wizard: Wizard) -> None:
    wizard.complete()
    with ThreadPoolExecutor(4) as threads:
        led = set(threads.map(lambda _: wizard.send(), range(4)))
    assert len(led) == 1
    assert wizard.send() in led  # sent again, later
    assert len(wizard.jobs()) == 1


def test_a_form_that_made_a_job_links_it_and_makes_another_on_a_second_approval(
    wizard: Wizard,
) -> None:
    wizard.complete()
    job_id = wizard.approve()
    assert job_id is not None
    assert wizard.approve(epochs="2") is None
    assert wizard.shown["approve-alert"].text.startswith(USED)
    assert wizard.shown.fields["epochs"] == "2"
    for shown in (wizard.change(epochs="20"), wizard.look(), wizard.open()):
        assert shown.find("approve-alert") is None
        (link,) = [each for each in shown["made"].all() if each.tag == "a"]
        assert link.attributes["href"] == f"/fine-tune/ftjob-{job_id.hex}"
    assert len(wizard.jobs()) == 1
    assert wizard.approve() is not None
    assert len(wizard.jobs()) == 2


def test_a_job_has_a_guarantee_or_a_lower_maximum_cost(wizard: Wizard, platform: Platform) -> None:
    shown = wizard.complete()
    assert "You pay at most $" in shown["price-note"].text
    assert "--max-cost" not in shown["command-line"].text
    assert problem(wizard.change(max_cost="much"), "max_cost")
    wizard.change(max_cost="", epochs="")
    wizard.change(epochs="1")
    job_id = wizard.approve()
    assert job_id is not None
    job = platform.log.load(Job, job_id)
    assert job.max_cost_micros is None
    assert job.guarantee is not None
    assert job.guarantee.micros == job.estimate.high_micros
    shown = wizard.change(max_cost="0.0001")
    assert "--max-cost 0.0001" in shown["command-line"].text
    assert "The job pauses before it costs more." in shown["price-note"].text


def test_the_wizard_names_the_budgets_that_the_job_may_reach(
    wizard: Wizard, platform: Platform
) -> None:
    person = wizard.browser.person
    platform.spend(person, left_micros=1_000_000)

    def budget(limit_micros: int) -> str:
        with because(platform.cause):
            name = BudgetName(BudgetPeriod.DAY)
            platform.ecolink.set_budget(person.account_id, name, limit_micros)
        return wizard.look().text

    wizard.complete()
    assert "The daily budget of $20.00 has $1.00 left and is 95% used." in budget(20_000_000)
    assert wizard.is_clickable
    assert "to start. Raise or remove the budget" in budget(1)
    assert "budget" in wizard.shown["budget-gate"].text
    assert not wizard.is_clickable


def test_a_copy_of_a_job_has_its_maximum_cost(wizard: Wizard, platform: Platform) -> None:
    wizard.complete()
    job_id = wizard.approve(max_cost="1.5")
    assert job_id is not None
    assert platform.log.load(Job, job_id).max_cost_micros == 1_500_000
    copied = wizard.open(f"?like=ftjob-{job_id.hex}").fields
    assert copied["max_cost"] == "1.50"


def test_the_wizard_says_that_a_base_model_is_being_imported(
    browser: Browser, platform: Platform
) -> None:
    def banner() -> str:
        return Wizard(browser, platform, uuid4()).open()["no-base"].text

    with importing(platform.settings):
        assert "EcoLink imports a base model now" in banner()
    assert "An operator imports one with" in banner()
    platform.store_base()
    with because(platform.cause):
        platform.deploying.deploy_base(BASE_MODEL)
    platform.project()
    assert f"EcoLink deploys {BASE_MODEL} now" in banner()
