"""The hash of a stored event, which is its leaf in the Merkle tree."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

from domain.audit.merkle import LEAF

HEADER = struct.Struct(">q16sqI")
"""Notification id, originator id, originator version, and the length of the topic in bytes."""

ENTRY = struct.Struct(">q32s")
"""A stored leaf: notification id and hash."""


class StoredRow(NamedTuple):
    """The columns of an event in the event store."""

    notification_id: int
    originator_id: bytes
    originator_version: int
    topic: str
    state: bytes


class SealedEvent(NamedTuple):
    """An event's place in the log and its leaf hash."""

    notification_id: int
    leaf: bytes


def seal(rows: Iterable[StoredRow]) -> Iterator[SealedEvent]:
    """Yield the leaves of stored events.

    A leaf covers every column. The length of the topic makes its content unambiguous.
    """
    pack, digest = HEADER.pack, sha256
    for id, originator, version, topic, state in rows:
        name = topic.encode()
        content = pack(id, originator, version, len(name)) + name + state
        yield SealedEvent(id, digest(LEAF + content).digest())


def encode(events: Iterable[SealedEvent]) -> bytes:
    """Return the bytes of a file of leaves, 40 for each event."""
    return b"".join(ENTRY.pack(*event) for event in events)


def decode(content: bytes) -> list[SealedEvent]:
    """Return the leaves of a file. Raise ValueError if its length is wrong."""
    if len(content) % ENTRY.size:
        raise ValueError(f"A file of leaves has {len(content)} bytes, not a multiple of 40.")
    return [SealedEvent(*entry) for entry in ENTRY.iter_unpack(content)]
