"""The wizard: what it shows, what it refuses, and what becomes of a draft."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import because
from domain.core.identity import gpu_pool_id
from domain.core.money import exact_dollars
from domain.jobs.job import Job
from domain.training.hyperparameters import FIELDS, Group, Hyperparameters, names_in
from gateway.launch.pages.entries import GONE_DATASET, requirement, typed
from gateway.launch.pages.wizard import CHANGED
from tests.gateway.conftest import BASE_MODEL, World
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import Browser, signed_in
from tests.gateway.web.wizard_form import PATH, Wizard, problem


def test_it_begins_with_the_documents_fields_and_defaults(wizard: Wizard) -> None:
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
        **{name: default[name] for name in names if FIELDS[name].default is not False},
    }
    headings = [each.text for each in wizard.shown.all() if each.tag == "h2"]
    assert headings == [
        "1 Dataset",
        "2 Base model",
        "3 GPU type and count",
        "4 LoRA hyperparameters",
        "5 Cost estimate",
        "6 Approve & Train",
    ]
    assert "open" not in wizard.shown["advanced"].attributes
    assert wizard.shown["gates"].text == "Choose a dataset."
    assert not wizard.is_clickable


def test_it_says_the_documents_sentences(wizard: Wizard) -> None:
    text = wizard.complete().text
    for sentence in (
        "The dataset has 10 examples; 1,000 or more are recommended.",
        "For a typical 1k-example dataset on a 7B base, 1 GPU is almost always the right call.",
        "finishes faster but costs proportionally more",
        "If Tier 2 doesn't matter for your case, leave it.",
        "The lower bound assumes everything goes smoothly; the upper bound includes a 30% headroom",
        "so the real bill almost always lands inside the range",
        "0.60 an hour each",
        "2 of 2 free; no wait",
    ):
        assert sentence in text


def test_it_shows_fit_range_and_balance_as_the_api_says_them(wizard: Wizard) -> None:
    shown = wizard.complete()
    body = {"dataset": str(wizard.dataset), "base_model": BASE_MODEL}
    quote = wizard.browser.client.post(
        "/api/estimates", json=body, headers=wizard.browser.htmx
    ).json()
    assert quote["fit"]["banner"] in shown["precision"].text
    assert exact_dollars(quote["balance"]["left"]["micros"]) in shown["impact"].text
    rows = [each for each in shown["phases"].all() if each.tag == "tr"][1:]
    assert len(rows) == len(quote["estimate"]["phases"])
    assert shown["steps"].text == (
        "Effective batch 16 examples a step Optimizer steps 3 in all epochs "
        "Truncated examples 0 of 10"
    )
    bars = [each for each in shown.all() if each.tag == "svg"]
    assert all("GiB are headroom" in each.text for each in bars)
    assert wizard.is_clickable


def test_one_sentence_tells_what_it_comes_to(wizard: Wizard) -> None:
    assert wizard.shown["status-now"].text == "Choose a dataset."
    status = wizard.complete()["status-now"].text
    assert re.fullmatch(r"Estimate (\$[\d.]+|up) to \$[\d.]+; ready to approve\.", status)
    assert "Epochs must be" in wizard.change(epochs="x")["status-now"].text
    loud = ("status", "alert")
    page = read_html(wizard.browser.client.get(PATH).text)
    told = [e for e in page["main"].all() if e.attributes.get("role") in loud]
    assert [each.attributes["id"] for each in told] == ["wizard-status"]
    assert all("aria-live" not in each.attributes for each in page["main"].all())


def test_truncated_examples_are_counted(wizard: Wizard) -> None:
    wizard.complete()
    assert "Truncated examples 10 of 10" in wizard.change(max_sequence_length="49")["steps"].text


def test_a_length_that_cuts_many_examples_is_warned_of(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(max_sequence_length="45")
    assert "50 of 100 trainable tokens (50%) remain" in shown["truncation"].text
    assert wizard.is_clickable


def test_hyperparameters_that_rarely_work_are_cautioned_against(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(learning_rate="1", dropout="0.9")
    assert "usually diverges" in shown["cautions"].text
    assert "dropout of 0.9" in shown["cautions"].text
    assert wizard.is_clickable


def test_a_length_that_leaves_nothing_to_learn_is_refused_with_one_click_out(
    wizard: Wizard,
) -> None:
    wizard.complete()
    shown = wizard.change(max_sequence_length="40")
    assert "keep 0 of 100 trainable tokens" in shown["nothing-to-learn"].text
    assert "Use a max length of 50" in shown["nothing-to-learn"].text
    assert not wizard.is_clickable
    assert (
        wizard.click("max_sequence_length=50&trainable_tokens=0").fields["max_sequence_length"]
        == "50"
    )
    assert wizard.is_clickable


def test_alpha_follows_r_until_it_is_touched(wizard: Wizard) -> None:
    wizard.complete()
    assert wizard.change(lora_r="64").fields["lora_alpha"] == "128"
    assert wizard.change(lora_r="8").fields["lora_alpha"] == "16"
    assert wizard.change(lora_alpha="20").fields["lora_alpha"] == "20"
    assert wizard.change(lora_r="32").fields["lora_alpha"] == "20"
    assert wizard.click("lora_alpha=follow").fields["lora_alpha"] == "64"
    assert wizard.change(lora_r="4").fields["lora_alpha"] == "8"


def test_alpha_stays_while_r_is_no_number(wizard: Wizard) -> None:
    assert wizard.change(lora_r="1o").fields["lora_alpha"] == "32"
    assert wizard.change(lora_r="10").fields["lora_alpha"] == "20"


@pytest.mark.parametrize(
    ("name", "entry"),
    [
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
    ],
)
def test_a_wrong_value_is_refused_beside_its_field(wizard: Wizard, name: str, entry: str) -> None:
    wizard.complete()
    shown = wizard.change(**{name: entry})
    assert problem(shown, name) == requirement(name)
    assert shown.fields[name] == entry
    assert not wizard.is_clickable
    assert wizard.approve() is None
    assert wizard.jobs() == []


def test_more_gpus_than_there_are_is_refused_beside_its_field(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(gpu_count="3")
    assert problem(shown, "gpu_count")
    assert not wizard.is_clickable


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("epochs", "Epochs must be a whole number from 1 to 100."),
        ("learning_rate", "Learning rate must be a number above 0 and at most 1."),
        ("dropout", "Dropout must be a number from 0 to below 1."),
        ("gpu_count", "GPU count must be a whole number from 1 to 64."),
        ("max_sequence_length", "Max sequence length must be a whole number from 16 to 1,048,576."),
        ("schedule", "Schedule must be cosine or linear."),
    ],
)
def test_a_requirement_states_the_bounds_of_its_field(name: str, sentence: str) -> None:
    assert requirement(name) == sentence


def test_all_problems_are_said_at_once_while_the_rest_goes_on(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(epochs="no", save_steps="no", lora_r="32")
    assert problem(shown, "epochs")
    assert problem(shown, "save_steps")
    assert "1 to fix" in shown["advanced"].text
    assert shown.fields["lora_alpha"] == "64"
    assert "full precision" in shown["precision"].text  # memory does not depend on them
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
    assert "at least one" in problem(wizard.change(target_modules=[]), "target_modules")
    shown = wizard.change(target_modules=["qkv_proj"])
    assert "no linear layer qkv_proj" in problem(shown, "target_modules")


def test_more_gpus_cost_proportionally_more_an_hour(wizard: Wizard) -> None:
    wizard.complete()
    assert "$1.20 an hour, all 2 GPUs" in wizard.change(gpu_count="2")["step-5"].text


def test_who_has_nothing_to_train_is_told_by_a_banner_for_each_list(browser: Browser) -> None:
    page = read_html(browser.client.get(PATH).text)
    for step, sentence in (
        ("step-1", "You have no dataset that is ready to train."),
        ("step-2", "No base is offered for fine-tuning and deployed now;"),
    ):
        banner = next(e for e in page[step].all() if "banner" in e.attributes.get("class", ""))
        assert banner.text.startswith(sentence)


def test_too_little_balance_closes_the_gate(client: TestClient, world: World) -> None:
    world.base_model()
    person = world.person()
    world.credit(person, 100)
    wizard = Wizard(signed_in(client, person), world, world.dataset(person))
    world.project()
    wizard.open()
    gate = wizard.complete()["balance-gate"]
    assert gate.attributes["class"] == "is-closed"
    assert gate.text.startswith("Top up first: $0.01 is missing. The balance is <$0.01,")
    assert next(e for e in gate.all() if e.tag == "a").attributes["href"] == "/billing"
    assert "Top up first: $0.01 is missing." in wizard.shown["wizard-bar"].text
    assert not wizard.is_clickable
    assert wizard.approve() is None

    world.credit(person, 5_000_000)
    assert wizard.look()["balance-gate"].attributes["class"] == "is-open"
    assert wizard.is_clickable


def test_a_region_without_free_gpus_shows_the_wait(wizard: Wizard) -> None:
    wizard.world.open_pool("cpu-small", 1)
    wizard.world.occupy(2)
    shown = wizard.complete()
    assert shown["capacity-gate"].attributes["class"] == "is-closed"
    assert (
        "This machine has 0 CPU (this machine) free, the job needs 1; the wait is"
        in shown["capacity-gate"].text
    )
    for button in (wizard.button, shown["approve-bar"]):  # of which a screen shows one
        assert "the wait is about" in button.text
    assert "the job needs 1; the wait is" in shown["wizard-bar"].text
    assert not wizard.is_clickable
    assert wizard.approve() is None

    click = next(each for each in shown["elsewhere"].all() if each.tag == "button")
    assert click.text == "CPU with little memory (this machine) in This machine, $0.30 an hour"
    choose = click.attributes["hx-post"].partition("choose=")[2]
    assert choose == "region%3Dlocal%26gpu_type%3Dcpu-small"
    wizard.click("region=local&gpu_type=cpu-small")
    assert wizard.shown.fields["gpu_type"] == "cpu-small"
    assert wizard.is_clickable


def test_waiting_in_the_queue_is_an_explicit_choice(wizard: Wizard) -> None:
    wizard.world.occupy(2)
    wizard.complete()
    assert "Wait in the queue, free of charge" in wizard.shown["elsewhere"].text
    assert "Nothing else is free now." in wizard.shown["elsewhere"].text
    wizard.change(wait="true")
    assert wizard.is_clickable
    assert "after a wait of about" in wizard.button.text
    assert wizard.approve() is not None


def test_what_vanished_is_said_and_nothing_is_replaced(wizard: Wizard) -> None:
    wizard.world.open_pool("cpu-small", 1)
    wizard.complete()
    wizard.change(gpu_type="cpu-small")
    with because(wizard.world.cause):
        pool = wizard.world.log.load(GpuPool, gpu_pool_id("local", "cpu-small"))
        pool.change_capacity(0)
        wizard.world.log.commit(pool)
        wizard.world.deploying.undeploy_base(BASE_MODEL, lambda: 0)
        wizard.world.ecolink.delete_dataset(wizard.browser.person.account_id, wizard.dataset, [])
    wizard.world.project()
    shown = wizard.look()
    assert problem(shown, "gpu_type") == (
        "cpu-small is no longer offered; choose another GPU type."
    )
    assert problem(shown, "base_model") == (
        "tiny has no active deployment now; choose another base, or wait for it."
    )
    assert problem(shown, "dataset") == GONE_DATASET
    sent = shown.fields
    assert (sent["gpu_type"], sent["base_model"]) == ("cpu-small", BASE_MODEL)
    assert sent["dataset"] == str(wizard.dataset)
    assert "cpu-small (not offered now)" in shown["gpu_type"].text


def test_a_chosen_dataset_is_found_beyond_the_newest(
    wizard: Wizard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.launch.pages.lists.MOST_DATASETS", 1)
    assert wizard.look().find("more-datasets") is None
    newer = wizard.world.dataset(wizard.browser.person)
    wizard.world.project()
    assert "your newest datasets" in wizard.complete()["more-datasets"].text
    for each in (wizard.dataset, newer):  # of which one alone is listed
        shown = wizard.change(dataset=str(each))
        assert shown.fields["dataset"] == str(each)
        assert "(not offered now)" not in shown["dataset"].text
        assert wizard.is_clickable


def test_a_job_is_approved_with_what_was_chosen(wizard: Wizard) -> None:
    wizard.complete()
    own = wizard.world.dataset(wizard.browser.person)
    wizard.change(suffix="support", validation_dataset=str(own), epochs="2", lora_r="8")
    job_id = wizard.approve()
    assert job_id is not None
    job = wizard.world.log.load(Job, job_id)
    assert job.plan.dataset_id == wizard.dataset
    assert job.plan.validation is not None
    assert job.plan.validation.dataset_id == own
    assert (job.plan.lora.epochs, job.plan.lora.lora_r, job.plan.lora.lora_alpha) == (2, 8, 16)
    assert (job.order.suffix, job.order.deploy) == ("support", False)


def test_the_validation_dataset_is_another(wizard: Wizard) -> None:
    wizard.complete()
    shown = wizard.change(validation_dataset=str(wizard.dataset))
    assert "the very examples that are trained on" in problem(shown, "validation_dataset")


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


def test_a_form_that_made_a_job_makes_another_only_when_asked_again(wizard: Wizard) -> None:
    wizard.complete()
    wizard.approve()
    assert wizard.approve(epochs="2") is None
    assert "You already started a job from this form." in wizard.shown["approve-alert"].text
    assert len(wizard.jobs()) == 1
    assert wizard.shown.fields["epochs"] == "2"
    assert wizard.approve() is not None
    assert len(wizard.jobs()) == 2


def test_a_change_after_an_approval_whose_answer_was_lost_says_that_there_is_a_job(
    wizard: Wizard,
) -> None:
    wizard.complete()
    job_id = wizard.approve()
    assert job_id is not None
    assert (
        "You already started a job from this form."
        in wizard.change(epochs="2")["approve-alert"].text
    )
    for shown in (wizard.change(epochs="20"), wizard.look(), wizard.open()):
        assert shown.find("approve-alert") is None
        (link,) = [each for each in shown["made"].all() if each.tag == "a"]
        assert link.attributes["href"] == f"/fine-tune/ftjob-{job_id.hex}"
    assert len(wizard.jobs()) == 1
