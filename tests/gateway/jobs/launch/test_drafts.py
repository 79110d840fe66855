"""Drafts of the wizard: content, lifetime and start."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from fastapi.testclient import TestClient

from domain.jobs.job import Job
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.launch.wizard_form import PATH, Wizard
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import signed_in


def entered(shown: Node) -> dict[str, Any]:
    """Return the fields without the ID of the page load."""
    return {name: value for name, value in shown.fields.items() if name not in ("tab", "revision")}


def test_a_draft_survives_and_ends_with_its_job(wizard: Wizard) -> None:
    wizard.complete()
    wizard.change(epochs="7", suffix="mine", max_sequence_length="x")
    before = entered(wizard.shown)
    assert entered(wizard.open()) == before
    wizard.change(max_sequence_length="")
    assert wizard.approve() is not None
    assert wizard.draft() is None
    assert wizard.open().fields["epochs"] == "3"


def test_a_change_sent_before_the_approval_is_not_saved_after_it(wizard: Wizard) -> None:
    wizard.complete()
    late = wizard.shown.fields
    wizard.change(epochs="2")
    assert wizard.approve() is not None
    wizard.change(**late)  # served after it
    assert wizard.draft() is None
    assert wizard.open().fields["command_key"] != late["command_key"]


def test_an_older_change_does_not_replace_a_newer_one(wizard: Wizard) -> None:
    wizard.complete()
    older = wizard.shown.fields
    wizard.change(epochs="9")
    wizard.change(**older)  # which took longer
    assert wizard.open().fields["epochs"] == "9"


def other_tab(wizard: Wizard) -> Wizard:
    """The same draft in a second tab."""
    second = Wizard(wizard.browser, wizard.platform, wizard.dataset)
    second.open()
    return second


def test_the_draft_of_another_tab_survives_an_approval(wizard: Wizard) -> None:
    wizard.complete()
    second = other_tab(wizard)
    assert second.shown.fields["command_key"] == wizard.shown.fields["command_key"]
    second.change(epochs="8")
    assert wizard.approve() is not None
    assert wizard.open().fields["epochs"] == "8"  # which the approval did not delete
    second.change(suffix="second")
    assert second.find_draft()["suffix"] == "second"
    assert second.approve() is not None
    assert len(wizard.jobs()) == 2


def test_one_draft_in_two_tabs_makes_one_job(wizard: Wizard) -> None:
    wizard.complete()
    second = other_tab(wizard)
    assert wizard.approve() == second.approve()
    assert wizard.open().fields["dataset"] == ""


def test_refreshing_the_quote_saves_nothing(wizard: Wizard) -> None:
    wizard.complete()
    wizard.look(epochs="9")
    draft = wizard.draft()
    assert draft is not None
    assert draft["epochs"] == "3"


def test_starting_over_deletes_the_draft(wizard: Wizard) -> None:
    wizard.complete()
    answer = wizard.browser.client.post(f"{PATH}/start-over", headers=wizard.browser.htmx)
    assert answer.headers["hx-redirect"] == PATH
    assert wizard.draft() is None
    assert wizard.open().fields["dataset"] == ""


def test_drafts_are_separate_by_account(
    wizard: Wizard, platform: Platform, client: TestClient
) -> None:
    wizard.complete()
    wizard.change(epochs="7")
    other = Wizard(signed_in(client, platform.person(dollars=1)), platform, uuid4())
    assert other.open().fields["epochs"] == "3"


def test_a_dataset_in_the_url_wins_over_the_drafts(wizard: Wizard) -> None:
    wizard.complete()
    wizard.change(epochs="7")
    other = wizard.platform.dataset(wizard.browser.person)
    wizard.platform.project()
    shown = wizard.open(f"?dataset={other}").fields
    assert (shown["dataset"], shown["epochs"]) == (str(other), "7")
    wizard.change(suffix="other")
    assert wizard.open().fields["dataset"] == str(other)


def test_an_address_alone_changes_no_draft(wizard: Wizard) -> None:
    wizard.complete()
    wizard.change(epochs="7")
    other = wizard.platform.dataset(wizard.browser.person)
    wizard.platform.project()
    page = wizard.browser.client.get(f"{PATH}?dataset={other}")
    assert read_html(page.text)["other-draft"].text
    assert wizard.open().fields["dataset"] == str(wizard.dataset)
    wizard.open(f"?dataset={other}")
    answer = wizard.browser.client.post(
        f"{PATH}/estimate",
        data=wizard.shown.fields | {"revision": "1"},
        headers=wizard.browser.htmx
        | {"hx-current-url": f"http://testserver{PATH}?dataset={other}"},
    )
    assert answer.headers["hx-replace-url"] == PATH
    assert wizard.open().fields["dataset"] == str(other)


def test_a_duplicate_has_all_choices_of_the_job(wizard: Wizard, settings: Settings) -> None:
    tuned = {"epochs": 2, "learning_rate": 5e-5, "lora_r": 8, "lora_alpha": 8, "eval_steps": 7}
    tuned |= {"use_dora": True, "weight_decay": 0.02}
    body = {"dataset": str(wizard.dataset), "base_model": BASE_MODEL, "suffix": "mine"}
    body |= {"region": "local", "gpu_type": "cpu"}
    made = wizard.browser.client.post(
        "/api/jobs", json=body | {"hyperparameters": tuned}, headers=wizard.browser.htmx
    ).json()
    shown = wizard.open(f"?like={made['id']}")
    sent = shown.fields
    assert (sent["epochs"], sent["learning_rate"], sent["eval_steps"]) == ("2", "5e-5", "7")
    carried = shown["carried"].text
    assert "Weight decay 0.02" in carried
    assert "Eval steps" not in carried  # which has an input
    again = wizard.approve()
    assert again is not None
    first = wizard.platform.log.load(Job, UUID(made["id"].removeprefix("ftjob-")))
    second = wizard.platform.log.load(Job, again)
    assert (second.plan.choices, second.order) == (first.plan.choices, first.order)
    assert second.id != first.id


def test_another_accounts_job_is_not_duplicated(wizard: Wizard) -> None:
    assert wizard.browser.client.get(f"{PATH}?like=ftjob-{uuid4().hex}").status_code == 404
