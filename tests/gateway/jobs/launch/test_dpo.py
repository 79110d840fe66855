"""Jobs with direct preference optimization (DPO), from the quote to the approval."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from domain.datasets.dataset import DatasetKind
from domain.training.phases import Phase
from gateway.http.openai_vocabulary import file_name
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.api_user import ApiUser
from tests.gateway.jobs.launch.wizard_form import Wizard
from tests.gateway.web.signed_in import signed_in


class Owner(ApiUser):
    """A user with $10, a dataset of chats and one of preference pairs."""

    def __init__(self, client: TestClient, platform: Platform) -> None:
        person, self.body = platform.ready()
        super().__init__(client, person)
        self.pairs = str(platform.dataset(person, kind=DatasetKind.PREFERENCES))
        self.more_pairs = str(platform.dataset(person, kind=DatasetKind.PREFERENCES))
        platform.project()

    def body_with(self, pairs: bool = True, **tuned: Any) -> dict[str, Any]:
        dataset = {"dataset": self.pairs} if pairs else {}
        return self.body | dataset | {"hyperparameters": tuned}


@pytest.fixture
def owner(client: TestClient, platform: Platform) -> Owner:
    return Owner(client, platform)


def test_a_dataset_has_a_kind(owner: Owner) -> None:
    found = {each["id"]: each["kind"] for each in owner.get("/api/datasets").json()["data"]}
    assert found[owner.pairs] == "preferences"
    assert found[owner.body["dataset"]] == "chats"
    assert owner.get(f"/v1/files/{file_name_of(owner.pairs)}").json()["kind"] == "preferences"


def file_name_of(dataset: str) -> str:
    return file_name(UUID(dataset))


@pytest.mark.parametrize(("pairs", "method"), [(True, "supervised"), (False, "dpo")])
def test_the_method_must_suit_the_dataset(owner: Owner, pairs: bool, method: str) -> None:
    refused = owner.post("/api/estimates", owner.body_with(pairs, method=method))
    assert refused.status_code == 422
    assert "method" in refused.text
    assert "dataset" in refused.text


def test_the_method_must_suit_the_validation_dataset(owner: Owner) -> None:
    body = owner.body_with(method="dpo") | {"validation_dataset": owner.body["dataset"]}
    assert "validation dataset has chats" in owner.post("/api/estimates", body).text
    body["validation_dataset"] = owner.more_pairs
    assert owner.post("/api/estimates", body).status_code == 200


def test_beta_needs_dpo(owner: Owner) -> None:
    refused = owner.post("/api/estimates", owner.body_with(pairs=False, beta=0.2))
    assert refused.status_code == 422
    assert "beta" in refused.text


def test_the_quote_has_the_reference_and_costs_more_than_chats(owner: Owner) -> None:
    quote = owner.post("/api/estimates", owner.body_with(method="dpo")).json()
    phases = [each["phase"] for each in quote["estimate"]["phases"]]
    assert phases == [each.value for each in Phase]
    assert quote["effective_batch"] == 16


def test_an_approved_job_shows_its_method(owner: Owner) -> None:
    made = owner.post("/api/jobs", owner.body_with(method="dpo", epochs=2))
    assert made.status_code == 201, made.text
    job = owner.get(f"/api/jobs/{made.json()['id']}").json()
    assert job["method"] == "dpo"
    assert job["hyperparameters"]["beta"] == 0.1
    assert job["hyperparameters"]["learning_rate"] == 2e-5


def test_the_method_of_openai_is_returned(owner: Owner) -> None:
    numbers = {"beta": 0.3, "n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0}
    order = {
        "model": BASE_MODEL,
        "training_file": file_name_of(owner.pairs),
        "method": {"type": "dpo", "dpo": {"hyperparameters": numbers}},
    }
    made = owner.post("/v1/fine_tuning/jobs", order)
    assert made.status_code == 200, made.text
    found = owner.get(f"/v1/fine_tuning/jobs/{made.json()['id']}").json()
    assert found["method"]["type"] == "dpo"
    assert found["method"]["dpo"]["hyperparameters"] == numbers
    assert found["hyperparameters"]["n_epochs"] == 2
    refused = owner.post("/v1/fine_tuning/jobs", order | {"method": {"type": "supervised"}})
    assert refused.status_code in (400, 422)


def test_the_method_of_the_wizard_follows_the_dataset(
    client: TestClient, platform: Platform
) -> None:
    person, _ = platform.ready()
    chats = platform.dataset(person)
    pairs = platform.dataset(person, kind=DatasetKind.PREFERENCES)
    platform.project()
    wizard = Wizard(signed_in(client, person), platform, chats)
    wizard.open()
    shown = wizard.change(dataset=str(chats))
    assert (shown.fields.get("method"), shown.fields.get("beta")) == (None, None)
    shown = wizard.change(dataset=str(pairs))
    assert (shown.fields["method"], shown.fields["beta"]) == ("dpo", "0.1")
    assert shown.fields["learning_rate"] == "2e-5"
    wizard.change(dataset=str(chats))
    shown = wizard.change(learning_rate="0.0002", dataset=str(pairs))
    assert shown.fields["learning_rate"] == "2e-5"
    shown = wizard.change(learning_rate="3e-5", dataset=str(chats))
    assert (shown.fields.get("method"), shown.fields["learning_rate"]) == (None, "3e-5")
