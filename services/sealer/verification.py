"""Verification of the event log with its exported seals. It relies only on what `Trust` has."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

import psycopg
from cryptography.x509 import Certificate

from domain.audit.merkle import Frontier
from domain.audit.sealed_event import ENTRY, decode, encode, leaves_in, seal
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.postgres.event_rows import read_rows, stream_rows
from infrastructure.seals.archive import SealArchive, SealDamaged
from infrastructure.seals.timestamps import TimestampInvalid, timestamp_of

Row = tuple[int, bytes, int, str, bytes]
"""A row with the columns of StoredRow."""

TIMESTAMP_LIMIT = timedelta(hours=1)
"""Longest time from a head to a timestamp that confirms it. The sealer requests one in minutes."""

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
    TIMESTAMP_INVALID = "timestamp_invalid"
    """A timestamp is not the authority's, or not of this head."""
    NOT_TIMESTAMPED = "not_timestamped"
    """No timestamp confirms heads within an hour of their time."""
    NOT_SEALED = "not_sealed"
    """Events are much older than the newest head: the sealer stopped, or heads were deleted."""


class Tampering(NamedTuple):
    """A difference, with the notification ids of the first and the last event that it concerns."""

    kind: TamperKind
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Trust:
    """Everything that a verification relies on."""

    key: LogKey
    kept: Sequence[TreeHead] = ()
    """Heads that an auditor kept elsewhere. The tree must begin with them too."""

    roots: Sequence[Certificate] = ()
    """Root certificates of the timestamp authority. Without them, no timestamp is checked."""


class Timestamp(NamedTuple):
    """The time at which a timestamp authority received the head of `size` events."""

    size: int
    time: datetime


@dataclass
class SealFindings:
    """The result of a verification. If nothing differs, events up to `position` are as signed."""

    since: int = 0
    """Events up to this notification ID were not compared with their leaf."""
    position: int = 0
    """The last event that was compared with its leaf and that a verified head covers."""
    is_complete: bool = False
    """False if the verification stopped before it had read the whole log."""
    head: TreeHead | None = None
    heads: int = 0
    events: int = 0
    """Events that were compared with their leaf."""
    unsealed: int = 0
    """Events after the last exported head, of which nothing can be proven."""
    timestamps: list[Timestamp] = field(default_factory=list)
    """Valid timestamps, in order, if the certificates of the authority are known."""
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
    trust: Trust,
    since: int = 0,
    on_progress: Callable[[int], object] = id,
    findings: SealFindings | None = None,
) -> SealFindings:
    """Compare every event with its leaf, and the leaves with the signed heads.

    `since` is a notification id; events up to it are not compared with their leaves. `on_progress`
    receives the notification id of the last compared event. It may raise an error to stop; then
    `findings`, which is also returned, has the result so far.
    """
    findings = SealFindings() if findings is None else findings
    findings.since = findings.position = since
    heads = _heads(archive, trust.key, findings)
    findings.heads = len(heads)
    findings.head = heads[-1] if heads else None
    size = heads[-1].size if heads else 0
    for head in trust.kept:
        if head.size > size:
            text = f"The kept head of {head.size} events is newer than every exported head."
            findings.add(TamperKind.SEAL_DAMAGED, head.last_event, head.last_event, text)
    if trust.roots:
        _check_timestamps(archive, heads, trust.roots, findings)
        _check_times([head for head in heads if head.last_event > since], findings)
    checked = sorted({*heads, *(head for head in trust.kept if head.size <= size)}, key=_size)
    with closing(stream_rows(store, since)) as stream:  # an open one would keep the connection
        _compare_all(
            _Checked(archive, size, checked, findings), _Rows(stream), findings, on_progress
        )
    if findings.unsealed:
        _check_lateness(store, _last_sealed(findings), findings)
    findings.is_complete = True
    return findings


def _check_timestamps(
    archive: SealArchive,
    heads: Sequence[TreeHead],
    roots: Sequence[Certificate],
    findings: SealFindings,
) -> None:
    """Verify each stored timestamp with the head of its size."""
    of_size = {head.size: head for head in heads}
    for size, response in archive.timestamps():
        head = of_size.get(size)
        try:
            if head is None:
                raise TimestampInvalid("there is no head of this size")
            findings.timestamps.append(Timestamp(size, timestamp_of(response, head, roots)))
        except TimestampInvalid as error:
            last = head.last_event if head else 0
            text = f"The timestamp of the head of {size} events is invalid: {error}."
            findings.add(TamperKind.TIMESTAMP_INVALID, last, last, text)


def _check_times(heads: Sequence[TreeHead], findings: SealFindings) -> None:
    """Report the heads that no timestamp confirms soon after the time that they state.

    A timestamp confirms its head and all earlier ones, because the tree contains them.
    """
    now, late = datetime.now(UTC), list[TreeHead]()
    for head in heads:
        confirmed = next((each.time for each in findings.timestamps if each.size >= head.size), now)
        if confirmed - head.sealed_at > TIMESTAMP_LIMIT:
            late.append(head)
    if late:
        first, last = late[0], late[-1]
        text = (
            f"No timestamp confirms {len(late)} heads within an hour, from that of {first.size} "
            f"events, sealed at {first.sealed_at:%Y-%m-%d %H:%M:%S} UTC, to that of {last.size}."
        )
        findings.add(TamperKind.NOT_TIMESTAMPED, first.last_event, last.last_event, text)


def _check_lateness(store: psycopg.Connection[Any], last: int, findings: SealFindings) -> None:
    """Report events that have had no head for too long."""
    first = next(iter(read_rows(store, last, 1)), None)
    if first is None:
        return
    try:
        recorded = datetime.fromisoformat(json.loads(first.state)["timestamp"])
        minutes = (datetime.now(UTC) - recorded).total_seconds() / 60
    except (ValueError, LookupError, TypeError):
        text = f"Event {first.notification_id} has no head and no readable time."
        findings.add(TamperKind.NOT_SEALED, first.notification_id, first.notification_id, text)
        return
    if minutes > LATE_SECONDS / 60:
        text = (
            f"Events from {first.notification_id} on have had no head for {minutes:.0f} minutes: "
            "the sealer does not run, or someone deleted heads."
        )
        findings.add(TamperKind.NOT_SEALED, first.notification_id, first.notification_id, text)


def _size(head: TreeHead) -> int:
    return head.size


def _heads(archive: SealArchive, key: LogKey, findings: SealFindings) -> list[TreeHead]:
    """Return the valid heads up to the first that is damaged."""
    heads: list[TreeHead] = []
    try:
        for head in archive.heads(key):
            if heads and (head.size, head.root) == (heads[-1].size, heads[-1].root):
                continue  # an export that was repeated after an error
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
        self.verified = 0
        """The last event of the last head that the leaves have."""

    def __iter__(self) -> Iterator[bytes]:
        tree, heads = Frontier(), iter(self._heads)
        head = next(heads, None)
        try:
            for content in self._archive.contents(0, self._size):
                chunk = leaves_in(content)
                start, done = tree.size, 0
                while head is not None and head.size <= start + len(chunk):
                    tree.extend(chunk[done : head.size - start])
                    done = head.size - start
                    if tree.root != head.root:
                        self._differs(head)
                        head, heads = None, iter(())
                        break
                    self.verified = head.last_event
                    head = next(heads, None)
                tree.extend(chunk[done:])
                yield content
        except SealDamaged as error:
            first = self.verified + 1
            self._findings.add(TamperKind.SEAL_DAMAGED, first, first, str(error))

    def _differs(self, head: TreeHead) -> None:
        """Report the first head that the leaves do not have. Every later one differs too."""
        first = self.verified + 1
        text = (
            f"The leaves of events {first} to {head.last_event} do not have the root that was "
            f"signed at {head.sealed_at:%Y-%m-%d %H:%M:%S} UTC."
        )
        self._findings.add(TamperKind.RANGE, first, head.last_event, text)


class _Rows:
    """Iterates over the rows of the log. Rows that were read too early are put back."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows, self._waiting = rows, deque[Row]()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return self._waiting.popleft() if self._waiting else next(self._rows)

    def take(self, count: int) -> list[Row]:
        """Return up to `count` rows."""
        early = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        return early + list(islice(self._rows, count - len(early)))

    def put_back(self, rows: Sequence[Row]) -> None:
        """Return these rows again, before the others."""
        self._waiting.extendleft(reversed(rows))


def _compare_all(
    tree: _Checked, rows: _Rows, findings: SealFindings, on_progress: Callable[[int], object]
) -> None:
    """Compare all rows of the log with the leaves of a tree, and count the unsealed ones."""
    since = findings.since
    for content in tree:
        if since:
            content = encode(each for each in decode(content) if each.notification_id > since)
        if content:
            _compare(content, rows, findings)
            findings.events += len(content) // ENTRY.size
            compared = decode(content[-ENTRY.size :])[0].notification_id
            findings.position = max(since, min(compared, tree.verified))
            on_progress(compared)
    last = _last_sealed(findings)
    for id, *_ in rows:
        if id <= last:
            _inserted(id, findings)
        else:
            findings.unsealed += 1


def _last_sealed(findings: SealFindings) -> int:
    return max(findings.since, findings.head.last_event if findings.head else 0)


def _compare(content: bytes, rows: _Rows, findings: SealFindings) -> None:
    """Compare the next rows with stored leaves."""
    block = rows.take(len(content) // ENTRY.size)
    if seal(block) == content:
        return
    rows.put_back(block)
    for id, leaf in decode(content):
        row = next(rows, None)
        while row is not None and row[0] < id:
            _inserted(row[0], findings)
            row = next(rows, None)
        if row is None or row[0] > id:
            findings.add(TamperKind.DELETED, id, id, f"Event {id} was deleted.")
            rows.put_back([] if row is None else [row])
        elif decode(seal([row]))[0].leaf != leaf:
            findings.add(TamperKind.CHANGED, id, id, f"Event {id} was changed.")


def _inserted(id: int, findings: SealFindings) -> None:
    text = f"Event {id} was inserted after the events around it were sealed."
    findings.add(TamperKind.INSERTED, id, id, text)
