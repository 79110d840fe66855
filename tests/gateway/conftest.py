"""A gateway with its own database, account holders and a projector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from deploy.local.ports import free_port
from deploy.processes import environment
from domain.access.role import Role
from domain.billing.account import Account
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.training.token_lengths import LabelTokens, TokenLengths
from domain.use_cases.accounts import EcoLink
from domain.use_cases.deployments import Deploying
from gateway.app import create_app
from infrastructure.settings import Settings
from infrastructure.store import connect, open_log
from tests.builders.tiny_model import TINY_SHAPE
from tests.polling import eventually
from tests.projecting import project
from tests.projecting import projecting as following_projections

BASE_MODEL = "tiny"
DOLLAR = 1_000_000
MEBIBYTE = 1024**2
START_SECONDS = 60.0  # generous, because the machine may be busy
UPLOAD_BYTES = int(os.environ.get("ECOLINK_TEST_UPLOAD_MIB", "60")) * MEBIBYTE
"""Size of the large upload to a gateway process. Use 512 MiB for a manual run."""


@dataclass(frozen=True)
class Person:
    """An account holder with a key."""

    account_id: UUID
    key_id: UUID
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


LENGTHS = TokenLengths.of([50] * 10).model_copy(
    update={"labels": LabelTokens.of_counts(dict.fromkeys(range(41, 51), 10), {41: 10})}
)
"""Ten examples of 50 tokens, of which the last ten are trainable."""


@dataclass
class World:
    """Creates test data directly through the use cases."""

    settings: Settings
    log: EventLog
    cause: Cause = field(
        default_factory=lambda: Cause("service:test", str(uuid4()), datetime.now(UTC))
    )

    @property
    def ecolink(self) -> EcoLink:
        return EcoLink(self.log)

    @property
    def deploying(self) -> Deploying:
        return Deploying(self.log)

    def person(self, role: Role = Role.USER, dollars: int = 0) -> Person:
        account_id = uuid4()
        with because(self.cause):
            self.ecolink.open_account(account_id, role)
            if dollars:
                self.ecolink.grant_credit(account_id, dollars * DOLLAR, "given")
            key, secret = self.ecolink.issue_key(account_id)
        return Person(account_id, key.id, secret)

    def revoke(self, person: Person) -> None:
        with because(self.cause):
            self.ecolink.revoke_key(person.account_id, person.key_id)

    def dataset(self, person: Person, *, ready: bool = True) -> UUID:
        dataset_id = uuid4()
        with because(self.cause):
            dataset = Dataset.uploaded(dataset_id, person.account_id, "uploads/x", "00", 100)
            self.log.commit(dataset)
        if ready:
            self.validate(dataset_id)
        return dataset_id

    def validate(self, dataset_id: UUID, *, counted: bool = True) -> None:
        """Validate a dataset with ten examples, and count its tokens for the base model."""
        with because(self.cause):
            dataset = self.log.load(Dataset, dataset_id)
            content, report = dataset_id.hex * 2, "datasets/x/report.json"
            dataset.validate("datasets/x/examples.jsonl", content, 10, 1, report)
            if counted:
                dataset.record_tokens(BASE_MODEL, "22", LENGTHS)
            self.log.commit(dataset)

    def count(self, dataset_id: UUID) -> None:
        """Count the tokens of a validated dataset for the base model."""
        with because(self.cause):
            dataset = self.log.load(Dataset, dataset_id)
            dataset.record_tokens(BASE_MODEL, "22", LENGTHS)
            self.log.commit(dataset)

    def base_model(self, name: str = BASE_MODEL) -> None:
        with because(self.cause):
            self.ecolink.import_base_model(
                name, "models/tiny", "22", "LlamaForCausalLM", 1000, 256, TINY_SHAPE
            )
        self.deploy_base(name)
        self.open_pool("cpu", 2)

    def deploy_base(self, name: str = BASE_MODEL) -> None:
        """Deploy the base model and activate the deployment."""
        with because(self.cause):
            self.activate(self.deploying.deploy_base(name))

    def activate(self, deployment: Deployment) -> None:
        with because(self.cause):
            deployment.activate()
            self.log.commit(deployment)

    def open_pool(self, gpu_type: str, capacity: int) -> None:
        """Add free GPUs to a pool."""
        with because(self.cause):
            if self.log.find(GpuPool, gpu_pool_id("local", gpu_type)) is None:
                pool = GpuPool.open("local", gpu_type)
                pool.change_capacity(capacity)
                self.log.commit(pool)

    def credit(self, person: Person, amount_micros: int) -> None:
        with because(self.cause):
            self.ecolink.grant_credit(person.account_id, amount_micros, str(uuid4()))

    def spend(self, person: Person) -> None:
        """Use up the balance with a segment."""
        with because(self.cause):
            account = self.log.load(Account, person.account_id)
            spent = account.available_micros
            account.settle(captured_micros=spent, reserved_micros=spent)
            self.log.commit(account)

    def topics(self) -> list[str]:
        """Return the topics of all events in the log."""
        return [each.topic for each in self.log.recorder.select_notifications(start=1, limit=1000)]

    def occupy(self, count: int = 1) -> None:
        """Occupy GPUs with a segment of another account."""
        with because(self.cause):
            pool = self.log.load(GpuPool, gpu_pool_id("local", "cpu"))
            claim = Claim(uuid4(), uuid4(), 1, count)
            pool.request(claim)
            pool.allocate(claim)
            self.log.commit(pool)

    def project(self) -> None:
        """Update every projection."""
        with connect(self.settings) as connection:
            project(self.log, connection)


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    """The store of the gateway."""
    with open_log(settings, pool_size=1) as log:
        yield World(settings, log)


@pytest.fixture
def projecting(settings: Settings) -> Iterator[None]:
    """Projections that follow the log, like the projector process."""
    with following_projections(settings):
        yield


@pytest.fixture
def late_client(settings: Settings) -> Iterator[TestClient]:
    """A client of a gateway whose projector is down."""
    with TestClient(application(settings), raise_server_exceptions=False) as client:
        yield client


@cache
def _prepared() -> FastAPI:
    return create_app(Settings())


def application(settings: Settings) -> FastAPI:
    """Return an application of the gateway for one test at a time.

    FastAPI analyses each route at its first call, which takes longer than most tests. So all tests
    share the application.
    """
    app = _prepared()
    app.router.lifespan_context = create_app(settings).router.lifespan_context
    return app


@pytest.fixture
def client(late_client: TestClient, projecting: None) -> TestClient:
    """A client of a gateway, without a key."""
    return late_client


@dataclass(frozen=True)
class Gateway:
    """A gateway process."""

    process: psutil.Process
    url: str


@pytest.fixture
def gateway(settings: Settings, projecting: None) -> Iterator[Gateway]:
    """A gateway process."""
    with running_gateway(settings) as running:
        yield running


@contextmanager
def running_gateway(settings: Settings) -> Iterator[Gateway]:
    """Run a gateway process, which must exit cleanly on SIGTERM."""
    filled = settings.model_copy(
        update={"gateway_port": free_port(0), "dataset_max_bytes": UPLOAD_BYTES + 4 * MEBIBYTE}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.run", "gateway"], env=os.environ | environment(filled)
    )
    url = f"http://127.0.0.1:{filled.gateway_port}"
    try:
        eventually(lambda: healthy(url), START_SECONDS)
        yield Gateway(psutil.Process(process.pid), url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False
