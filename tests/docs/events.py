"""The event catalog: what each aggregate records."""

from __future__ import annotations

from inspect import get_annotations, getdoc

from domain.core.aggregate import Aggregate, Event
from infrastructure.extensions import aggregates
from tests.docs import markdown
from tests.docs.markdown import code, text

ENVELOPE = {
    "originator_id": "ID of the aggregate.",
    "originator_version": "Number of the event in the aggregate's stream, from 1.",
    "timestamp": "UTC time from the platform clock.",
    "account_id": "Account that the event belongs to.",
    "actor": "Who acted: an API key (`key:<uuid>`), a service such as `service:billing`, or the "
    "operator of the host (`operator:host`). Old events name an account (`account:<uuid>`).",
    "command_id": "ID of the command. Repeating a command saves no second event.",
    "causation_id": "ID of the event that caused this event, if any.",
    "traceparent": "Span of the command, as in W3C Trace Context. Only traced events have it; see "
    "[Traces](../operate/monitoring.md#traces).",
    "originator_topic": "Only in the first event of a stream: the topic of the aggregate.",
}


def page() -> str:
    """Every event by aggregate."""
    return markdown.page(
        "Events",
        "This page lists every event that EcoLink stores, by aggregate. Topics are names, not "
        "module paths: they never change, although the code may move. "
        "[stored-events.ndjson](stored-events.ndjson) has a stored example of each event of the "
        "core.",
        markdown.section(
            "Fields of every event",
            markdown.table(
                ("field", "meaning"),
                [(code(name), meaning) for name, meaning in ENVELOPE.items()],
            ),
        ),
        *map(_aggregate, aggregates()),
    )


def _aggregate(aggregate: type[Aggregate]) -> str:
    return markdown.section(
        aggregate.__name__,
        text(getdoc(aggregate)),
        *[_event(kind) for kind in aggregate.event_classes()],
    )


def _event(kind: type[Event]) -> str:
    fields = [
        (code(name), code(_type(kind, name)), text(field.description))
        for name, field in kind.model_fields.items()
        if name not in ENVELOPE
    ]
    described = any(meaning for _, _, meaning in fields)
    columns = ("field", "type", "meaning") if described else ("field", "type")
    return markdown.section(
        kind.TOPIC,
        text(_documented(kind).__doc__),
        markdown.table(columns, [row[: len(columns)] for row in fields]),
        level=3,
    )


def _documented(kind: type[Event]) -> type[Event]:
    """The declaration of an event: the library makes a bare subclass of it for each owner."""
    return next(base for base in kind.__mro__ if base.__dict__.get("__doc__"))


def _type(kind: type[Event], name: str) -> str:
    """The type of a field, as the source has it."""
    return next(
        str(declared[name])
        for owner in kind.__mro__
        if name in (declared := get_annotations(owner))
    )
