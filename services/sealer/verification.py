"""Verification of the event log against its exported seals. It trusts only the public key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice
from typing import Any, NamedTuple

import psycopg

from domain.audit.merkle import Frontier
from domain.audit.sealed_event import SealedEvent, seal
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.event_rows import stream_rows
from infrastructure.seal_archive import SealArchive, SealDamaged

LATE_SECONDS = 600.0
"""Age of an event without a head that is a difference. The sealer needs seconds."""

LISTED_DIFFERENCES = 100
"""Differences that are listed. Further ones are counted."""


class TamperKind(StrEnum):
    """Kinds of difference between the log, its tree and the exported heads."""

    CHANGED = "event_changed"
    DELETED = "event_deleted"
    INSERTED = "event_inserted"
    RANGE = "range_changed"
    """The leaves of a range do not have the root that was signed."""
    SEAL_DAMAGED = "seal_damaged"
    NOT_SEALED = "not_sealed"
    """Events are much older than the newest head: the sealer stopped, or heads were deleted."""


class Tampering(NamedTuple):
    """A difference, with the notification ids of the first and the last event that it concerns."""

    kind: TamperKind
    first: int
    last: int
    text: str


@dataclass
class SealFindings:
    """The result of a verification. All events up to `proven` are as signed, if none differ."""

    head: TreeHead | None = None
    heads: int = 0
    events: int = 0
    """Events that were compared with their leaf."""
    unsealed: int = 0
    """Events after the last exported head, of which nothing can be proven."""
    counts: dict[TamperKind, int] = field(default_factory=dict)
    differences: list[Tampering] = field(default_factory=list)

    def add(self, kind: TamperKind, first: int, last: int, text: str) -> None:
        """Count a difference, and list it unless there are too many."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.differences) < LISTED_DIFFERENCES:
            self.differences.append(Tampering(kind, first, last, text))


def verify_seals(
    store: psycopg.Connection[Any],
    archive: SealArchive,
    key: LogKey,
    kept: Sequence[TreeHead] = (),
    on_progress: Callable[[int], object] = id,
) -> SealFindings:
    """Compare every event with its leaf, and the leaves with the signed heads.

    `kept` are heads that an auditor kept elsewhere: the tree must begin with them too.
    `on_progress` receives the number of compared events.
    """
    findings = SealFindings()
    heads = _heads(archive, key, findings)
    findings.heads = len(heads)
    findings.head = heads[-1] if heads else None
    size = heads[-1].size if heads else 0
    for head in kept:
        if head.size > size:
            text = f"The kept head of {head.size} events is newer than every exported head."
            findings.add(TamperKind.SEAL_DAMAGED, head.last_event, head.last_event, text)
    checked = sorted({*heads, *(head for head in kept if head.size <= size)}, key=_size)
    leaves = _Checked(archive, size, checked, findings)
    rows = seal(stream_rows(store))
    for chunk in leaves:
        rows = _compare(chunk, rows, findings)
        findings.events += len(chunk)
        on_progress(findings.events)
    last = findings.head.last_event if findings.head else 0
    for event in rows:
        if event.notification_id <= last:
            _inserted(event.notification_id, findings)
        else:
            findings.unsealed += 1
    if findings.unsealed:
        _check_lateness(store, last, findings)
    return findings


def _check_lateness(store: psycopg.Connection[Any], last: int, findings: SealFindings) -> None:
    """Report events that have had no head for too long, by the store's clock."""
    row = store.execute(
        "SELECT notification_id AS id, EXTRACT(epoch FROM clock_timestamp() - "
        "(convert_from(state, 'UTF8')::jsonb->>'timestamp')::timestamptz)::float8 AS seconds "
        "FROM ecolink_events WHERE notification_id > %s ORDER BY notification_id LIMIT 1",
        [last],
    ).fetchone()
    if row is not None and row["seconds"] > LATE_SECONDS:
        text = (
            f"Events from {row['id']} on have had no seal for {row['seconds'] / 60:.0f} minutes: "
            "the sealer does not run, or heads were deleted."
        )
        findings.add(TamperKind.NOT_SEALED, row["id"], row["id"], text)


def _size(head: TreeHead) -> int:
    return head.size


def _heads(archive: SealArchive, key: LogKey, findings: SealFindings) -> list[TreeHead]:
    """Return the valid heads up to the first that is damaged."""
    heads: list[TreeHead] = []
    try:
        for head in archive.heads(key):
            if heads and head.size <= heads[-1].size:
                raise SealDamaged(
                    f"The head of {head.size} events follows that of {heads[-1].size}."
                )
            heads.append(head)
    except SealDamaged as error:
        last = heads[-1].last_event if heads else 0
        findings.add(TamperKind.SEAL_DAMAGED, last + 1, last + 1, str(error))
    return heads


class _Checked:
    """Iterates over the stored leaves, by chunk, and compares the tree with each head."""

    def __init__(
        self, archive: SealArchive, size: int, heads: Sequence[TreeHead], findings: SealFindings
    ) -> None:
        self._archive, self._size, self._findings = archive, size, findings
        self._heads = list(heads)

    def __iter__(self) -> Iterator[list[SealedEvent]]:
        tree, heads, after = Frontier(), iter(self._heads), 0
        head = next(heads, None)
        try:
            for chunk in self._archive.leaves(0, self._size):
                start, done = tree.size, 0
                while head is not None and head.size <= start + len(chunk):
                    tree.extend(leaf for _, leaf in chunk[done : head.size - start])
                    done = head.size - start
                    if tree.root != head.root:
                        self._differs(after, head)
                        head, heads = None, iter(())
                        break
                    after = head.last_event
                    head = next(heads, None)
                tree.extend(leaf for _, leaf in chunk[done:])
                yield chunk
        except SealDamaged as error:
            self._findings.add(TamperKind.SEAL_DAMAGED, after + 1, after + 1, str(error))

    def _differs(self, after: int, head: TreeHead) -> None:
        """Report the first head that the leaves do not have. Every later one differs too."""
        text = (
            f"The leaves of events {after + 1} to {head.last_event} do not have the root that was "
            f"signed at {head.sealed_at:%Y-%m-%d %H:%M:%S} UTC."
        )
        self._findings.add(TamperKind.RANGE, after + 1, head.last_event, text)


def _compare(
    chunk: list[SealedEvent], rows: Iterator[SealedEvent], findings: SealFindings
) -> Iterator[SealedEvent]:
    """Compare the next events with their leaves. Return the events that follow."""
    block = list(islice(rows, len(chunk)))
    if block == chunk:
        return rows
    rows = chain(block, rows)
    row = next(rows, None)
    for id, leaf in chunk:
        while row is not None and row.notification_id < id:
            _inserted(row.notification_id, findings)
            row = next(rows, None)
        if row is None or row.notification_id > id:
            findings.add(TamperKind.DELETED, id, id, f"Event {id} was deleted.")
            continue
        if row.leaf != leaf:
            findings.add(TamperKind.CHANGED, id, id, f"Event {id} was changed.")
        row = next(rows, None)
    return rows if row is None else chain([row], rows)


def _inserted(id: int, findings: SealFindings) -> None:
    text = f"Event {id} was inserted after the events around it were sealed."
    findings.add(TamperKind.INSERTED, id, id, text)
