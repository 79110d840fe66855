"""The message bus: declared streams, durable consumers, and the envelope of events."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import nats
from eventsourcing.persistence import Notification
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError
from pydantic import BaseModel, ConfigDict

from domain.core.aggregate import Event
from domain.core.event_log import event_of
from infrastructure.bus.keys import api_of_credentials
from infrastructure.bus.tls import UntrustedServer, nats_authority, tls_context, tls_problem
from infrastructure.extensions import aggregates
from infrastructure.rights import SYSTEM_API
from infrastructure.settings import Settings

OPERATOR = "operator"
"""User of operator commands."""

EVENTS, REPORTS, TELEMETRY, CONTROL = "EVENTS", "REPORTS", "TELEMETRY", "CONTROL"

AGGREGATE_OF = {
    kind.TOPIC: aggregate.TOPIC for aggregate in aggregates() for kind in aggregate.event_classes()
}
"""Aggregate topic by event topic."""

DAY_SECONDS = 24 * 3600.0

DEDUPLICATION_SECONDS = 5.0
"""Seconds for which a stream remembers message IDs: repeats come after 2 s."""

MAX_REPORT_BYTES, MAX_MEASUREMENT_BYTES = 64 * 1024, 16 * 1024
"""Maximum size of a message of a trainer on the streams REPORTS and TELEMETRY."""

MAX_DELIVERIES = 20
"""Deliveries before NATS drops a message. Outages use none, crashes of the consumer one."""

TOO_FEW_SERVERS = (10005, 10074)
"""Error codes of JetStream: no suitable servers, and copies without a cluster."""

START = {"deliver_policy", "opt_start_seq"}
"""Fields of a consumer's configuration that matter only when it is created."""

STREAMS: tuple[api.StreamConfig, ...] = (
    # A copy of the event log. Only the relay writes it, and only its size is limited. The expected
    # sequence prevents duplicates. The server stores a batch of messages as a whole, with one sync
    # of the disk.
    api.StreamConfig(
        name=EVENTS,
        subjects=["events.>"],
        max_bytes=4 * 1024**3,
        duplicate_window=DEDUPLICATION_SECONDS,
        allow_atomic=True,
    ),
    # Reports are cumulative, so a few of each segment are enough. A segment can store 4 MiB.
    api.StreamConfig(
        name=REPORTS,
        subjects=["reports.>", "evidence.>"],
        max_bytes=1024**3,
        max_msgs_per_subject=64,
        max_msg_size=MAX_REPORT_BYTES,
        max_age=7 * DAY_SECONDS,
        duplicate_window=DEDUPLICATION_SECONDS,
    ),
    # Measurements and log lines, which the server keeps for a day. Rebuilding a projection does not
    # need them. All messages of a segment together, on its three subjects, fit into the stream.
    api.StreamConfig(
        name=TELEMETRY,
        subjects=["telemetry.>", "evaluations.>", "logs.>"],
        max_bytes=512 * 1024**2,
        max_msgs_per_subject=10_000,
        max_msg_size=MAX_MEASUREMENT_BYTES,
        max_age=DAY_SECONDS,
        duplicate_window=DEDUPLICATION_SECONDS,
    ),
    # The latest message to each segment. A segment requests it by subject.
    api.StreamConfig(
        name=CONTROL,
        subjects=["control.>"],
        max_msgs_per_subject=1,
        allow_direct=True,
        max_bytes=64 * 1024**2,
        max_age=7 * DAY_SECONDS,
        duplicate_window=DEDUPLICATION_SECONDS,
    ),
)


STREAM_NAMES = tuple(each.name or "" for each in STREAMS)


@dataclass(frozen=True)
class Durable:
    """A durable pull consumer of one stream."""

    name: str
    stream: str
    filter_subject: str
    acknowledges_all: bool = False
    """True if the acknowledgement of a message also acknowledges all messages before it."""

    @property
    def config(self) -> api.ConsumerConfig:
        """JetStream configuration of this consumer."""
        return api.ConsumerConfig(
            durable_name=self.name,
            filter_subject=self.filter_subject,
            ack_policy=api.AckPolicy.ALL if self.acknowledges_all else api.AckPolicy.EXPLICIT,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_wait=30.0,
            max_ack_pending=20_000,
            max_deliver=None if self.acknowledges_all else MAX_DELIVERIES,
        )


async def connect(settings: Settings, **options: Any) -> Client:
    """Connect as the user of operator commands. The caller must close the connection.

    `options` are options of nats-py's `connect`. Raise UntrustedServer if TLS fails.
    """
    assert settings.nats_url is not None
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)
        logging.getLogger("bus").warning("NATS: %s", error or type(error).__name__)

    try:
        return await nats.connect(
            servers(settings.nats_url),
            user_credentials=credentials_of(settings, OPERATOR),
            tls=tls_context(settings.nats_url, nats_authority(settings)),
            **{"error_cb": note} | options,
        )
    except (NatsError, OSError, TimeoutError) as error:
        for each in (error, *reversed(errors)):
            if (problem := tls_problem(each)) is not None:
                raise UntrustedServer(problem) from each
        raise


def credentials_of(settings: Settings, user: str) -> Path | None:
    """Return the credentials file of a user. A directory in the settings has one for each user."""
    path = settings.nats_credentials
    return path / f"{user}.creds" if path is not None and path.is_dir() else path


def jetstream_api(credentials: Path | None) -> str:
    """Return a credentials file's prefix of JetStream requests, or raise RuntimeError."""
    if credentials is None:
        return SYSTEM_API
    try:
        text = credentials.read_text()
    except OSError as error:
        raise RuntimeError(
            f"Cannot read the NATS credentials in {credentials}: {error.strerror}. Correct "
            "ECOLINK_NATS_CREDENTIALS, or write the file again with `ecolink nats-config` or "
            "`ecolink docker init`."
        ) from error
    return api_of_credentials(text) or SYSTEM_API


def servers(urls: str) -> list[str]:
    """Return the servers of a cluster from their URLs, which commas separate."""
    return [url for each in urls.split(",") if (url := each.strip())]


def without_user(urls: str) -> str:
    """Return the URLs of servers without user names and passwords."""
    return ",".join(map(_without_user, servers(urls)))


def _without_user(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


class TooFewServers(NatsError):
    """The servers of the bus cannot hold the wanted number of copies."""


async def provision(
    js: JetStreamContext, durables: tuple[Durable, ...] = (), replicas: int = 1
) -> list[str]:
    """Make the streams and these durable consumers match the declared ones. Idempotent.

    A stream keeps subjects that another release has declared. `replicas` is the number of servers
    that hold a copy of each stream. A consumer has as many copies as its stream. Raise
    TooFewServers if the cluster is smaller. Return one line for each change.
    """
    changes: list[str] = []
    for declared in STREAMS:
        config = declared.evolve(num_replicas=replicas)
        assert config.name is not None
        try:
            if (change := await _provision_stream(js, config)) is not None:
                changes.append(f"stream {config.name} {change}")
        except APIError as error:
            if error.err_code not in TOO_FEW_SERVERS:
                raise
            raise TooFewServers(
                f"ECOLINK_NATS_REPLICAS is {replicas}, but NATS cannot hold this many copies of "
                f"{config.name}: {error.description}. Add servers to the cluster, or lower the "
                "setting."
            ) from error
    return [*changes, *await provision_consumers(js, durables)]


async def provision_consumers(js: JetStreamContext, durables: tuple[Durable, ...]) -> list[str]:
    """Make these durable consumers match the declared ones, and return one line for each change.

    Recreate a changed consumer, because JetStream cannot update every field. It starts after the
    messages that are already acknowledged, unless its filter selects other messages. This loses
    nothing, because the effects store the positions. Raise NotFoundError without its stream.
    """
    changes: list[str] = []
    for durable in durables:
        try:
            found = await js.consumer_info(durable.stream, durable.name)
        except NotFoundError:
            await js.add_consumer(durable.stream, durable.config)
            changes.append(f"consumer {durable.name} created")
            continue
        if _differs(durable.config, found.config):
            await js.delete_consumer(durable.stream, durable.name)
            await js.add_consumer(durable.stream, _continuing(durable.config, found))
            changes.append(f"consumer {durable.name} recreated")
    return changes


async def _provision_stream(js: JetStreamContext, declared: api.StreamConfig) -> str | None:
    """Create or update a stream. Return what changed, or None."""
    assert declared.name is not None
    try:
        current = (await js.stream_info(declared.name)).config
    except NotFoundError:
        await js.add_stream(declared)
        return "created"
    config = declared.evolve(subjects=_joined(declared.subjects, current.subjects))
    if not _differs(config, current):
        return None
    await js.update_stream(config)
    return "updated"


def _joined(declared: list[str] | None, current: list[str] | None) -> list[str]:
    """Return the subjects that are declared, and those that another release has declared."""
    own = declared or []
    return [*own, *(each for each in current or [] if each not in own)]


def _continuing(config: api.ConsumerConfig, earlier: api.ConsumerInfo) -> api.ConsumerConfig:
    """Return a configuration that starts after the messages that `earlier` has acknowledged."""
    if earlier.ack_floor is None or earlier.config.filter_subject != config.filter_subject:
        return config
    return config.evolve(
        deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=earlier.ack_floor.stream_seq + 1,
    )


def _differs(declared: api.Base, current: api.Base) -> bool:
    wanted, found = declared.as_dict(), current.as_dict()
    compared = {key for key, value in wanted.items() if value is not None} - START
    return any(found.get(key) != wanted[key] for key in compared)


class Envelope(BaseModel):
    """A domain event on the bus, with its position in the log and its stored state.

    `prev_id` is the previous notification ID, or 0 for the first. Notification IDs have gaps, so
    only `prev_id` distinguishes a lost event from a gap.
    """

    model_config = ConfigDict(frozen=True)

    id: int
    prev_id: int
    topic: str
    originator_id: UUID
    originator_version: int
    state: dict[str, Any]

    @classmethod
    def of(cls, notification: Notification, prev_id: int) -> Envelope:
        """Return the envelope of a notification. `prev_id` is the previous notification ID."""
        assert isinstance(notification.originator_id, UUID)
        return cls(
            id=notification.id,
            prev_id=prev_id,
            topic=notification.topic,
            originator_id=notification.originator_id,
            originator_version=notification.originator_version,
            state=json.loads(notification.state),
        )

    @property
    def event(self) -> Event:
        """Domain event in this envelope. Raise ValidationError if its state is invalid."""
        event = event_of(self.topic, self.originator_id, self.originator_version, {**self.state})
        assert isinstance(event, Event)
        return event

    def wraps(self, notification: Notification | None) -> bool:
        """Return True if the envelope has the ID and content of this notification."""
        if notification is None:
            return False
        published = Envelope.of(notification, self.prev_id)
        return self.model_dump_json() == published.model_dump_json()

    @property
    def event_id(self) -> str:
        """Public ID of the event."""
        return f"{self.originator_id}:{self.originator_version}"

    @property
    def subject(self) -> str:
        """Subject `events.<account>.<aggregate>.<originator>.<topic>`."""
        return event_subject(self.topic, self.originator_id, self.state)


def event_subject(topic: str, originator_id: UUID | str, state: Mapping[str, Any]) -> str:
    """Return the subject of an event, `events.<account>.<aggregate>.<originator>.<topic>`."""
    return f"events.{state['account_id']}.{AGGREGATE_OF[topic]}.{originator_id}.{topic}"


def event_content(notification: Notification, prev_id: int) -> bytes:
    """Return the JSON of the envelope of a notification. It contains the state as stored."""
    return (
        b'{"id":%d,"prev_id":%d,"topic":"%s","originator_id":"%s","originator_version":%d,"state":'
        % (
            notification.id,
            prev_id,
            notification.topic.encode(),
            str(notification.originator_id).encode(),
            notification.originator_version,
        )
        + notification.state
        + b"}"
    )
