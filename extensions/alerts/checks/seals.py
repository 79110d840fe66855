"""Cheap checks of the seals. `ecolink audit verify` compares the whole log."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from domain.audit.sealed_event import SealedEvent, sealed_events
from domain.audit.tree_head import TreeHead
from domain.core.durations import spoken
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import LagParameters, Parameters
from infrastructure.postgres.event_rows import read_rows
from infrastructure.postgres.log_identity import log_identity
from infrastructure.seals.archive import CHUNK_LEAVES, SealArchive, SealDamaged, origin_of
from infrastructure.seals.verifications import Verdict, verifications

COMPARED_EVENTS = 500


def broken(around: Surroundings, _: Parameters) -> list[Finding]:
    """Compare the newest sealed events with the log, and look at the last verification.

    The newest head must be signed by the log's key, and the log must have the last 500 sealed
    events as they were sealed.
    """
    found: list[Finding] = []
    archive = SealArchive(around.artifacts)
    try:
        head = _last_head(around, archive)
        if head is not None and (text := _difference(around, archive, head)):
            found.append(Finding({"seal": "newest events"}, text))
    except SealDamaged as error:
        found.append(Finding({"seal": "archive"}, f"{error} Run `ecolink audit verify`."))
    finished = (each for each in verifications(around.connection) if each.verdict is not None)
    last = next(finished, None)
    if last is not None and last.verdict is Verdict.DIFFERS:
        text = f"The last verification found {last.differences:,} differences."
        found.append(Finding({"seal": "last verification"}, text))
    return found


def behind(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return a finding if the oldest event without a head is too old."""
    assert isinstance(parameters, LagParameters)
    try:
        head = _last_head(around, SealArchive(around.artifacts))
    except SealDamaged:
        return []  # `broken` reports it
    rows = read_rows(around.connection, head.last_event if head else 0, 1)
    if not rows:
        return []
    first = rows[0]
    age = around.now - _time_of(first.state, around.now)
    if age <= parameters.older_than:
        return []
    text = (
        f"Event {first.notification_id} and later events have had no seal for "
        f"{spoken(age.total_seconds())}. See the log of the sealer."
    )
    return [Finding({"seal": "newest events"}, text)]


def _last_head(around: Surroundings, archive: SealArchive) -> TreeHead | None:
    """Return the newest head, or None if nothing is sealed. Raise SealDamaged."""
    key = archive.public_key()
    if key is None:
        return None
    origin = origin_of(log_identity(around.connection))
    if key.origin != origin:
        raise SealDamaged(f"The key of the seals belongs to the log {key.origin}, not {origin}.")
    return archive.last_head(key)


def _difference(around: Surroundings, archive: SealArchive, head: TreeHead) -> str | None:
    """Return how the newest sealed events differ from the log, or None."""
    sealed = _newest_leaves(archive, head)
    if not sealed:
        return f"The head of {head.size:,} events has no leaves."
    first = sealed[0].notification_id
    rows = read_rows(around.connection, first - 1, len(sealed) + 1)
    stored = sealed_events(row for row in rows if row.notification_id <= head.last_event)
    if stored == sealed:
        return None
    return (
        f"The event log differs from its seal between events {first:,} and "
        f"{head.last_event:,}. Run `ecolink audit verify`."
    )


def _newest_leaves(archive: SealArchive, head: TreeHead) -> list[SealedEvent]:
    start = (head.size - 1) // CHUNK_LEAVES * CHUNK_LEAVES
    if head.size - start < COMPARED_EVENTS:
        start = max(0, start - CHUNK_LEAVES)
    chunks = list(archive.leaves(start, head.size))
    return [leaf for chunk in chunks for leaf in chunk][-COMPARED_EVENTS:]


def _time_of(state: bytes, now: datetime) -> datetime:
    """Return the time of an event. An unreadable one counts as long ago."""
    try:
        return datetime.fromisoformat(json.loads(state)["timestamp"])
    except (ValueError, LookupError, TypeError):
        return now - timedelta(days=1)
