"""The hash of a stored event, which is its leaf in the Merkle tree."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from domain.audit.merkle import LEAF

HEADER = struct.Struct(">q16sqI")
"""Notification id, originator id, originator version, and the length of the topic in bytes."""

ENTRY = struct.Struct(">q32s")
"""A stored leaf: notification id and hash."""

PLACE_BYTES, HASH_BYTES = 8, 32
"""Lengths of the two parts. A header begins with the same bytes as an entry."""


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


def seal(rows: Iterable[tuple[int, bytes, int, str, bytes]]) -> bytes:
    """Return the stored leaves of rows, whose columns are those of StoredRow.

    A leaf covers every column. The length of the topic makes its content unambiguous.
    """
    pack, digest = HEADER.pack, sha256
    entries: list[bytes] = []
    for id, originator, version, topic, state in rows:
        name = topic.encode()
        header = pack(id, originator, version, len(name))
        entries += header[:PLACE_BYTES], digest(LEAF + header + name + state).digest()
    return b"".join(entries)


def sealed_events(rows: Iterable[StoredRow]) -> list[SealedEvent]:
    """Return the leaves of rows."""
    return decode(seal(rows))


def leaves_in(content: bytes) -> list[bytes]:
    """Return the hashes in a file of leaves."""
    size = ENTRY.size
    return [content[end - HASH_BYTES : end] for end in range(size, len(content) + 1, size)]


def encode(events: Iterable[SealedEvent]) -> bytes:
    """Return the bytes of a file of leaves, 40 for each event."""
    return b"".join(ENTRY.pack(*event) for event in events)


def decode(content: bytes) -> list[SealedEvent]:
    """Return the leaves of a file. Raise ValueError if its length is wrong."""
    if len(content) % ENTRY.size:
        raise ValueError(f"A file of leaves has {len(content)} bytes, not a multiple of 40.")
    return [SealedEvent(*entry) for entry in ENTRY.iter_unpack(content)]
