"""Appends, the relay, folds and the audit, each as a share of the plainest way to do its I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

from eventsourcing.persistence import Notification, StoredEvent
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import NotFoundError
from psycopg.rows import dict_row

from domain.core.event_log import MAX_EVENTS, EventLog
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import EVENTS, Envelope, provision
from infrastructure.postgres.event_recorder import EventRecorder
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.billing_ledger import BILLING_LEDGER
from projections.rebuilding import rebuild
from services.projector.audit import audit
from services.relay.batch import ID_HEADER, LOG_HEADER
from services.relay.publisher import Publisher
from tests.bench.scale_jobs import COLUMNS, Connection, events_after
from tests.bench.sealed_log import PUBLIC
from tests.bench.seals import read, seal_all, seconds, verify

RUNS = 3
APPENDS = 60
RELAYED_EVENTS = 5_000

LOCK = "LOCK TABLE ecolink_events IN EXCLUSIVE MODE"
INSERT = (
    f"INSERT INTO ecolink_events ({COLUMNS}) "
    "SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::text[], %b::bytea[])"
)


@dataclass
class Share:
    """The speed of something, in events per second, and the speed of its baseline."""

    events: int
    seconds: list[float] = field(default_factory=list)
    baseline_seconds: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Events per second, by the median."""
        return self.events / median(self.seconds)

    @property
    def baseline(self) -> float:
        """Events per second of the baseline, by the median."""
        return self.events / median(self.baseline_seconds)

    @property
    def share(self) -> float:
        """Speed as a share of the baseline's: the median of the pairs, if both ran in turns."""
        if len(self.seconds) != len(self.baseline_seconds):
            return self.speed / self.baseline
        pairs = zip(self.baseline_seconds, self.seconds, strict=True)
        return median(baseline / own for baseline, own in pairs)


def measure_appends(
    settings: Settings, log: EventLog, events: Iterator[StoredEvent], total: int
) -> Share:
    """Append the first events, in turns by the recorder and by a plain INSERT.

    The baseline is one transaction that locks the table as the recorder does, and inserts all rows
    in one statement, as one binary array for each column. Both wait for the disk of the server.
    """
    batch = min(MAX_EVENTS, total // 4)
    share = Share(batch)
    recorder = log.recorder
    assert isinstance(recorder, EventRecorder)
    with connect(settings) as connection:
        connection.execute("SELECT 1")
        recorder.insert_events(list(islice(events, batch)))  # opens its connection
        for _ in range(min(APPENDS, (total - batch) // (2 * batch))):
            own, plain = list(islice(events, batch)), list(islice(events, batch))
            share.seconds.append(seconds(lambda own=own: recorder.insert_events(own)))
            share.baseline_seconds.append(seconds(lambda rows=plain: _insert(connection, rows)))
    return share


def _insert(connection: Connection, events: Sequence[StoredEvent]) -> None:
    columns = list(
        zip(
            *((e.originator_id, e.originator_version, e.topic, e.state) for e in events),
            strict=True,
        )
    )
    with connection.pipeline(), connection.transaction():
        connection.execute(LOCK)
        connection.execute(INSERT, [list(each) for each in columns], prepare=True)


def measure_relay(settings: Settings, log: EventLog) -> Share:
    """Publish the newest events to an empty stream, in turns by the relay and plainly.

    The baseline publishes the same messages, which are already encoded, with the same client
    library. It keeps up to 4,000 messages unacknowledged, and ends with the last acknowledgement.
    """
    return asyncio.run(_measure_relay(settings, log))


async def _measure_relay(settings: Settings, log: EventLog) -> Share:
    head = log.recorder.max_notification_id() or 0
    newest = log.recorder.select_notifications(
        start=max(1, head - RELAYED_EVENTS), limit=RELAYED_EVENTS + 1
    )
    share = Share(len(newest) - 1)
    with connect(settings) as connection:
        log_id = log_identity(connection)
    client = await broker_of(settings, "relay").connect()
    try:
        js = client.jetstream()
        messages = list(_messages(newest, str(log_id)))
        for _ in range(RUNS):
            for plainly in (False, True):
                await _empty_stream(js, messages[0])
                publish = (
                    _publish_plainly(client.jetstream(), messages[1:])
                    if plainly
                    else Publisher(log, client, log_id).publish_new()
                )
                taken = await _timed(publish)
                (share.baseline_seconds if plainly else share.seconds).append(taken)
                found = (await js.stream_info(EVENTS)).state.messages
                assert found == len(newest), f"the stream has {found} messages of {len(newest)}"
    finally:
        await client.close()
    return share


async def _timed(work: Coroutine[Any, Any, object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


Message = tuple[str, bytes, dict[str, str]]


def _messages(events: Sequence[Notification], log_id: str) -> Iterator[Message]:
    """Return subject, content and headers of each event, as the relay publishes them."""
    previous = 0
    for number, event in enumerate(events):
        envelope = Envelope.of(event, previous)
        headers = {
            Header.MSG_ID: str(event.id),
            Header.EXPECTED_LAST_SEQUENCE: str(number),
            ID_HEADER: str(event.id),
            LOG_HEADER: log_id,
            "content-type": "application/json",
        }
        yield envelope.subject, envelope.model_dump_json().encode(), headers
        previous = event.id


async def _empty_stream(js: JetStreamContext, first: Message) -> None:
    """Make the stream again, which forgets the IDs of its messages, with one event in it."""
    with suppress(NotFoundError):
        await js.delete_stream(EVENTS)
    await provision(js, ())
    await js.publish(first[0], first[1], headers=dict(first[2]))


async def _publish_plainly(js: JetStreamContext, messages: Sequence[Message]) -> None:
    for subject, content, headers in messages:
        await js.publish_async(subject, content, headers=headers)
    await js.publish_async_completed()


@contextmanager
def owner_of(settings: Settings) -> Iterator[Connection]:
    """Open a connection of the role that owns the tables."""
    assert settings.owner_database_url is not None
    with Connection.connect(
        settings.owner_database_url, autocommit=True, row_factory=dict_row
    ) as connection:
        yield connection


def measure_folds(settings: Settings, log: EventLog, owner: Connection) -> tuple[Share, Share]:
    """Fold the whole log, with all projections and with the ledger alone.

    The tables of all projections must be empty.
    """
    url, events = settings.owner_database_url, events_after(owner, 0)
    assert url is not None
    fold, ledger = Share(events), Share(events)
    selects = [_select(owner)]
    fold.seconds.append(seconds(lambda: rebuild(url, PROJECTIONS, lambda *_: None)))
    ledger.seconds.append(seconds(lambda: rebuild(url, [BILLING_LEDGER], lambda *_: None)))
    selects += [_select(owner) for _ in range(RUNS - 1)]
    fold.baseline_seconds = ledger.baseline_seconds = selects
    return fold, ledger


@dataclass(frozen=True)
class Audit:
    """The verification of a log, and the seconds of each of its stages."""

    share: Share
    sealing_seconds: float
    stages: dict[str, float]

    @property
    def sealing_speed(self) -> float:
        """Sealed events per second."""
        return self.share.events / self.sealing_seconds


def measure_audit(settings: Settings, owner: Connection, archive: SealArchive) -> Audit:
    """Seal the log, then verify it as `ecolink audit verify` does.

    Raise AssertionError if the audit finds a difference.
    """
    events = events_after(owner, 0)
    share = Share(events)
    sealing = seconds(lambda: seal_all(owner, archive))
    archive.put_public_key(PUBLIC)
    share.baseline_seconds = [_select(owner)]
    sealed = seconds(lambda: verify(owner, archive, events))
    began = replayed = time.perf_counter()

    def on_progress(_: int) -> None:
        nonlocal replayed
        replayed = time.perf_counter()

    findings = audit(settings, on_progress)
    ended = time.perf_counter()
    assert not findings.differences, findings.differences[:3]
    share.seconds = [sealed + ended - began]
    share.baseline_seconds += [_select(owner) for _ in range(RUNS - 1)]
    stages = {"seals": sealed, "replay": replayed - began, "comparison": ended - replayed}
    return Audit(share, sealing, stages)


def _select(owner: Connection) -> float:
    return seconds(lambda: read(owner))
