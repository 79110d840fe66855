"""Rights of the services on the bus, one NATS account and one user for each service.

BUS_ACCESS lists all rights. A service's account imports exactly the subjects that follow from them
from the account that owns the streams. Permissions of a user inside that account would not be
enough: JetStream sends a response, or a message of a stream, to any reply subject that a client
names. In an account of its own, a made-up reply subject reaches no other account.

No service may create or change a stream, because a stream can copy the messages of other subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from infrastructure.bus.streams import (
    CONTROL,
    EVENTS,
    REPORTS,
    STREAM_NAMES,
    STREAMS,
    TELEMETRY,
)
from infrastructure.extensions import installed, processes
from infrastructure.rights import API, INBOX, SYSTEM_API, AllowedSubjects, BusAccess

SUBSCRIBER = "subscriber"
"""User of programs that subscribe to events."""


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
    "serving": BusAccess(consumes={EVENTS: ("serving",)}),
    **{name: each.bus for name, each in processes(installed()).items() if each.bus is not None},
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
