"""Quotes of a job before its approval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from platform import node
from threading import Timer
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import CatalogBase
from domain.catalog.machine import Machine
from domain.core.aggregate import because
from domain.core.identity import CATALOG_ID, gpu_pool_id
from domain.core.quantities import GIB, gib
from domain.datasets.dataset import Dataset
from domain.jobs.job import Job
from domain.training.phases import SUPERVISED_PHASES
from domain.training.precision import Dtype
from gateway.backend import Backend
from gateway.http.openai_vocabulary import job_of
from tests.builders.platform import BASE_MODEL, Platform
from tests.builders.tiny_model import TINY_SHAPE
from tests.gateway.api_user import ApiUser


class Orderer(ApiUser):
    """A user with $10 and a dataset, who orders a job."""

    def __init__(self, client: TestClient, platform: Platform) -> None:
        person, self.body = platform.ready()
        super().__init__(client, person)

    def ask(self, path: str = "estimates", **change: Any) -> httpx.Response:
        return self.post(f"/api/{path}", self.body | change)

    def quote(self, **change: Any) -> Any:
        return self.ask(**change).json()

    def approve(self, **change: Any) -> Any:
        return self.ask("jobs", **change).json()


@pytest.fixture
def orderer(client: TestClient, platform: Platform) -> Orderer:
    return Orderer(client, platform)


def test_a_quote_has_fit_range_balance_and_capacity(orderer: Orderer, platform: Platform) -> None:
    quote = orderer.quote()
    assert quote["fit"]["precision"] == "float32", "nothing is known of the machine"
    assert 0 < quote["fit"]["headroom_gib"] < quote["fit"]["vram_gib"]
    priced = quote["estimate"]
    assert [each["phase"] for each in priced["phases"]] == [
        phase.value for phase in SUPERVISED_PHASES
    ]
    assert 0 < priced["low_seconds"] < priced["high_seconds"]
    assert 0 < priced["low"]["micros"] < priced["high"]["micros"]
    assert (priced["calibrated_from"], priced["rate_per_hour"]["micros"]) == (0, 600_000)
    assert quote["balance"]["left"]["micros"] == 10_000_000 - priced["high"]["micros"]
    assert quote["balance"]["missing"]["micros"] == 0
    free = {"free": 2, "needed": 1, "wait_seconds": 0, "elsewhere": []}
    assert quote["capacity"] == free | {"is_open": True}
    assert quote["approvable"]
    assert "1,000" in quote["warnings"][0]
    assert orderer.quote(gpu_count=2)["estimate"]["rate_per_hour"]["micros"] == 1_200_000
    assert not [each for each in platform.topics() if each.startswith("Job")]


def test_a_quote_waits_until_the_read_model_knows_the_busy_gpus(
    late_client: TestClient, platform: Platform
) -> None:
    orderer = Orderer(late_client, platform)
    platform.project()
    platform.occupy(2)
    behind = Timer(0.2, platform.project)
    behind.start()
    quote = orderer.quote()
    behind.join()
    assert (quote["capacity"]["free"], quote["approvable"]) == (0, False)
    waiting = orderer.quote(wait=True)
    assert (waiting["capacity"]["is_open"], waiting["approvable"]) == (True, True)


def other_base(platform: Platform, body: dict[str, Any]) -> None:
    platform.base_model("other")
    body["base_model"] = "other"


def unreadable(platform: Platform, body: dict[str, Any]) -> None:
    other_base(platform, body)
    with because(platform.cause):
        dataset = platform.log.load(Dataset, UUID(body["dataset"]))
        dataset.refuse_tokens("other", "22", 3)
        platform.log.commit(dataset)


def catalog_changed(change: Callable[[Catalog], None]) -> Callable[..., None]:
    def made(platform: Platform, body: dict[str, Any]) -> None:
        with because(platform.cause):
            catalog = platform.log.load(Catalog, CATALOG_ID)
            change(catalog)
            platform.log.commit(catalog)

    return made


INELIGIBLE = CatalogBase(
    name=BASE_MODEL, repository="tests/tiny", shape=TINY_SHAPE, eligible=False, source="test"
)


def delist(catalog: Catalog) -> None:
    catalog.list_base(INELIGIBLE)
    catalog.delist_base(BASE_MODEL)


def undeployed(platform: Platform, body: dict[str, Any]) -> None:
    with because(platform.cause):
        platform.deploying.undeploy_base(BASE_MODEL, lambda: 0)


@pytest.mark.full
@pytest.mark.parametrize(
    ("obstacle", "status", "field"),
    [
        (lambda platform, body: body.update(base_model="none"), 422, "base_model"),
        (lambda platform, body: body.update(region="local", gpu_type="l4"), 422, "gpu_type"),
        (
            lambda platform, body: body.update(
                dataset=str(platform.dataset(platform.person(dollars=10)))
            ),
            *(404, "dataset"),
        ),
        (other_base, 409, "dataset"),  # whose tokens are not counted yet
        (unreadable, 422, "dataset"),
        (catalog_changed(lambda catalog: catalog.list_base(INELIGIBLE)), 422, "base_model"),
        (catalog_changed(delist), 422, "base_model"),
        (undeployed, 409, "base_model"),
    ],
)
def test_an_obstacle_to_a_job_refuses_quote_and_approval(
    orderer: Orderer, platform: Platform, obstacle: Callable[..., None], status: int, field: str
) -> None:
    obstacle(platform, orderer.body)
    for path in ("estimates", "jobs"):
        answer = orderer.ask(path)
        assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_free_gpus_elsewhere_include_only_those_that_fit(
    orderer: Orderer, platform: Platform
) -> None:
    platform.open_pool("cpu-small", 1)
    platform.open_pool("l4", 1)
    platform.occupy(2)
    orderer.body |= {"region": "local", "gpu_type": "cpu"}
    tuned = {"hyperparameters": {"target_modules": ["q_proj"]}}
    elsewhere = orderer.quote(**tuned)["capacity"]["elsewhere"]
    assert {place["gpu_type"] for place in elsewhere} == {"cpu-small", "l4"}
    assert orderer.approve(**tuned, gpu_count=2)["error"]["figures"]["elsewhere"] == []
    figures = orderer.approve(**tuned)["error"]["figures"]
    assert {"region": "local", "gpu_type": "l4", "free": 1} in figures["elsewhere"]


def test_names_of_hugging_face_are_accepted_and_errors_have_the_sent_name(orderer: Orderer) -> None:
    ours = orderer.quote(hyperparameters={"epochs": 2, "save_steps": 7})
    theirs = orderer.quote(hyperparameters={"num_train_epochs": 2, "save_steps": 7})
    assert theirs["estimate"] == ours["estimate"]
    wrong = {"num_train_epochs": 0, "lora_dropout": 2}
    error = orderer.ask("jobs", hyperparameters=wrong).json()["error"]
    assert [each["field"] for each in error["fields"]] == [
        "hyperparameters.num_train_epochs",
        "hyperparameters.lora_dropout",
    ]
    error = orderer.ask("jobs", hyperparameters={"warmup_rate": 0.1}).json()["error"]
    assert error["fields"] == [
        {
            "field": "hyperparameters.warmup_rate",
            "message": "Unknown field. Did you mean warmup_ratio?",
        }
    ]


def test_a_length_that_leaves_nothing_to_learn_is_refused(
    orderer: Orderer, platform: Platform
) -> None:
    for path in ("estimates", "jobs"):
        answer = orderer.ask(path, hyperparameters={"max_sequence_length": 40})
        error = answer.json()["error"]
        assert (answer.status_code, error["field"]) == (422, "hyperparameters.max_sequence_length")
        assert error["figures"] == {"trainable_tokens": 0, "max_sequence_length": 50}
    assert not [each for each in platform.topics() if each.startswith("Job")]


@pytest.mark.parametrize(
    "tuned", [{"max_sequence_length": 45}, {"learning_rate": 1.0, "dropout": 0.9}]
)
def test_warnings_of_a_quote_stay_with_its_job(
    orderer: Orderer, platform: Platform, tuned: dict[str, Any]
) -> None:
    quote = orderer.quote(hyperparameters=tuned)
    warnings = quote["cautions"] or [quote["truncation_warning"]]
    assert {*warnings} <= {*quote["warnings"]}
    job = orderer.approve(hyperparameters=tuned)
    platform.project()
    assert job["warnings"] == orderer.get(f"/api/jobs/{job['id']}").json()["warnings"] == warnings
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    assert orderer.get(path).json()["ecolink"]["warnings"] == warnings
    created = orderer.list(f"{path}/events")[-1]
    assert created["level"] == "warn"
    assert warnings[0] in created["message"]


def machine_is(platform: Platform, **changed: object) -> None:
    """Record the scheduler's measurements of the machine behind the CPU pool."""
    machine = Machine(host="elsewhere", processor="test", cores=2, dtype=Dtype.BF16, tflops={})
    with because(platform.cause):
        pool = platform.log.load(GpuPool, gpu_pool_id("local", "cpu"))
        pool.measure(machine.model_copy(update=changed))
        platform.log.commit(pool)


@pytest.mark.parametrize("dtype", Dtype)
def test_precision_and_memory_of_the_quote_are_those_of_the_job(
    orderer: Orderer, platform: Platform, dtype: Dtype
) -> None:
    machine_is(platform, dtype=dtype)
    fit = orderer.quote()["fit"]
    assert (fit["precision"], fit["dtype"], fit["memory"]) == (dtype, dtype, "host")
    job = orderer.approve()
    platform.project()
    shown = orderer.get(f"/api/jobs/{job['id']}").json()
    assert (shown["precision"], shown["dtype"]) == (dtype, dtype)
    assert gib(shown["required_bytes"]) == fit["needed_gib"]
    assert sum(fit["items_gib"].values()) == pytest.approx(shown["required_bytes"] / GIB, abs=1e-3)
    plan = platform.log.load(Job, job_of(job["id"])).plan
    assert (plan.dtype, plan.required_bytes) == (dtype, shown["required_bytes"])


def test_a_job_keeps_its_precision_when_the_machine_changes(
    orderer: Orderer, platform: Platform
) -> None:
    machine_is(platform)
    job = platform.log.load(Job, job_of(orderer.approve()["id"]))
    machine_is(platform, dtype=Dtype.FLOAT32)
    backend: Backend = orderer.client.app.state.backend  # type: ignore[attr-defined]
    rest = backend.quoting.rest_of(job).plan
    assert (rest.precision, rest.dtype) == (job.plan.precision, Dtype.BF16)


def test_a_busy_machine_raises_the_upper_bound(
    orderer: Orderer, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(load: float) -> None:
        monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))

    loaded(0.2)
    machine_is(platform, host=node(), tflops={Dtype.BF16: 1.0})
    idle = orderer.quote()["estimate"]
    loaded(4.5)
    busy = orderer.quote()["estimate"]
    assert busy["low_seconds"] == idle["low_seconds"]
    assert busy["high_seconds"] > 2.5 * idle["high_seconds"]
    assert "4.5" in busy["basis"]
    job = orderer.approve()
    platform.project()
    assert orderer.get(f"/api/jobs/{job['id']}").json()["estimate"]["basis"] == busy["basis"]


def test_a_job_that_was_approved_a_moment_ago_raises_the_upper_bound(
    orderer: Orderer, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process has handled its approval, and its load does not show yet."""
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.2, 0.0, 0.0))
    machine_is(platform, host=node(), tflops={Dtype.BF16: 1.0})
    alone = orderer.quote()["estimate"]
    for _ in range(3):
        orderer.approve()
    shared = orderer.quote()["estimate"]
    assert shared["low_seconds"] == alone["low_seconds"]
    assert shared["high_seconds"] == pytest.approx(2 * alone["high_seconds"], abs=2)
    assert "1 other job" in shared["basis"], "the pool has two GPUs"
    assert "1 other job" not in orderer.quote(gpu_count=2)["estimate"]["basis"]
    platform.project()
    assert orderer.quote()["estimate"]["basis"] == shared["basis"]
    platform.open_pool("cpu-small", 1)
    with because(platform.cause):
        small = platform.log.load(GpuPool, gpu_pool_id("local", "cpu-small"))
        small.measure(Machine(host=node(), processor="", cores=2, dtype=Dtype.BF16, tflops={}))
        platform.log.commit(small)
    on_small = {"gpu_type": "cpu-small", "hyperparameters": {"target_modules": ["q_proj"]}}
    assert "2 other jobs" in orderer.quote(**on_small)["estimate"]["basis"]


def test_the_load_of_running_jobs_counts_once(
    orderer: Orderer, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (2.4, 0.0, 0.0))
    machine_is(platform, host=node(), tflops={Dtype.BF16: 1.0})
    job = platform.log.load(Job, job_of(orderer.approve()["id"]))
    pool = platform.log.load(GpuPool, gpu_pool_id("local", "cpu"))
    claim = Claim(job.account_id, job.id, 1, 1)
    began = datetime.now(UTC) - timedelta(hours=1)
    with because(replace(platform.cause, now=began)):
        pool.request(claim)
        pool.allocate(claim)
        platform.log.commit(pool)
    beside = orderer.quote()["estimate"]["basis"]
    assert "1 other job" in beside
    assert "2 times" in beside
    assert "busy" not in beside


def test_a_job_does_not_slow_down_its_own_rest(
    orderer: Orderer, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (2.4, 0.0, 0.0))
    machine_is(platform, host=node(), tflops={Dtype.BF16: 1.0})
    job = platform.log.load(Job, job_of(orderer.approve()["id"]))
    claim, now = Claim(job.account_id, job.id, 1, 1), datetime.now(UTC)
    pool = platform.log.load(GpuPool, gpu_pool_id("local", "cpu"))
    with because(replace(platform.cause, now=now - timedelta(hours=1))):
        pool.request(claim)
        pool.allocate(claim)
    with because(replace(platform.cause, now=now)):
        pool.release(job.id, 1)
        job.pause()
        platform.log.commit(pool, job)
    backend: Backend = orderer.client.app.state.backend  # type: ignore[attr-defined]
    assert backend.quoting.rest_of(job).estimate.slowdown == pytest.approx(1)


def test_a_maximum_cost_lowers_the_balance_that_a_job_needs(
    orderer: Orderer, platform: Platform
) -> None:
    platform.spend(orderer.person, left_micros=500)
    assert orderer.quote()["approvable"] is False
    assert orderer.ask("jobs").status_code == 402
    quote = orderer.quote(max_cost="0.0005")
    balance = quote["balance"]
    assert (balance["needed"]["micros"], balance["missing"]["micros"]) == (500, 0)
    assert quote["approvable"] is True
    assert orderer.ask("jobs", max_cost="0.0005").status_code == 201


def test_a_quote_warns_of_the_budgets_that_the_job_may_reach(
    orderer: Orderer, platform: Platform
) -> None:
    day, month = (BudgetName(each) for each in (BudgetPeriod.DAY, BudgetPeriod.MONTH))

    def budget(name: BudgetName, limit_micros: int) -> None:
        with because(platform.cause):
            platform.ecolink.set_budget(orderer.person.account_id, name, limit_micros)

    budget(day, 5_000_000)
    assert orderer.quote()["budgets"] == []
    platform.spend(orderer.person, left_micros=5_500_000)
    budget(month, 4_500_001)
    quote = orderer.quote()
    assert [each["outlook"] for each in quote["budgets"]] == ["nearly_used", "used_up"]
    assert {each["text"] for each in quote["budgets"]} <= set(quote["warnings"])
    assert quote["approvable"] is False
    refused = orderer.ask("jobs").json()["error"]
    assert refused["message"] == quote["budgets"][1]["text"]
    with because(platform.cause):
        platform.ecolink.remove_budget(orderer.person.account_id, month)
    assert orderer.quote()["approvable"] is True
