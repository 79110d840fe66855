"""A trainer's real credential on a real server, used against the reports of another account."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError
from psycopg_pool import ConnectionPool
from pydantic import ValidationError

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.lifecycle import SegmentEnd
from domain.training.early_stopping import EarlyStop
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import subscribe_batches
from infrastructure.bus.exchange import read
from infrastructure.bus.keys import signer
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import (
    MAX_MEASUREMENT_BYTES,
    MAX_REPORT_BYTES,
    REPORTS,
    STREAMS,
    Durable,
    provision,
)
from infrastructure.extensions import installed
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from infrastructure.training.reports import (
    EvaluationMeasured,
    LogLine,
    Phase,
    PodSeen,
    Report,
    SegmentMessage,
    StepMeasured,
)
from infrastructure.training.segment_credentials import (
    MAX_SUBSCRIPTIONS,
    CredentialIssuer,
    inbox_prefix,
)
from services.billing.app import EVIDENCE
from services.billing.evidence import Evidence, keep_evidence
from services.projector.app import STORES
from services.scheduler.app import REPORTS_DURABLE, record_all
from services.scheduler.pod_reports import PodReports
from services.scheduler.segments import Segments
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import STATE, resume_certificate
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, EVALUATION, failed, training
from tests.polling import eventually_async
from tests.projecting import project

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
OTHER_ACCOUNT = UUID(int=7)

READERS = {
    ("infrastructure/bus/consumer.py", "subscriber"): "parses nothing itself",
    ("services/billing/app.py", "subscribe"): "events, which only the relay publishes",
    ("services/billing/app.py", "subscribe_batches"): EVIDENCE,
    ("services/scheduler/app.py", "subscribe"): "events",
    ("services/scheduler/app.py", "subscribe_batches"): REPORTS_DURABLE,
    ("services/projector/app.py", "subscribe"): "events",
    ("services/projector/app.py", "subscribe_batches"): tuple(STORES),
    ("services/projector/following.py", "subscribe"): "events",
    ("services/datasets/app.py", "subscribe"): "events",
    ("services/serving/app.py", "subscribe"): "events",
    **{
        (f"extensions/{extension.name}/app.py", "subscribe"): "events"
        for extension in installed()
        if any(each.bus for each in extension.processes.values())
    },
    ("services/relay/publisher.py", "get_last_msg"): "events",
    ("deploy/operator/events.py", "subscribe"): "events",
    ("services/scheduler/pod_reports.py", "get_last_msg"): "reports",
    ("services/trainer/reporter.py", "get_last_msg"): "control, which only the scheduler publishes",
}
"""Every place that reads the bus, and what it reads. A new one must be added here, and to the
tests below if trainers can send what it reads."""

CALLS = {
    *("subscribe", "subscribe_batches", "subscriber", "pull_subscribe", "pull_subscribe_bind"),
    *("get_last_msg", "get_msg"),
}


def test_every_reader_of_the_bus_is_listed() -> None:
    found = set()
    packages = ("domain", "projections", "infrastructure", "services", "gateway")
    for package in (*packages, "extensions", "deploy"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for node in ast.walk(ast.parse(text)) if any(each in text for each in CALLS) else ():
                if isinstance(node, ast.Call):
                    function = node.func
                    name = getattr(function, "attr", getattr(function, "id", ""))
                    if name in CALLS:
                        found.add((str(path.relative_to(ROOT)), name))
    assert found == READERS.keys()


@dataclass
class Segment:
    """A running segment, and the connection of its trainer."""

    history: History
    client: Client
    errors: asyncio.Queue[Exception]

    @property
    def name(self) -> str:
        return f"{self.history.account_id}.{self.history.job_id}.1"

    @property
    def key(self) -> dict[str, Any]:
        own = self.history
        return {"account_id": own.account_id, "job_id": own.job_id, "segment": 1}

    @property
    def js(self) -> JetStreamContext:
        return self.client.jetstream()

    def messages(self) -> list[SegmentMessage]:
        """One message of each kind."""
        return [
            training(42).model_copy(update=self.key),
            StepMeasured(**self.key | STEP),
            EvaluationMeasured(**self.key | EVALUATED),
            LogLine(**self.key, n=1, level="INFO", text="a line", logged_at=NOW),
        ]


STEP = {
    **{"step": 1, "total_steps": 2, "train_loss": 1.0, "smoothed_loss": 1.0},
    **{"learning_rate": 0.1, "tokens": 10, "tokens_per_second": 5.0, "elapsed_seconds": 1.0},
    **{"peak_memory_bytes": 9, "gpu_memory_bytes": 9, "measured_at": NOW},
}
EVALUATED = {
    **{"step": 1, "eval_loss": 1.0, "accuracy": 0.5, "examples": 5, "label_tokens": 9},
    **{"seconds": 1.0, "elapsed_seconds": 1.0, "measured_at": NOW},
}


@pytest.fixture
async def streams(js: JetStreamContext) -> JetStreamContext:
    await provision(js, (EVIDENCE, REPORTS_DURABLE, *STORES))
    return js


@asynccontextmanager
async def running(settings: Settings, history: History) -> AsyncIterator[Segment]:
    """Launch a job, and connect as its trainer."""
    history.open_account(1_000_000)
    history.approve_job()
    history.allocate_segment(1)
    history.grant_lease(1)
    history.start_pod(1)
    issuer = CredentialIssuer.of(settings)
    assert issuer is not None
    assert settings.nats_url is not None
    given = issuer.issue(history.account_id, history.job_id, 1)
    segment = Segment(history, Client(), asyncio.Queue())
    await segment.client.connect(
        settings.nats_url,
        user_jwt_cb=lambda: bytearray(given.jwt.encode()),
        signature_cb=signer(given.seed),
        inbox_prefix=inbox_prefix(history.job_id, 1),
        error_cb=segment.errors.put,
        allow_reconnect=False,
    )
    try:
        yield segment
    finally:
        await segment.client.close()


@pytest.fixture
async def victim(
    settings: Settings, streams: JetStreamContext, history: History
) -> AsyncIterator[Segment]:
    history.open_pool(2)
    async with running(settings, history) as segment:
        yield segment


@pytest.fixture
async def attacker(settings: Settings, victim: Segment) -> AsyncIterator[Segment]:
    async with running(settings, victim.history.another_job(OTHER_ACCOUNT)) as segment:
        yield segment


@pytest.fixture
def segments(log: EventLog, settings: Settings) -> Segments:
    launcher = Mock(log=Mock(return_value=b""))
    return Segments(log, FixedClock(), Artifacts(settings.artifacts), launcher, Mock(), settings)


@asynccontextmanager
async def consuming(
    settings: Settings, pool: ConnectionPool[Connection], segments: Segments, js: JetStreamContext
) -> AsyncIterator[None]:
    """Run all consumers of trainers' messages in the block, and wait until they have no more."""

    def keep(messages: Sequence[object]) -> None:
        with pool.connection() as connection:
            keep_evidence(connection, messages)

    broker = broker_of(settings, "test")
    subscribe_batches(broker, EVIDENCE, keep)
    subscribe_batches(broker, REPORTS_DURABLE, partial(record_all, segments))
    for durable, store in STORES.items():
        subscribe_batches(broker, durable, partial(store, pool))

    async def done(durable: Durable) -> bool:
        info = await js.consumer_info(durable.stream, durable.name)
        return info.num_pending == 0 and info.num_ack_pending == 0

    await broker.start()
    try:
        yield
        for durable in (EVIDENCE, REPORTS_DURABLE, *STORES):
            await eventually_async(partial(done, durable))
    finally:
        await broker.stop()


def nested(depth: int) -> Iterator[bytes]:
    """Arrays and objects inside each other, alone and as a field of a message."""
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        yield opened * depth + b"1" + closed * depth
        yield b'{"phase": ' + opened * depth + b"1" + closed * depth + b"}"


def hostile(valid: dict[str, Any], others: dict[str, Any]) -> Iterator[bytes]:
    """Contents that no trainer of the product sends."""
    for depth in (150, 199, 201, 900, 9_000):
        yield from nested(depth)
    yield from (b"", b"null", b"7", b"[]", b'"text"', b"{", b"\xff\xfe", b"\0" * 100, b"{}")
    yield from (b"NaN", b"Infinity", b"1e999", b"9" * 60_000, b'{"a": "\xff"}', b'"\\ud800"')
    yield from (json.dumps(each).encode() for each in ([valid], valid | others, {"a": valid}))
    for number in (b"NaN", b"-Infinity", b"1e999", b"1e300", b"9" * 4_000, b"-1"):
        for name in valid:
            rest = json.dumps({key: each for key, each in valid.items() if key != name})
            yield rest[:-1].encode() + b', "%s": %s}' % (name.encode(), number)
    for wrong in (None, True, [], {}, "x", "\0", "\x1b" * 9_000, [[]], 1e300, 10**25, -(10**25)):
        for name in valid:
            yield json.dumps(valid | {name: wrong}).encode()


def rows(connection: Connection, job_id: UUID) -> dict[str, int]:
    """Number of stored measurements of a job."""
    tables = ("step_measurements", "evaluation_measurements", "log_lines")
    return {
        table: len(
            connection.execute(
                f"SELECT FROM {table} WHERE job_id = %s",  # type: ignore[arg-type]
                [job_id],
            ).fetchall()
        )
        for table in tables
    }


def evidence(connection: Connection) -> dict[UUID, float]:
    found = connection.execute("SELECT * FROM segment_evidence").fetchall()
    return {row["job_id"]: row["elapsed_seconds"] for row in found}


async def test_reports_of_another_account_arrive_during_an_attack(
    settings: Settings,
    pool: ConnectionPool[Connection],
    streams: JetStreamContext,
    segments: Segments,
    victim: Segment,
    attacker: Segment,
) -> None:
    bare = {name: str(each) for name, each in victim.key.items()}
    sent = 0
    for own, honest in zip(attacker.messages(), victim.messages(), strict=True):
        batch = []
        for content in hostile(json.loads(own.model_dump_json()), bare):
            if len(content) <= MAX_MEASUREMENT_BYTES:
                batch.append(attacker.js.publish(own.subject, content, timeout=SECONDS))
        await asyncio.gather(*batch)
        headers = b"NATS/1.0\r\n\xff bad\r\n\r\n"
        line = b"HPUB %s %d %d\r\n" % (own.subject.encode(), len(headers), len(headers) + 2)
        attacker.client._transport.write(line + headers + b"{}\r\n")
        await attacker.client.flush()
        await victim.js.publish(honest.subject, honest.model_dump_json().encode())
        sent += len(batch)
    assert sent > 300
    async with consuming(settings, pool, segments, streams):
        pass
    with pool.connection() as connection:
        assert set(rows(connection, victim.history.job_id).values()) == {1}
        shown = evidence(connection)
        assert shown.pop(victim.history.job_id) == 42
        assert all(0 <= each < 2**31 for each in shown.values())
        project(victim.history.log, connection)  # what was accepted fits into the read models
    assert victim.history.topics() == ["TrainingStarted"]
    assert attacker.errors.empty()


@pytest.mark.full
async def test_the_last_report_of_a_pod_may_have_any_content(
    settings: Settings, streams: JetStreamContext, attacker: Segment
) -> None:
    """The scheduler reads it from the stream, and from the pod's disk."""
    own, launcher = attacker.messages()[0], Mock()
    broker = broker_of(settings, "test")
    reports = PodReports(broker, FixedClock(), launcher)
    contents = list(hostile(json.loads(own.model_dump_json()), {}))
    await attacker.js.publish(own.subject, contents[0])
    try:
        for content in contents:
            launcher.kept_report.return_value = content
            found = await reports.last_report(attacker.history.job, 1)
            assert found is None or found.elapsed_seconds < 2**31
    finally:
        await broker.stop()


REPORT = training(
    1,
    step=10,
    trained_tokens=9,
    train_loss=1.0,
    tokens_per_second=1.0,
    peak_memory_bytes=9,
    first_step_seconds=1.0,
    phase_seconds={"training": 1.0},
    checkpoint=CHECKPOINT,
    earlier=(CHECKPOINT.model_copy(update={"eval_loss": 1.0}),),
    resumed=resume_certificate(10, CHECKPOINT.ref, STATE),
    stopped_early=EarlyStop(
        step=1, planned_steps=2, evaluations=1, eval_loss=1, lowest_step=1, lowest_eval_loss=1
    ),
    evaluation=EVALUATION,
    outcome=SegmentEnd.CRASHED,
    shortage={
        **{"rows": 1, "tokens": 1, "micro_batch_size": 1, "gradient_accumulation": 1},
        "peak_bytes": 1,
    },
)
KEY = {"account_id": REPORT.account_id, "job_id": REPORT.job_id, "segment": 1}
EXAMPLES: tuple[tuple[type[Any], SegmentMessage], ...] = (
    (Report, REPORT),
    (Evidence, REPORT),
    (PodSeen, PodSeen(**KEY, elapsed_seconds=1)),
    (StepMeasured, StepMeasured(**KEY | STEP)),
    (EvaluationMeasured, EvaluationMeasured(**KEY | EVALUATED)),
    (LogLine, LogLine(**KEY, n=1, level="INFO", text="a line", logged_at=NOW)),
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Numbers inside a document, with their paths."""
    if isinstance(value, int | float):
        yield path, value
    for name, each in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from leaves(each, (*path, name))


def changed(document: Any, path: tuple[Any, ...], value: object) -> Any:
    copy = json.loads(json.dumps(document))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return copy


SIGNED = ("loss", "accuracy", "rate", "tokens_per_second")
"""Ends of the names of numbers that may be negative. They reach no integer column."""


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        pytest.param((kind, each), path, id=f"{kind.__name__}-{'.'.join(map(str, path))}")
        for kind, each in EXAMPLES
        for path, _ in leaves(json.loads(each.model_dump_json()))
        if path[0] in kind.model_fields
    ],
)
def test_every_number_has_limits(
    kind: tuple[type[Any], SegmentMessage], path: tuple[Any, ...]
) -> None:
    model, example = kind
    document = json.loads(example.model_dump_json())
    read(model, document)
    name = str(next(each for each in reversed(path) if isinstance(each, str)))
    wrong: list[object] = [float("nan"), float("inf"), 1e300, 2**53, 10**400, -(2**53)]
    if not name.endswith(SIGNED) and not name.startswith(("loss", "accuracy")):
        wrong.append(-1)
    for each in wrong:
        with pytest.raises(ValidationError):
            read(model, changed(document, path, each))


def test_the_largest_accepted_numbers_fit_into_the_read_models(
    history: History, pool: ConnectionPool[Connection], segments: Segments
) -> None:
    """Otherwise the projector would stop for all accounts."""
    history.run_until("launched")
    document = json.loads(REPORT.model_dump_json())
    for path, _ in leaves(document):
        if path not in (("segment",), ("checkpoint", "segment"), ("earlier", 0, "segment")):
            for most in (2**53 - 1, 2**31 - 1, 2**31 - 129.0):
                try:
                    read(Report, changed(document, path, most))
                except ValidationError:
                    continue
                document = changed(document, path, most)
                break
    ended = read(Report, document)
    for phase in (Phase.TRAINING, Phase.EVALUATION, Phase.REGISTER):
        segments.record(ended.model_copy(update={"phase": phase, "ending": None}))
    segments.record(ended)
    topics = history.topics()
    assert {"TrainingStarted", "CheckpointSaved", "EvaluationCompleted", "SegmentEnded"} <= {
        *topics
    }
    with pool.connection() as connection:
        project(history.log, connection)


async def test_a_segment_that_has_ended_changes_nothing(
    settings: Settings,
    pool: ConnectionPool[Connection],
    streams: JetStreamContext,
    segments: Segments,
    victim: Segment,
    attacker: Segment,
) -> None:
    attacker.history.end_segment(1, SegmentEnd.CRASHED, error_class="ProcessLost")
    with pool.connection() as connection:
        project(attacker.history.log, connection)
    before = attacker.history.events()
    for each in (training(99), failed(100)):
        late = each.model_copy(update=attacker.key)
        await attacker.js.publish(late.subject, late.model_dump_json().encode())
    honest = victim.messages()[0]
    await victim.js.publish(honest.subject, honest.model_dump_json().encode())
    async with consuming(settings, pool, segments, streams):
        pass
    assert attacker.history.events() == before
    assert victim.history.events(events.TrainingStarted) != []
    with pool.connection() as connection:
        assert evidence(connection) == {victim.history.job_id: 42}


async def test_a_flood_evicts_no_report_of_another_account(
    streams: JetStreamContext, victim: Segment, attacker: Segment
) -> None:
    (limit,) = [each.max_msgs_per_subject for each in STREAMS if each.name == REPORTS]
    honest, subject = victim.messages()[0], f"reports.{attacker.name}"
    await victim.js.publish(honest.subject, honest.model_dump_json().encode())
    content = b"x" * (MAX_REPORT_BYTES - 1_000)
    for _ in range(3):
        each = (attacker.js.publish(subject, content, timeout=SECONDS) for _ in range(limit))
        await asyncio.gather(*each)
    found = (await streams.stream_info(REPORTS, subjects_filter=">")).state
    assert found.subjects == {honest.subject: 1, subject: limit}
    assert found.bytes < limit * (MAX_REPORT_BYTES + 1_000)


async def test_a_measurement_over_the_limit_is_refused(
    streams: JetStreamContext, attacker: Segment
) -> None:
    for kind in ("telemetry", "evaluations", "logs"):
        with pytest.raises(APIError, match="message size exceeds maximum"):
            await attacker.js.publish(f"{kind}.{attacker.name}", b"x" * (MAX_MEASUREMENT_BYTES + 1))


async def test_a_message_over_the_payload_of_the_user_ends_the_connection(
    streams: JetStreamContext, attacker: Segment
) -> None:
    await attacker.client.flush()  # fails on a connection that the server has closed
    await attacker.client.publish(f"reports.{attacker.name}", b"x" * (MAX_REPORT_BYTES + 1))
    await eventually_async(lambda: closed(attacker))  # the error itself can be lost in a reset
    assert (await streams.stream_info(REPORTS)).state.messages == 0


async def test_a_trainer_has_few_subscriptions(
    streams: JetStreamContext, attacker: Segment
) -> None:
    subjects = (f"{inbox_prefix(attacker.history.job_id, 1)}.{n}" for n in range(100))
    for subject in islice(subjects, MAX_SUBSCRIPTIONS):
        await attacker.client.subscribe(subject)
    await attacker.client.flush()  # fails on a connection that the server has closed
    for subject in subjects:
        await attacker.client.subscribe(subject)
    await eventually_async(lambda: closed(attacker))


async def closed(segment: Segment) -> bool:
    return segment.client.is_closed


async def test_headers_of_jetstream_change_no_message_of_others(
    streams: JetStreamContext, victim: Segment, attacker: Segment, subtests: pytest.Subtests
) -> None:
    honest = victim.messages()[0]
    await victim.js.publish(honest.subject, honest.model_dump_json().encode())
    for headers in (
        *({"Nats-Rollup": each} for each in ("all", "sub")),
        {"Nats-Expected-Stream": "EVENTS"},
        {"Nats-Expected-Last-Sequence": "99"},
        {"Nats-TTL": "1s"},
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "events.a.Job.1.JobApproved"},
        {"Nats-Batch-Id": "a", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    ):
        with subtests.test(str(headers)):
            with pytest.raises(APIError):
                await attacker.js.publish(f"reports.{attacker.name}", b"{}", headers=headers)
            assert (await streams.stream_info(REPORTS, subjects_filter=">")).state.subjects == {
                honest.subject: 1
            }


async def test_a_trainer_changes_no_stream_and_no_consumer(
    streams: JetStreamContext, attacker: Segment, subtests: pytest.Subtests
) -> None:
    requests = (
        *("STREAM.CREATE.MINE", "STREAM.UPDATE.REPORTS", "STREAM.PURGE.REPORTS", "STREAM.LIST"),
        *("CONSUMER.CREATE.REPORTS", "CONSUMER.DURABLE.CREATE.REPORTS.mine"),
        *("CONSUMER.DELETE.REPORTS.billing-evidence", "CONSUMER.PAUSE.REPORTS.billing-evidence"),
        "STREAM.MSG.DELETE.REPORTS",
    )
    for prefix, request in product(("$JS.API", "ECOLINK.API"), requests):
        with subtests.test(f"{prefix}.{request}"):
            await attacker.client.publish(f"{prefix}.{request}", b"{}")
            error = await asyncio.wait_for(attacker.errors.get(), SECONDS)
            assert "permissions violation for publish" in str(error).lower()
