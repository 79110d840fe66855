"""The subjects of the bus, from its AsyncAPI document."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from infrastructure.bus.streams import EVENTS, STREAMS
from infrastructure.extensions import aggregates
from infrastructure.training.bus_document import document
from tests.docs import markdown
from tests.docs.markdown import code, text

KEPT = {
    EVENTS: "An ordered copy of the event log. Only its size is limited, because the relay can "
    "refill it from the log.",
    "REPORTS": "What trainers report, and what the scheduler sees of them. Kept for 7 days.",
    "TELEMETRY": "Metrics and log lines of trainers. Kept for a day.",
    "CONTROL": "The latest instruction to each segment. Kept for 7 days.",
}


def page() -> str:
    """Every stream with its subjects."""
    channels = document()["channels"]
    return markdown.page(
        "Subjects",
        "This page lists the subjects of the bus by stream. [asyncapi.yaml](asyncapi.yaml) is the "
        "AsyncAPI document, with the schema of every message; `ecolink events asyncapi` prints it. "
        "[The bus](../use/bus.md) explains how to subscribe.",
        *[_stream(config.name or "", config.subjects or [], channels) for config in STREAMS],
    )


def _stream(name: str, subjects: list[str], channels: dict[str, Any]) -> str:
    found = {
        title: each
        for title, each in channels.items()
        if any(fnmatch(each["address"], subject.replace(">", "*")) for subject in subjects)
    }
    order = [kind.TOPIC for aggregate in aggregates() for kind in aggregate.event_classes()]
    titles = [each for each in order if each in found] or sorted(found)
    rows = [(code(found[each]["address"]), text(found[each].get("description"))) for each in titles]
    return markdown.section(name, KEPT[name], markdown.table(("subject", "message"), rows))
