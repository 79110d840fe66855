"""Quotes of a job before its approval."""

from __future__ import annotations

from platform import node
from threading import Timer
from uuid import UUID

import psutil
import pytest
from fastapi.testclient import TestClient

from domain.capacity.gpu_pool import GpuPool
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import CatalogBase
from domain.catalog.machine import Machine
from domain.core.aggregate import because
from domain.core.identity import CATALOG_ID, gpu_pool_id
from domain.datasets.dataset import Dataset
from domain.estimating.memory import GIB, gib
from domain.jobs.job import Job
from domain.training.phases import Phase
from domain.training.precision import Dtype
from gateway.backend import Backend
from tests.builders.platform import BASE_MODEL, Platform
from tests.builders.tiny_model import TINY_SHAPE
from tests.gateway.jobs.test_api import ready, uuid_of


def test_a_quote_has_fit_range_balance_and_capacity(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    quote = client.post("/api/estimates", json=body, headers=person.headers).json()
    assert quote["fit"]["precision"] == "float32", "nothing is known of the machine"
    assert "full precision" in quote["fit"]["banner"]
    assert 0 < quote["fit"]["headroom_gib"] < quote["fit"]["vram_gib"]
    priced = quote["estimate"]
    assert [each["phase"] for each in priced["phases"]] == [phase.value for phase in Phase]
    assert 0 < priced["low_seconds"] < priced["high_seconds"]
    assert 0 < priced["low"]["micros"] < priced["high"]["micros"]
    assert priced["calibrated_from"] == 0
    balance = quote["balance"]
    assert balance["left"]["micros"] == 10_000_000 - priced["high"]["micros"]
    assert balance["missing"]["micros"] == 0
    assert quote["capacity"] == {
        "is_open": True,
        "free": 2,
        "needed": 1,
        "wait_seconds": 0,
        "elsewhere": [],
    }
    assert quote["approvable"]
    assert "1,000" in quote["warnings"][0]
    assert not [each for each in platform.topics() if each.startswith("Job")]


def test_gpus_that_the_read_model_does_not_know_yet_are_waited_for(
    late_client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    platform.project()
    platform.occupy(2)
    behind = Timer(0.2, platform.project)
    behind.start()
    quote = late_client.post("/api/estimates", json=body, headers=person.headers).json()
    behind.join()
    assert (quote["capacity"]["free"], quote["approvable"]) == (0, False)
    waiting = late_client.post(
        "/api/estimates", json=body | {"wait": True}, headers=person.headers
    ).json()
    assert (waiting["capacity"]["is_open"], waiting["approvable"]) == (True, True)


def test_two_gpus_cost_twice_the_rate(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    one, two = (
        client.post("/api/estimates", json=body | {"gpu_count": n}, headers=person.headers).json()
        for n in (1, 2)
    )
    rates = [quote["estimate"]["rate_per_hour"]["micros"] for quote in (one, two)]
    assert rates == [600_000, 1_200_000]


def test_an_estimate_of_an_unknown_object_is_refused(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    answer = client.post(
        "/api/estimates", json=body | {"base_model": "none"}, headers=person.headers
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "base_model")
    stranger = platform.person(dollars=10)
    answer = client.post("/api/estimates", json=body, headers=stranger.headers)
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "dataset")


def test_a_base_without_token_counts_is_refused(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    platform.base_model("other")
    answer = client.post(
        "/api/estimates", json=body | {"base_model": "other"}, headers=person.headers
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "dataset")
    assert "counted" in answer.json()["error"]["message"]


def test_a_base_that_cannot_read_the_dataset_is_refused_for_good(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    platform.base_model("other")
    with because(platform.cause):
        dataset = platform.log.load(Dataset, UUID(body["dataset"]))
        dataset.refuse_tokens("other", "22", 3)
        platform.log.commit(dataset)
    answer = client.post(
        "/api/estimates", json=body | {"base_model": "other"}, headers=person.headers
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "dataset")
    assert "refuses example 3" in answer.json()["error"]["message"]


def test_a_choice_outside_the_catalog_is_refused(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    listed = CatalogBase(
        name=BASE_MODEL, repository="tests/tiny", shape=TINY_SHAPE, eligible=False, source="test"
    )
    for change in (
        lambda catalog: catalog.list_base(listed),
        lambda catalog: catalog.delist_base(BASE_MODEL),
    ):
        with because(platform.cause):
            catalog = platform.log.load(Catalog, CATALOG_ID)
            change(catalog)
            platform.log.commit(catalog)
        answer = client.post("/api/estimates", json=body, headers=person.headers)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "base_model")


def test_a_base_without_an_active_deployment_is_not_trained(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    with because(platform.cause):
        platform.deploying.undeploy_base(BASE_MODEL, lambda: 0)
    for path in ("/api/estimates", "/api/jobs"):
        answer = client.post(path, json=body, headers=person.headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["field"]) == (409, "base_model")
    platform.deploy_base()
    assert client.post("/api/estimates", json=body, headers=person.headers).status_code == 200


def test_a_missing_gpu_type_is_named_by_its_title(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    asked = body | {"region": "local", "gpu_type": "l4"}
    refused = client.post("/api/estimates", json=asked, headers=person.headers).json()["error"]
    assert "This machine" in refused["message"]
    assert refused["field"] == "gpu_type"
    anywhere = client.post("/api/estimates", json=asked | {"region": None}, headers=person.headers)
    assert "NVIDIA L4 24 GB" in anywhere.json()["error"]["message"]


def test_free_gpus_elsewhere_include_only_those_that_fit(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    platform.open_pool("cpu-small", 1)
    platform.open_pool("l4", 1)
    platform.occupy(2)
    here = {"region": "local", "gpu_type": "cpu"}
    form = body | here | {"hyperparameters": {"target_modules": ["q_proj"]}}
    shown = client.post("/api/estimates", json=form, headers=person.headers).json()["capacity"]
    assert {place["gpu_type"] for place in shown["elsewhere"]} == {"cpu-small", "l4"}
    two = client.post("/api/jobs", json=form | {"gpu_count": 2}, headers=person.headers)
    assert two.json()["error"]["figures"]["elsewhere"] == []
    one = client.post("/api/jobs", json=form, headers=person.headers).json()["error"]
    assert "NVIDIA L4 24 GB" in one["message"]
    assert {"region": "local", "gpu_type": "l4", "free": 1} in one["figures"]["elsewhere"]


SHORT = {"hyperparameters": {"max_sequence_length": 40}}
CUT = {"hyperparameters": {"max_sequence_length": 45}}


def test_a_length_that_leaves_nothing_to_learn_is_refused_before_the_approval(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    for path in ("/api/estimates", "/api/jobs"):
        answer = client.post(path, json=body | SHORT, headers=person.headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["field"]) == (422, "hyperparameters.max_sequence_length")
        assert error["figures"] == {"trainable_tokens": 0, "max_sequence_length": 50}
    assert not [each for each in platform.topics() if each.startswith("Job")]


def test_examples_that_lose_their_end_are_warned_of_before_and_after_the_approval(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    quote = client.post("/api/estimates", json=body | CUT, headers=person.headers).json()
    warning = quote["truncation_warning"]
    assert warning.startswith("10 of 10 examples (100%) are longer than 45 tokens")
    assert "50 of 100 trainable tokens (50%) remain" in warning
    assert warning in quote["warnings"]
    job = client.post("/api/jobs", json=body | CUT, headers=person.headers).json()
    platform.project()
    shown = client.get(f"/api/jobs/{job['id']}", headers=person.headers).json()
    assert job["warnings"] == shown["warnings"] == [warning]
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events", headers=person.headers).json()
    created = events["data"][-1]
    assert created["level"] == "warn"
    assert warning in created["message"]


def machine_is(platform: Platform, **changed: object) -> None:
    """Record the scheduler's measurements of the machine behind the CPU pool."""
    machine = Machine(host="elsewhere", processor="test", cores=2, dtype=Dtype.BF16, tflops={})
    with because(platform.cause):
        pool = platform.log.load(GpuPool, gpu_pool_id("local", "cpu"))
        pool.measure(machine.model_copy(update=changed))
        platform.log.commit(pool)


@pytest.mark.parametrize("dtype", Dtype)
def test_precision_and_memory_of_the_quote_are_those_of_the_job(
    client: TestClient, platform: Platform, dtype: Dtype
) -> None:
    person, body = ready(platform)
    machine_is(platform, dtype=dtype)
    fit = client.post("/api/estimates", json=body, headers=person.headers).json()["fit"]
    assert (fit["precision"], fit["dtype"], fit["memory"]) == (dtype, dtype, "host")
    assert f"full precision ({dtype})" in fit["banner"]
    job = client.post("/api/jobs", json=body, headers=person.headers).json()
    platform.project()
    shown = client.get(f"/api/jobs/{job['id']}", headers=person.headers).json()
    assert (shown["precision"], shown["dtype"]) == (dtype, dtype)
    assert gib(shown["required_bytes"]) == fit["needed_gib"]
    assert sum(fit["items_gib"].values()) == pytest.approx(shown["required_bytes"] / GIB, abs=1e-3)
    plan = platform.log.load(Job, uuid_of(job)).plan
    assert (plan.dtype, plan.required_bytes) == (dtype, shown["required_bytes"])


def test_a_job_keeps_its_precision_when_the_machine_changes(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    machine_is(platform)
    job = platform.log.load(
        Job, uuid_of(client.post("/api/jobs", json=body, headers=person.headers).json())
    )
    machine_is(platform, dtype=Dtype.FLOAT32)
    backend: Backend = client.app.state.backend  # type: ignore[attr-defined]
    rest = backend.quoting.rest_of(job).plan
    assert (rest.precision, rest.dtype) == (job.plan.precision, Dtype.BF16)


def test_hyperparameters_that_rarely_work_are_cautioned_against_everywhere(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    wild = {"hyperparameters": {"learning_rate": 1.0, "dropout": 0.9}}
    quote = client.post("/api/estimates", json=body | wild, headers=person.headers).json()
    high, dropout = quote["cautions"]
    assert "learning rate 1" in high
    assert "dropout of 0.9" in dropout
    assert {high, dropout} <= {*quote["warnings"]}
    job = client.post("/api/jobs", json=body | wild, headers=person.headers).json()
    platform.project()
    shown = client.get(f"/api/jobs/{job['id']}", headers=person.headers).json()
    assert job["warnings"] == shown["warnings"] == [high, dropout]
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    assert client.get(path, headers=person.headers).json()["ecolink"]["warnings"] == [high, dropout]
    created = client.get(f"{path}/events", headers=person.headers).json()["data"][-1]
    assert created["level"] == "warn"
    assert high in created["message"]


def test_a_busy_machine_raises_the_upper_bound(
    client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, body = ready(platform)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.2, 0.0, 0.0))
    machine_is(platform, host=node(), tflops={Dtype.BF16: 1.0})
    idle, busy = (
        client.post("/api/estimates", json=body, headers=person.headers).json()["estimate"]
        for load in (0.2, 4.5)
        if monkeypatch.setattr(psutil, "getloadavg", lambda load=load: (load, 0.0, 0.0)) is None
    )
    assert "4.5" in busy["basis"]
    assert "4.5" not in idle["basis"]
    assert busy["low_seconds"] == idle["low_seconds"]
    assert busy["high_seconds"] > 2.5 * idle["high_seconds"]
    job = client.post("/api/jobs", json=body, headers=person.headers).json()
    platform.project()
    shown = client.get(f"/api/jobs/{job['id']}", headers=person.headers).json()
    assert shown["estimate"]["basis"] == busy["basis"]
