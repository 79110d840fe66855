"""Rights of the services on the bus, one NATS account and one user for each service.

BUS_ACCESS lists all rights. A service's account imports exactly the subjects that follow from them
from the account that owns the streams. Permissions of a user inside that account would not be
enough: JetStream sends a response, or a message of a stream, to any reply subject that a client
names. In an account of its own, a made-up reply subject reaches no other account.

No service may create or change a stream, because a stream can copy the messages of other subjects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from infrastructure.bus import (
    CONTROL,
    EVENTS,
    REPORTS,
    STREAM_NAMES,
    STREAMS,
    SYSTEM_API,
    TELEMETRY,
)
from infrastructure.nats_keys import AllowedSubjects

API = "ECOLINK.API"
"""Prefix of JetStream requests in the account of a service. `$JS.API` stays that of the account."""

SUBSCRIBER = "subscriber"
"""User of programs that subscribe to events."""

INBOX = "_INBOX.>"
"""Subjects of replies. An account sees only its own."""


@dataclass(frozen=True)
class BusAccess:
    """Rights of a service on the bus."""

    publishes: tuple[str, ...] = ()
    """Subjects of messages."""
    purges: tuple[str, ...] = ()
    """Streams that the service may empty."""
    reads: tuple[str, ...] = ()
    """Streams of which the service reads the state and single messages."""
    consumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Durable consumers by stream. The service creates, reads, acknowledges and deletes them."""

    @property
    def requests(self) -> tuple[str, ...]:
        """JetStream requests, without their prefix."""
        names = tuple(self._names(self.consumes))
        return (
            *(f"STREAM.PURGE.{stream}" for stream in self.purges),
            *(f"STREAM.INFO.{stream}" for stream in self.reads),
            *(f"STREAM.MSG.GET.{stream}" for stream in self.reads),
            *(f"CONSUMER.INFO.{name}" for name in names),
            *(f"CONSUMER.DURABLE.CREATE.{name}" for name in names),
            *(f"CONSUMER.MSG.NEXT.{name}" for name in names),
            *(f"CONSUMER.DELETE.{name}" for name in names),
        )

    @property
    def acknowledgements(self) -> tuple[str, ...]:
        """Subjects of acknowledgements of the service's durable consumers."""
        return tuple(f"$JS.ACK.{name}.>" for name in self._names(self.consumes))

    @property
    def imports(self) -> dict[str, str]:
        """Subject in the account that owns the streams, by subject in the service's account."""
        own = {subject: subject for subject in (*self.publishes, *self.acknowledgements)}
        return own | {f"{API}.{each}": f"{SYSTEM_API}.{each}" for each in self.requests}

    @property
    def allowed(self) -> AllowedSubjects:
        """Permissions of the user, which refuse with an error what the account lacks."""
        return AllowedSubjects(publish=tuple(self.imports), subscribe=(INBOX,), api=API)

    @staticmethod
    def _names(durables: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
        for stream, names in durables.items():
            yield from (f"{stream}.{name}" for name in names)


BUS_ACCESS: Mapping[str, BusAccess] = {
    "relay": BusAccess(publishes=("events.>",), purges=(EVENTS,), reads=(EVENTS,)),
    "projector": BusAccess(
        consumes={
            EVENTS: ("projections",),
            TELEMETRY: ("measurements-steps", "measurements-evaluations", "measurements-logs"),
        },
    ),
    "billing": BusAccess(consumes={EVENTS: ("billing",), REPORTS: ("billing-evidence",)}),
    "scheduler": BusAccess(
        publishes=("control.>", "evidence.>"),
        reads=(REPORTS,),
        consumes={EVENTS: ("scheduler",), REPORTS: ("scheduler-reports",)},
    ),
    "datasets": BusAccess(consumes={EVENTS: ("datasets",)}),
    "webhooks": BusAccess(consumes={EVENTS: ("webhooks",)}),
    "serving": BusAccess(consumes={EVENTS: ("serving",)}),
    "exporter": BusAccess(consumes={EVENTS: ("exporter",)}),
    "alerts": BusAccess(consumes={EVENTS: ("alerts",)}),
}
"""Rights by service. A service that is not listed has no NATS user."""

DURABLES_ON_EVENTS = tuple(
    name for access in BUS_ACCESS.values() for name in access.consumes.get(EVENTS, ())
)
"""Durable consumers of all services on the event stream."""

REQUESTS_OF_SUBSCRIBERS = (
    "CONSUMER.INFO.EVENTS.*",
    "CONSUMER.CREATE.EVENTS.*.>",
    "CONSUMER.MSG.NEXT.EVENTS.*",
    "CONSUMER.DELETE.EVENTS.*",
)


def subscriber_imports() -> dict[str, str]:
    """Return the imports of the account of subscribing programs, like `BusAccess.imports`."""
    acknowledged = "$JS.ACK.EVENTS.*.>"
    requests = {f"{API}.{each}": f"{SYSTEM_API}.{each}" for each in REQUESTS_OF_SUBSCRIBERS}
    return {acknowledged: acknowledged} | requests


def subscriber_subjects() -> AllowedSubjects:
    """Return the permissions of subscribing programs: consumers that no service of EcoLink has."""
    denied = [
        each.replace("*", name, 1) for each in subscriber_imports() for name in DURABLES_ON_EVENTS
    ]
    return AllowedSubjects(
        publish=tuple(subscriber_imports()),
        subscribe=(INBOX,),
        publish_denied=tuple(denied),
        api=API,
    )


def operator_subjects() -> AllowedSubjects:
    """Return the permissions of operator commands, in the account that owns the streams.

    They create and check the streams, follow the events with a consumer that no service has, and
    empty the event stream. A consumer of theirs pushes messages to their inbox.
    """
    requests = (
        *("INFO", "STREAM.INFO.*", f"STREAM.PURGE.{EVENTS}"),
        *(f"STREAM.{verb}.{each}" for verb in ("CREATE", "UPDATE") for each in STREAM_NAMES),
        *(f"CONSUMER.CREATE.{EVENTS}", f"CONSUMER.INFO.{EVENTS}.*", f"CONSUMER.DELETE.{EVENTS}.*"),
    )
    denied = [f"CONSUMER.DELETE.{EVENTS}.{name}" for name in DURABLES_ON_EVENTS]
    return AllowedSubjects(
        publish=(*(f"{SYSTEM_API}.{each}" for each in requests), f"$JS.FC.{EVENTS}.>"),
        subscribe=(INBOX,),
        publish_denied=tuple(f"{SYSTEM_API}.{each}" for each in denied),
    )


EXPORTS: Mapping[str, bool] = {
    **dict.fromkeys((f"$JS.ACK.{each.name}.*.>" for each in STREAMS), False),
    **dict.fromkeys(chain.from_iterable(each.subjects or () for each in STREAMS), False),
    **{
        f"{SYSTEM_API}.{request}": request.startswith("CONSUMER.MSG.NEXT")
        for request in (
            *("STREAM.INFO.*", "STREAM.PURGE.*", "STREAM.MSG.GET.*"),
            *("CONSUMER.INFO.*.*", "CONSUMER.DURABLE.CREATE.*.*"),
            *("CONSUMER.CREATE.*.*.>", "CONSUMER.DELETE.*.*", "CONSUMER.MSG.NEXT.*.*"),
        )
    },
    f"{SYSTEM_API}.DIRECT.GET.{CONTROL}.control.>": False,
}
"""Subjects that the account with the streams exports to the other accounts, which the operator's
key signs. A request to a subject with the value True has several responses."""
