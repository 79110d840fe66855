"""The NATS user of each service and its rights, from their table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deploy.bus_access import BUS_ACCESS, SUBSCRIBER, BusAccess, operator_subjects
from deploy.bus_access import subscriber_subjects as subscriber
from infrastructure.bus.streams import OPERATOR
from infrastructure.rights import AllowedSubjects
from tests.docs import markdown
from tests.docs.markdown import code


def page() -> str:
    """Every user with its rights, then the exact subjects."""
    columns = ("service", "publishes", "empties", "reads messages of", "consumers")
    rows = [_row(name, access) for name, access in BUS_ACCESS.items()]
    subjects = {name: access.allowed for name, access in BUS_ACCESS.items()}
    subjects |= {OPERATOR: operator_subjects(), SUBSCRIBER: subscriber()}
    return markdown.page(
        "NATS users",
        "This page lists the NATS user of each service and all of its rights. A service that is "
        "not listed has no user. [Security](../operate/security.md#users-of-the-bus) explains "
        "them.",
        markdown.section(
            "Rights",
            "A service creates, reads, acknowledges and deletes its own consumers. Only the user "
            "of operator commands creates and updates streams.",
            markdown.table(columns, rows),
        ),
        markdown.section(
            "Subjects",
            "These are the subjects to which each user may publish. Each user may subscribe only "
            "to `_INBOX.>`, which has the replies of its own account. "
            f"`{OPERATOR}` is the user of operator commands, and `{SUBSCRIBER}` that of programs "
            "that subscribe to events.",
            *[_subjects(name, allowed) for name, allowed in subjects.items()],
        ),
    )


def _row(name: str, access: BusAccess) -> tuple[str, ...]:
    return (
        name,
        _codes(access.publishes),
        _codes(access.purges),
        _codes(access.reads),
        _consumers(access.consumes),
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(map(code, names)) or "–"


def _consumers(consumes: Mapping[str, tuple[str, ...]]) -> str:
    parts = [f"{_codes(names)} of `{stream}`" for stream, names in consumes.items()]
    return ", ".join(parts) or "–"


def _subjects(name: str, allowed: AllowedSubjects) -> str:
    denied = f"Not: {_codes(allowed.publish_denied)}." if allowed.publish_denied else ""
    return markdown.section(name, f"{_codes(allowed.publish)}.", denied, level=3)
