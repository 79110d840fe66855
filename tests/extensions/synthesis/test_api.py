"""Syntheses through the native API, from the quote to the dataset."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from psycopg_pool import ConnectionPool

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from domain.billing.token_rates import TokenUsage
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from extensions.synthesis import reviewing, service
from extensions.synthesis.domain.synthesis import Counts, StopReason, StoredFile, Synthesis
from extensions.synthesis.edits import counts_of_edits, locked_edits, set_removed
from extensions.synthesis.endpoint_rows import access_of
from gateway.http.read_your_writes import caught_up
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection, connect
from projections import DEPLOYMENTS
from tests.builders.platform import Person, Platform
from tests.extensions.synthesis.process.bench import Bench, work
from tests.gateway.conftest import application
from tests.gateway.web.signed_in import signed_in
from tests.scripted_model import Scripted, scripted

FORM = {
    "name": "support chats",
    "instructions": "Customers of a shop ask about their orders.",
    "topics": ["returns", "delivery"],
    "examples": 6,
    "answer_tokens": 200,
}


@pytest.fixture
def model() -> Iterator[Scripted]:
    with scripted() as found:
        yield found


@pytest.fixture
def client(platform: Platform, projecting: None) -> Iterator[TestClient]:
    """A client of a gateway whose operator allows endpoints on this machine."""
    allowed = {"webhook_networks": "127.0.0.0/8", "webhook_http": True}
    settings = platform.settings.model_copy(update=allowed)
    with TestClient(application(settings), raise_server_exceptions=False) as client:
        yield client


QUERY = "https://example.com/v1?key=x"


class Holder:
    """An account holder with an external endpoint."""

    def __init__(self, client: TestClient, person: Person, model: Scripted) -> None:
        self.client, self.person, self.headers = client, person, person.headers
        self.account_id = person.account_id
        form = {"name": "provider", "url": f"{model.url}/v1", "key": "sk-secret"}
        self.endpoint = self.post("/synthesis-endpoints", form, 201)
        self.form = FORM | {"endpoint": self.endpoint["id"], "endpoint_model": "gpt-test"}

    def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        answer = self.client.post(f"/api{path}", json=body, headers=self.headers | headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(f"/api{path}", headers=self.headers)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def holder(client: TestClient, platform: Platform, model: Scripted) -> Holder:
    return Holder(client, platform.person(dollars=5), model)


@pytest.fixture
def bench(platform: Platform, pool: ConnectionPool[Connection]) -> Bench:
    return Bench(platform.log, pool, platform.artifacts, platform.settings)


def generate(bench: Bench, id: str) -> None:
    with bench.billing():
        asyncio.run(work(bench, UUID(id)))


def test_concurrent_requests_do_not_exceed_the_quota(
    holder: Holder, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas = client.app.state.backend.quotas  # type: ignore[attr-defined]
    monkeypatch.setitem(quotas.limits._values, "syntheses", 2)
    monkeypatch.setitem(quotas.limits._values, "synthesis_endpoints", 2)
    endpoint = {"name": "other", "url": "https://example.com/v1"}
    for path, form, created in (
        ("/syntheses", holder.form, 2),
        ("/synthesis-endpoints", endpoint, 1),
    ):

        def post(_: int, path: str = path, form: Any = form) -> int:
            return client.post(f"/api{path}", json=form, headers=holder.headers).status_code

        with ThreadPoolExecutor(6) as threads:
            statuses = sorted(threads.map(post, range(6)))
        assert statuses == [*[201] * created, *[429] * (6 - created)], path
        assert len(holder.get(path)["data"]) == 2


def test_a_synthesis_becomes_a_dataset(holder: Holder, bench: Bench, platform: Platform) -> None:
    quote = holder.post("/syntheses/quote", holder.form)
    assert (quote["external"], quote["high"]["micros"], quote["allowed"]) == (True, 0, True)
    made = holder.post("/syntheses", holder.form, 201, **{"idempotency-key": "once"})
    assert holder.post("/syntheses", holder.form, 201, **{"idempotency-key": "once"}) == made
    assert (made["status"], made["name"], made["examples"]) == ("generating", "support chats", 6)
    path = f"/syntheses/{made['id']}"
    assert holder.get(f"{path}/examples", 409)["error"]["code"] == "wrong_state"
    generate(bench, made["id"])
    platform.project()
    shown = holder.get(path)
    assert (shown["status"], shown["counts"]["accepted"]) == ("reviewing", 6)
    examples = holder.get(f"{path}/examples?after=1&limit=2")
    assert [each["number"] for each in examples["data"]] == [2, 3]
    assert examples["data"][0]["origin"]["asked"]["model"] == "external"
    edited = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    answer = holder.client.patch(
        f"/api{path}/examples/2", json={"messages": edited}, headers=holder.headers
    )
    assert answer.json()["edited"]
    for number in (3, 4):
        answer = holder.client.delete(f"/api{path}/examples/{number}", headers=holder.headers)
        assert answer.json()["removed"]
    assert not holder.post(f"{path}/examples/4/restore")["removed"]
    dataset = holder.post(f"{path}/finish", None, 202)
    assert holder.post(f"{path}/finish", None, 202)["id"] == dataset["id"]
    assert (dataset["name"], dataset["synthesis_id"]) == ("support chats", made["id"])
    stored = platform.log.load(Dataset, UUID(dataset["id"]))
    lines = [json.loads(line) for line in platform.artifacts.get(stored.upload_ref).splitlines()]
    assert len(lines) == 5
    assert lines[1]["messages"] == edited
    run = platform.log.load(Synthesis, UUID(made["id"]))
    assert run.dataset_id == stored.id
    shown = holder.get(path)
    assert (shown["status"], shown["dataset_id"]) == ("ready", dataset["id"])
    assert (shown["edited"], shown["removed"]) == (1, 1)
    provenance = holder.client.get(f"/api{path}/provenance", headers=holder.headers)
    assert len(provenance.text.splitlines()) == 7
    assert [each["id"] for each in holder.get("/syntheses")["data"]] == [made["id"]]


def test_a_repeated_approval_returns_the_synthesis_after_an_undeploy_and_a_price_change(
    client: TestClient, platform: Platform, model: Scripted
) -> None:
    platform.base_model()
    holder = Holder(client, platform.person(dollars=50), model)
    platform.deploy_base()
    platform.project()
    form = FORM | {"model": "tiny"}
    once = {"idempotency-key": "once"}
    made = holder.post("/syntheses", form, 201, **once)
    stored = platform.artifacts.list("uploads")
    with because(platform.cause):
        deployment = platform.log.load(Synthesis, UUID(made["id"])).plan.generator.deployment_id
        assert deployment is not None
        found = platform.log.load(Deployment, deployment)
        found.undeploy()
        platform.log.commit(found)
    platform.project()
    holder.post("/syntheses", form, 409)
    prices = {"synthesis_prompt_price_dollars": 7, "synthesis_completion_price_dollars": 9}
    with TestClient(application(platform.settings.model_copy(update=prices))) as dearer:
        holder.client = dearer
        assert holder.post("/syntheses", form, 201, **once)["id"] == made["id"]
        other = form | {"instructions": "Something else."}
        assert (
            holder.post("/syntheses", other, 409, **once)["error"]["code"]
            == "idempotency_key_reused"
        )
    assert platform.artifacts.list("uploads") == stored


def test_a_repeated_approval_with_another_maximum_cost_is_refused(
    client: TestClient, platform: Platform, model: Scripted
) -> None:
    platform.base_model()
    holder = Holder(client, platform.person(dollars=50), model)
    platform.deploy_base()
    platform.project()
    form = FORM | {"model": "tiny"}
    range_end, capped = {"idempotency-key": "range"}, {"idempotency-key": "capped"}
    made = holder.post("/syntheses", form, 201, **range_end)
    high = f"{made['max_cost']['micros'] / 1_000_000:.6f}"
    assert holder.post("/syntheses", form | {"max_cost": high}, 201, **range_end) == made
    other = holder.post("/syntheses", form | {"max_cost": "0.01"}, 409, **range_end)
    assert other["error"]["code"] == "idempotency_key_reused"
    id = holder.post("/syntheses", form | {"max_cost": "0.01"}, 201, **capped)["id"]
    assert holder.post("/syntheses", form, 409, **capped)["error"]["field"] == "max_cost"
    holder.post(f"/syntheses/{id}/pause")
    holder.post(f"/syntheses/{id}/resume", {"max_cost": "0.02"})
    again = holder.post("/syntheses", form | {"max_cost": "0.01"}, 201, **capped)
    assert again["max_cost"]["micros"] == 20_000


def test_edits_are_rows_of_which_the_newest_counts(
    holder: Holder, bench: Bench, platform: Platform, pool: ConnectionPool[Connection]
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path, stored = f"/syntheses/{made['id']}", platform.artifacts.list("")
    for text in ("One.", "Two.", "Three."):
        messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": text}]
        answer = holder.client.patch(
            f"/api{path}/examples/5", json={"messages": messages}, headers=holder.headers
        )
        assert answer.json()["messages"] == messages
    holder.client.delete(f"/api{path}/examples/5", headers=holder.headers)
    restored = holder.post(f"{path}/examples/5/restore")
    assert (restored["edited"], restored["removed"]) == (True, False)
    assert restored["messages"][1]["content"] == "Three."
    assert platform.artifacts.list("") == stored
    with pool.connection() as connection:
        assert counts_of_edits(connection, [UUID(made["id"])])[UUID(made["id"])].edited == 1
    (listed,) = holder.get("/syntheses")["data"]
    assert (listed["name"], listed["edited"], listed["removed"]) == ("support chats", 1, 0)
    for number in range(1, 7):
        holder.client.delete(f"/api{path}/examples/{number}", headers=holder.headers)
    assert "0 examples are left" in holder.post(f"{path}/finish", None, 409)["error"]["message"]


def test_an_edit_during_the_creation_of_the_dataset_is_not_lost(
    holder: Holder,
    bench: Bench,
    platform: Platform,
    pool: ConnectionPool[Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path, id = f"/syntheses/{made['id']}", UUID(made["id"])
    store, uploads = reviewing.stored_dataset, platform.artifacts.list("uploads")

    def edited_meanwhile(*arguments: Any) -> Any:
        stored = store(*arguments)
        with pool.connection() as connection:
            set_removed(connection, holder.account_id, id, 2, True)
        return stored

    with monkeypatch.context() as patched:
        patched.setattr(reviewing, "stored_dataset", edited_meanwhile)
        assert "another edit" in str(holder.post(f"{path}/finish", None, 422)).casefold()
    assert platform.artifacts.list("uploads") == uploads
    assert holder.get("/datasets")["data"] == []
    dataset = holder.post(f"{path}/finish", None, 202)
    stored = platform.log.load(Dataset, UUID(dataset["id"]))
    assert len(platform.artifacts.get(stored.upload_ref).splitlines()) == 5
    answer = holder.client.delete(f"/api{path}/examples/1", headers=holder.headers)
    assert answer.json()["error"]["code"] == "wrong_state"


def test_edits_and_the_creation_of_the_dataset_exclude_each_other_without_waiting(
    holder: Holder, bench: Bench, platform: Platform, pool: ConnectionPool[Connection]
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path, id = f"/syntheses/{made['id']}", UUID(made["id"])
    example = f"/api{path}/examples/1"
    with pool.connection() as connection, locked_edits(connection, id, for_edit=False) as locked:
        assert locked
        for _ in range(20):  # more than the gateway has connections
            answer = holder.client.delete(example, headers=holder.headers)
            assert answer.json()["error"]["code"] == "wrong_state"
        holder.post(f"{path}/finish", None, 422)
    with pool.connection() as connection, locked_edits(connection, id, for_edit=True) as locked:
        assert locked
        assert holder.client.delete(example, headers=holder.headers).json()["removed"]
        holder.post(f"{path}/finish", None, 422)
    holder.post(f"{path}/cancel")
    assert holder.post(f"{path}/finish", None, 409)["error"]["code"] == "wrong_state"
    assert holder.get("/datasets")["data"] == []


def test_an_edit_reads_only_its_example(
    holder: Holder, bench: Bench, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path = f"/syntheses/{made['id']}/examples"
    listed = holder.get(path)
    assert ([each["number"] for each in listed["data"]], listed["has_more"]) == (
        [1, 2, 3, 4, 5, 6],
        False,
    )
    monkeypatch.setattr(Artifacts, "stream", None)
    page = holder.get(f"{path}?after=4&limit=1")
    assert (page["data"], page["has_more"]) == ([listed["data"][4]], True)
    assert holder.get(f"{path}?after=6")["data"] == []
    answer = holder.client.delete(f"/api{path}/6", headers=holder.headers).json()
    assert answer == listed["data"][5] | {"removed": True}


def test_a_page_of_examples_has_a_limit_in_bytes(
    holder: Holder, bench: Bench, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path = f"/syntheses/{made['id']}/examples"
    whole = holder.get(path)["data"]
    long = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "x" * 60_000}]
    for number in (2, 3, 5):
        answer = holder.client.patch(
            f"/api{path}/{number}", json={"messages": long}, headers=holder.headers
        )
        assert answer.status_code == 200
    listed = holder.get(path)
    assert ([each["number"] for each in listed["data"]], listed["has_more"]) == (
        [1, 2, 3, 4, 5, 6],
        False,
    )
    monkeypatch.setattr(reviewing, "PAGE_BYTES", 100_000)
    pages = [holder.get(f"{path}?after={after}&limit=1000") for after in (0, 2, 4, 6)]
    numbers = [[each["number"] for each in page["data"]] for page in pages]
    assert (numbers, [page["has_more"] for page in pages]) == (
        [[1, 2], [3, 4], [5, 6], []],
        [True, True, False, False],
    )
    assert pages[1]["data"][1] == whole[3]
    monkeypatch.setattr(reviewing, "PAGE_BYTES", 10)
    assert [each["number"] for each in holder.get(f"{path}?after=1")["data"]] == [2]
    browser = signed_in(holder.client, holder.person)
    assert f"{path}?after=2" in browser.client.get(f"{path}?after=1").text


def test_an_empty_edit_is_refused_after_the_check_of_the_owner(
    holder: Holder, bench: Bench, platform: Platform
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path = f"/syntheses/{made['id']}/examples/1"
    long = {"role": ["user", "user"], "content": ["a", "b"]}
    for person, status in ((holder.person, 422), (platform.person(), 404)):
        browser = signed_in(holder.client, person)
        for form in ({}, long):
            headers = {"x-csrf-token": browser.csrf_token}
            assert browser.client.post(path, data=form, headers=headers).status_code == status


def test_a_long_edit_is_refused(holder: Holder, bench: Bench, platform: Platform) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    path = f"/api/syntheses/{made['id']}/examples/1"
    for text, status in (("é" * 32_766, 200), ("é" * 32_767, 422)):
        messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": text}]
        answer = holder.client.patch(path, json={"messages": messages}, headers=holder.headers)
        assert answer.status_code == status
    error = answer.json()["error"]
    assert error["field"] == "messages"
    assert "65,537 bytes" in error["message"]
    (shown,) = holder.get(f"/syntheses/{made['id']}/examples?limit=1")["data"]
    assert len(shown["messages"][1]["content"]) == 32_766


def test_a_quote_reads_its_seed_dataset_once(
    holder: Holder, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = b"".join(json.dumps({"messages": [*chat, *chat * n]}).encode() + b"\n" for n in (0, 1))
    dataset = platform.upload(holder.account_id, lines)
    platform.validate_upload(dataset)
    platform.project()
    form = holder.form | {"seed_dataset": str(dataset)}
    first = holder.post("/syntheses/quote", form)
    monkeypatch.setattr(Artifacts, "stream", None)
    assert holder.post("/syntheses/quote", form | {"examples": 7}) == first | {"most_attempts": 21}


def test_a_seed_dataset_with_long_examples_only_is_refused(
    holder: Holder, platform: Platform
) -> None:
    chat = [{"role": "user", "content": "q" * 70_000}, {"role": "assistant", "content": "a"}]
    line = json.dumps({"messages": chat}).encode() + b"\n"
    dataset = platform.upload(holder.account_id, line * 2)
    platform.validate_upload(dataset)
    platform.project()
    refused = holder.post("/syntheses/quote", holder.form | {"seed_dataset": str(dataset)}, 422)
    assert refused["error"]["field"] == "seed_dataset"
    assert "64 KiB" in refused["error"]["message"]


def test_a_seed_dataset_is_kept_while_its_synthesis_generates(
    holder: Holder, platform: Platform
) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = b"".join(json.dumps({"messages": [*chat, *chat * n]}).encode() + b"\n" for n in (0, 1))
    dataset = platform.upload(holder.account_id, lines)
    platform.validate_upload(dataset)
    platform.project()
    made = holder.post("/syntheses", holder.form | {"seed_dataset": str(dataset)}, 201)
    path = f"/syntheses/{made['id']}"
    holder.post(f"{path}/pause")
    refused = holder.client.delete(f"/api/datasets/{dataset}", headers=holder.headers)
    assert refused.status_code == 409
    error = refused.json()["error"]
    assert "1 unfinished synthesis uses this dataset as the seed" in error["message"]
    assert error["figures"] == {"syntheses": [made["id"]]}
    holder.post(f"{path}/cancel")
    deleted = holder.client.delete(f"/api/datasets/{dataset}", headers=holder.headers)
    assert deleted.status_code == 204


def test_a_seed_dataset_that_is_deleted_during_the_approval_refuses_it(
    holder: Holder, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = b"".join(json.dumps({"messages": [*chat, *chat * n]}).encode() + b"\n" for n in (0, 1))
    dataset = platform.upload(holder.account_id, lines)
    platform.validate_upload(dataset)
    platform.project()
    planned = service.planned

    def planned_before_a_deletion(*arguments: Any) -> Any:
        plan = planned(*arguments)
        deleted = holder.client.delete(f"/api/datasets/{dataset}", headers=holder.headers)
        assert deleted.status_code == 204
        return plan

    monkeypatch.setattr(service, "planned", planned_before_a_deletion)
    stored = platform.artifacts.list("uploads")
    form = holder.form | {"seed_dataset": str(dataset)}
    error = holder.post("/syntheses", form, 409)["error"]
    assert (error["code"], error["field"]) == ("wrong_state", "seed_dataset")
    assert "deleted" in error["message"]
    assert holder.get("/syntheses")["data"] == []
    assert set(platform.artifacts.list("uploads")) <= set(stored)


def test_a_quote_whose_seed_dataset_is_being_deleted_is_refused(
    holder: Holder, platform: Platform
) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = b"".join(json.dumps({"messages": [*chat, *chat * n]}).encode() + b"\n" for n in (0, 1))
    dataset = platform.upload(holder.account_id, lines)
    platform.validate_upload(dataset)
    platform.project()
    platform.artifacts.delete(platform.log.load(Dataset, dataset).ref)
    form = holder.form | {"seed_dataset": str(dataset)}
    assert holder.post("/syntheses/quote", form, 409)["error"]["field"] == "seed_dataset"


def test_the_time_left_does_not_count_pauses(holder: Holder, platform: Platform) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    approved_at = datetime.fromisoformat(made["approved_at"])

    def change(seconds: int, *changes: Callable[[Synthesis], Any]) -> None:
        with because(replace(platform.cause, now=approved_at + timedelta(seconds=seconds))):
            run = platform.log.load(Synthesis, UUID(made["id"]))
            for each in changes:
                each(run)
            platform.log.commit(run)

    file, used = StoredFile(ref="x", sha256="f" * 64), TokenUsage()
    counts = Counts(accepted=3)
    change(0, lambda run: run.start_batch(6, 0))
    change(100, lambda run: run.complete_batch(counts, used, file), lambda run: run.pause())
    platform.project()
    assert holder.get(f"/syntheses/{made['id']}")["eta_seconds"] is None
    change(40_000, lambda run: run.resume())
    change(40_000, lambda run: run.pause())
    change(50_000, lambda run: run.resume())
    platform.project()
    assert holder.get(f"/syntheses/{made['id']}")["eta_seconds"] == 100


def test_the_page_has_the_choices_of_the_api(holder: Holder, platform: Platform) -> None:
    browser = signed_in(holder.client, holder.person)
    page = browser.client.get("/datasets/generate").text
    assert re.findall(r'name="(top_p|similarity)" .*?value="([^"]*)"', page) == [
        ("top_p", "0.95"),
        ("similarity", "0.7"),
    ]
    form = {
        "name": "support chats",
        "instructions": "Customers of a shop ask about their orders.",
        "generator": f"endpoint:{holder.endpoint['id']}",
        "endpoint_model": "gpt-test",
        "top_p": "0.8",
        "similarity": "0.55",
    }
    made = browser.client.post("/datasets/generate", data=form, headers=browser.htmx)
    assert made.status_code == 200, made.text
    id = UUID(made.headers["hx-redirect"].rpartition("/")[2])
    plan = platform.log.load(Synthesis, id).plan
    assert (plan.top_p, plan.similarity) == (0.8, 0.55)
    assert '<a href="/datasets" aria-current="true">' in browser.client.get(f"/syntheses/{id}").text


def test_choices_for_large_models_are_off_for_a_small_one(
    holder: Holder, platform: Platform
) -> None:
    browser = signed_in(holder.client, holder.person)
    found = [browser.client.get("/datasets/generate").text]
    platform.base_model()
    platform.project()
    found.append(browser.client.get("/datasets/generate").text)
    chosen = [
        re.findall(r'name="(?:personas|judge)" value="on"( checked)?', page) for page in found
    ]
    assert chosen == [[" checked"] * 2, [""] * 2]
    assert 'value="model:tiny" data-small' in found[1]


def test_commands_and_their_states(holder: Holder) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    path = f"/syntheses/{made['id']}"
    assert holder.post(f"{path}/pause")["pause_reason"] == "owner"
    assert holder.post(f"{path}/resume")["status"] == "generating"
    assert holder.post(f"{path}/stop", None, 409)["error"]["code"] == "wrong_state"
    assert holder.post(f"{path}/finish", None, 409)["error"]["code"] == "wrong_state"
    assert holder.post(f"{path}/cancel")["status"] == "cancelled"
    assert holder.post(f"{path}/resume", None, 409)["error"]["code"] == "wrong_state"


def test_a_bad_form_is_refused(holder: Holder, subtests: pytest.Subtests) -> None:
    for changes, status, field in (
        ({"instructions": "", "topics": []}, 422, "instructions"),
        ({"endpoint": None}, 422, "model"),
        ({"endpoint_model": None}, 422, "endpoint_model"),
        ({"endpoint": str(UUID(int=5))}, 422, "endpoint"),
        ({"endpoint": None, "model": "unknown"}, 409, "model"),
        ({"max_cost": "cheap"}, 422, "max_cost"),
        ({"seed_dataset": str(UUID(int=5))}, 404, None),
    ):
        with subtests.test(str(changes)):
            answer = holder.post("/syntheses", holder.form | changes, status)
            assert answer["error"].get("field") == field
            assert holder.get("/syntheses")["data"] == []


def test_without_the_money_a_synthesis_is_refused(
    client: TestClient, platform: Platform, model: Scripted
) -> None:
    platform.base_model()
    person = platform.person()
    holder = Holder(client, person, model)
    platform.deploy_base()
    backend = client.app.state.backend  # type: ignore[attr-defined]
    assert caught_up(backend, DEPLOYMENTS, patience_seconds=60)
    form = FORM | {"model": "tiny"}
    quote = holder.post("/syntheses/quote", form)
    assert not quote["allowed"]
    assert 0 < quote["low"]["micros"] < quote["high"]["micros"]
    error = holder.post("/syntheses", form, 402)["error"]
    assert error["code"] == "insufficient_balance"
    assert platform.artifacts.list("uploads") == []


def test_other_accounts_see_nothing(
    client: TestClient, platform: Platform, model: Scripted, holder: Holder
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    other = Holder(client, platform.person(dollars=1), model)
    other.get(f"/syntheses/{made['id']}", 404)
    other.post(f"/syntheses/{made['id']}/cancel", None, 404)
    other.get(f"/syntheses/{made['id']}/examples", 404)
    other.post("/syntheses", holder.form, 422)


def test_a_key_that_no_header_can_have_is_refused(holder: Holder) -> None:
    form = {"name": "x", "url": "https://example.com/v1", "key": "sk-caf\u00e9"}
    refused = holder.post("/synthesis-endpoints", form, 422)
    assert [each["field"] for each in refused["error"]["fields"]] == ["key"]
    path = f"/api/synthesis-endpoints/{holder.endpoint['id']}/key"
    assert holder.client.put(path, json={"key": "a b"}, headers=holder.headers).status_code == 422


def test_endpoints_are_shown_without_their_keys_and_can_be_deleted(holder: Holder) -> None:
    (shown,) = holder.get("/synthesis-endpoints")["data"]
    assert (shown["name"], shown["has_key"]) == ("provider", True)
    assert "sk-secret" not in json.dumps(shown)
    path = f"/api/synthesis-endpoints/{shown['id']}"
    assert holder.client.delete(path, headers=holder.headers).status_code == 204
    assert holder.client.delete(path, headers=holder.headers).status_code == 404


def test_a_key_that_a_restore_lost_is_named_and_replaced(
    holder: Holder, platform: Platform
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    with because(platform.cause):
        synthesis = platform.log.load(Synthesis, UUID(made["id"]))
        synthesis.pause(StopReason.ENDPOINT)
        platform.log.commit(synthesis)
    platform.project()
    path = f"/syntheses/{made['id']}"
    assert "did not answer" in holder.get(path)["explanation"]
    with connect(platform.settings) as connection:
        connection.execute("DELETE FROM synthesis_endpoint_keys")
    (shown,) = holder.get("/synthesis-endpoints")["data"]
    assert (shown["has_key"], shown["key_lost"]) == (True, True)
    assert "Replace the key of endpoint provider" in holder.get(path)["explanation"]

    browser = signed_in(holder.client, holder.person)
    assert f'hx-post="{path}/endpoint-key"' in browser.client.get(path).text
    replaced = browser.client.post(
        f"{path}/endpoint-key", data={"key": "sk-page"}, headers=browser.htmx
    )
    assert replaced.headers["hx-redirect"] == path
    assert "endpoint-key" not in browser.client.get(path).text
    key = f"/api/synthesis-endpoints/{shown['id']}/key"
    answer = holder.client.put(key, json={"key": "sk-api"}, headers=holder.headers).json()
    assert answer == shown | {"key_lost": False}
    with connect(platform.settings) as connection:
        access = access_of(connection, holder.account_id, UUID(shown["id"]))
    assert access is not None
    assert access.key == "sk-api"
    other = platform.person().headers
    assert holder.client.put(key, json={"key": "x"}, headers=other).status_code == 404
    assert holder.client.delete(key.removesuffix("/key"), headers=holder.headers).status_code == 204
    assert "The endpoint was deleted." in holder.get(path)["explanation"]


def test_only_keys_that_manage_keys_change_and_see_endpoints(
    holder: Holder, platform: Platform
) -> None:
    request = KeyRequest(scopes=(Scope.READ, Scope.TRAIN))
    key = platform.key(holder.account_id, request)
    (whole,) = holder.get("/synthesis-endpoints")["data"]
    assert whole["url"].endswith("/v1")
    holder.headers = key.headers
    (shown,) = holder.get("/synthesis-endpoints")["data"]
    assert shown["url"] == whole["url"].removesuffix("v1") + "…"
    holder.post("/synthesis-endpoints", {"name": "x", "url": "https://example.com/v1"}, 403)
    path = f"/api/synthesis-endpoints/{shown['id']}"
    assert holder.client.delete(path, headers=key.headers).status_code == 403
    replaced = holder.client.put(f"{path}/key", json={"key": "x"}, headers=key.headers)
    assert replaced.status_code == 403


def test_only_keys_that_also_read_change_examples(
    holder: Holder, bench: Bench, platform: Platform
) -> None:
    made = holder.post("/syntheses", holder.form, 201)
    generate(bench, made["id"])
    platform.project()
    example = f"/syntheses/{made['id']}/examples/1"
    edit = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    key = platform.key(holder.account_id, KeyRequest(scopes=(Scope.TRAIN,)))
    browser = signed_in(holder.client, key)
    for method, path, body in (
        ("PATCH", example, edit),
        ("DELETE", example, None),
        ("POST", f"{example}/restore", None),
    ):
        answer = holder.client.request(method, f"/api{path}", json=body, headers=key.headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
    for path in (example, f"{example}/remove", f"{example}/restore"):
        refused = browser.client.post(path, headers=browser.htmx)
        assert 'data-code="missing_scope"' in refused.text
    both = platform.key(holder.account_id, KeyRequest(scopes=(Scope.READ, Scope.TRAIN)))
    answer = holder.client.delete(f"/api{example}", headers=both.headers)
    assert answer.json()["removed"]


def test_an_endpoint_that_is_not_public_is_refused(platform: Platform, projecting: None) -> None:
    headers = platform.person().headers
    with TestClient(application(platform.settings)) as client:
        for url in ("https://127.0.0.1/v1", "http://example.com/v1", "https://10.0.0.1/v1", QUERY):
            form = {"name": "x", "url": url}
            answer = client.post("/api/synthesis-endpoints", json=form, headers=headers)
            assert (answer.status_code, answer.json()["error"]["field"]) == (422, "url")
