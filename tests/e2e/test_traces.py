"""One connected trace, from the click that approves a job to the first optimizer step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from threading import Thread

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry import propagate, trace
from psycopg_pool import ConnectionPool

from deploy.local.ports import free_port
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from domain.jobs import events
from domain.jobs.job import Job
from gateway.app import server_config
from infrastructure.bus import streams as bus
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect
from infrastructure.bus.streams import EVENTS, Envelope, provision
from infrastructure.chat.generation import GENERATE_PATH
from infrastructure.http.connection_guard import ConnectionGuard, GuardedServer
from infrastructure.http.limits import Limits
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection
from infrastructure.process import tracing
from infrastructure.settings import Settings
from infrastructure.training.reports import Phase, Report
from services.billing.handlers import Metering
from services.billing.settlement import LeasePolicy
from services.relay.publisher import Publisher
from tests.builders.commands import FixedClock
from tests.builders.platform import Platform
from tests.builders.serving import listening, open_engine
from tests.builders.traces import Collector, collector_on_http, orphans, path_to, picture
from tests.gateway.conftest import application
from tests.gateway.jobs.owners import Owner
from tests.polling import eventually
from tests.projecting import projecting
from tests.running import TIMEOUT_SECONDS, running_ecolink
from tests.services.scheduler.conftest import Scheduler

Become = Callable[[str], None]
"""Sets the process of later spans."""

CLICK = "POST /api/jobs"
PATH = [
    "gateway: POST /api/jobs",
    "scheduler: process JobApproved",
    "billing: process SegmentAllocated",
    "scheduler: process LeaseGranted",
    "trainer: start trainer",
    "trainer: first step",
]
"""The first optimizer step and its ancestors."""


@dataclass
class Services:
    """The services of a platform in one process, connected by the bus."""

    settings: Settings
    log: EventLog
    pool: ConnectionPool[Connection]
    become: Become
    published: list[Envelope] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = FixedClock()
        self.scheduler = Scheduler(self.log, self.pool, self.settings)
        metered = Metering(self.log, LeasePolicy.of(self.settings), self.clock.now)
        self._consumers = {
            name: OrderedConsumer(
                HandlerEffect(name, self.log, self.clock, handlers, self.pool.connection), self.log
            )
            for name, handlers in (
                ("scheduler", self.scheduler.handlers),
                ("billing", EventHandlers(metered.handlers)),
            )
        }

    def run(self) -> None:
        """Publish and handle events until there are no new ones."""
        while self._publish():
            for name, consumer in self._consumers.items():
                self.become(name)
                consumer.consume(self.published)

    def _publish(self) -> int:
        self.become("relay")
        return asyncio.run(self._relay())

    async def _relay(self) -> int:
        client = await bus.connect(self.settings)
        js = client.jetstream()
        await provision(js, ())
        with self.pool.connection() as connection:
            publisher = Publisher(self.log, client, log_identity(connection))
        new = await publisher.publish_new()
        for _ in range(new):
            message = await js.get_msg(EVENTS, len(self.published) + 1)
            self.published.append(Envelope.model_validate_json(message.data or b""))
        await client.close()
        return new


@pytest.fixture
def become(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Become:
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", None)
    tracing.ignore_clients()

    def become(process: str) -> None:
        found = tracing._tracing
        assert found is not None
        found.process = process
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", found.provider(process))

    return become


@pytest.fixture
def services(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    become: Become,
) -> Services:
    """Services that have opened the GPU pool."""
    services = Services(settings, log, pool, become)
    services.run()
    return services


@pytest.fixture
def owner(services: Services) -> Iterator[Owner]:
    """An account holder who approved a job over HTTP."""
    services.become("gateway")
    settings = services.settings
    with projecting(settings), TestClient(application(settings)) as client:
        yield Owner(client, Platform(settings, services.log))


def test_an_approval_and_the_first_step_are_one_trace(
    services: Services, owner: Owner, collector: Collector
) -> None:
    services.run()
    services.become("scheduler")
    services.scheduler.segments.record(first_step(owner.job))
    spans = collector.trace_with(CLICK)
    assert orphans(spans) == []
    assert path_to(spans, collector.named("first step")) == PATH
    assert collector.named("publish JobApproved").process == "relay"
    (started,) = (
        each
        for each in services.log.events.get(owner.job_id)
        if isinstance(each, events.TrainingStarted)
    )
    assert started.traceparent == collector.named("process Report").traceparent
    shown = owner.client.get("/api/events", headers=owner.person.headers).text
    assert "JobApproved" in shown
    assert "traceparent" not in shown


@pytest.mark.full
def test_spans_of_requests_keep_no_secrets_and_ignore_clients(
    owner: Owner, collector: Collector
) -> None:
    known = len(collector.spans)
    for path in ("/healthz", "/assets/0/x.js", "/sign-in/eco_secret"):
        owner.client.get(path)
    assert len(collector.spans) == known
    headers = owner.person.headers | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    assert owner.client.get("/api/jobs", headers=headers).is_success
    span = collector.named("GET /api/jobs")
    assert span.parent_id == ""
    assert span.trace_id != "a" * 32
    assert owner.person.key not in str(span)


def test_accounts_behind_one_connection_share_no_trace_and_no_cause(
    services: Services, collector: Collector
) -> None:
    services.become("gateway")
    platform = Platform(services.settings, services.log)
    people = [platform.person(), platform.person()]
    upload = b'{"prompt": "2 + 2 =", "completion": " 4"}\n' * 8_000
    with (
        projecting(services.settings),
        gateway_in_a_thread(services.settings) as url,
        httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1)) as proxy,
    ):
        for each in people:
            for name in ("one", "two"):
                sent = {"params": {"name": name}, "headers": each.headers, "content": upload}
                assert proxy.post("/api/datasets", **sent).is_success
            assert proxy.get("/api/jobs", headers=each.headers).is_success
    requests = [each for each in collector.spans if each.name.endswith(("/datasets", "/jobs"))]
    assert len({each.trace_id for each in requests}) == 6
    assert {each.parent_id for each in requests} == {""}
    uploads = [
        event
        for stored in services.log.recorder.select_notifications(start=None, limit=100)
        if isinstance(event := services.log.mapper.to_domain_event(stored), Dataset.DatasetUploaded)
    ]
    assert [(each.account_id, each.actor) for each in uploads] == [
        (each.account_id, f"key:{each.key_id}") for each in people for _ in ("one", "two")
    ]
    assert len({each.command_id for each in uploads}) == 4
    assert {each.traceparent for each in uploads} == {
        each.traceparent for each in requests if each.name.startswith("POST")
    }


@contextmanager
def gateway_in_a_thread(settings: Settings) -> Iterator[str]:
    """Serve as the gateway does, in a thread. Yield the URL."""
    settings = settings.model_copy(update={"gateway_port": free_port(0)})
    guard = ConnectionGuard(Limits(settings.limits))
    server = GuardedServer(server_config(application(settings), settings, guard), guard)
    thread = Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{settings.gateway_port}"
    finally:
        server.should_exit = True
        thread.join()


def test_requests_to_serving_have_no_spans(become: Become, collector: Collector) -> None:
    become("serving")
    with open_engine(rows=1) as engine, listening(engine) as url:
        assert httpx.get(url).status_code == HTTPStatus.NOT_FOUND
        assert httpx.post(url + GENERATE_PATH).status_code == HTTPStatus.UNAUTHORIZED
    assert collector.spans == []


def first_step(job: Job) -> Report:
    """The report of a trainer after its first step."""
    return Report(
        account_id=job.account_id,
        job_id=job.id,
        segment=1,
        n=1,
        sent_at=datetime.now(UTC),
        elapsed_seconds=3.0,
        phase=Phase.TRAINING,
        phase_seconds={Phase.MODEL_LOAD: 1.0, Phase.TRAINING: 2.0},
        step=1,
        first_step_seconds=2.5,
        total_steps=9,
    )


@pytest.mark.full
def test_a_running_platform_exports_one_trace_to_a_collector(
    home: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with collector_on_http() as (collector, url), pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        settings = Settings(home=home, heartbeat_seconds=0.2, test_payments=True, log_format="json")
        with running_ecolink(tmp_path, settings) as ecolink:
            dataset = ecolink.dataset(tmp_path, examples=40)
            job = ecolink.approve(dataset, epochs=1)
            eventually(lambda: "first step" in collector.names, TIMEOUT_SECONDS)
            ecolink.await_end(job)
    # The processes have ended, so they have sent all their spans.
    spans = collector.trace_with(CLICK)
    assert orphans(spans) == [], picture(spans)
    path = path_to(spans, collector.named("first step"))
    # On a slow machine, the scheduler may repeat the launch.
    assert (path[:3], path[-2:]) == (PATH[:3], PATH[-2:])
    assert {each.process for each in spans} >= {
        *("gateway", "relay", "scheduler", "billing", "trainer")
    }
    assert spans[0].trace_id in (home / "logs/gateway.log").read_text()
    record_property("measured", picture(spans))
