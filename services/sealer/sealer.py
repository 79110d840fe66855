"""The sealer: hashes each event into a Merkle tree and exports signed tree heads."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.merkle import Frontier
from domain.audit.sealed_event import SealedEvent, sealed_events
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.postgres.event_rows import read_rows
from infrastructure.process.metrics import SEALED_EVENTS, SEALED_TIME
from infrastructure.seals.archive import LastHead, SealArchive, SealDamaged

SEAL_EVENTS, SEAL_SECONDS = 1_000, 10.0
"""A head is exported after this many events, or this long after the first event without a head."""


MAX_ID_GAP = 10**6
"""Largest distance of the ids of two events. Saves that failed leave small gaps."""


class LogRewritten(Exception):
    """The log lacks the last sealed event, or has an event that EcoLink did not add."""


class Sealer:
    """The tree of one log, which grows with the log."""

    def __init__(
        self,
        archive: SealArchive,
        origin: str,
        key: Ed25519PrivateKey,
        now: Callable[[], datetime],
        seal_events: int = SEAL_EVENTS,
    ) -> None:
        self._seal_events = seal_events
        self._archive, self._key, self._now = archive, key, now
        self.exporting: Callable[[], AbstractContextManager[object]] = nullcontext
        """Entered around each export. It may refuse the export with an error."""

        self.last_head: LastHead | None = None
        self.log_key = LogKey(origin, key.public_key())
        self._tree = Frontier()
        self._chunk: list[SealedEvent] = []  # leaves of the last, partial chunk
        self._sealed = 0
        self._position = 0
        self._sealed_at = datetime.min.replace(tzinfo=UTC)
        self._unsealed_since: float | None = None

    @property
    def size(self) -> int:
        """Number of events with an exported head."""
        return self._sealed

    def resume(self, store: psycopg.Connection[Any]) -> None:
        """Continue after the last exported head.

        Raise SealDamaged if the archive does not have the leaves of that head, or not the last head
        that this machine signed. Raise LogRewritten if the log does not have its last event.
        """
        head = self._archive.last_head(self.log_key)
        if head is not None:
            SEALED_EVENTS.set(head.size)
            SEALED_TIME.set(head.sealed_at.timestamp())
        signed = self.last_head.read(self.log_key) if self.last_head else None
        if signed is not None and (head is None or head.size < signed.size):
            raise SealDamaged(
                f"The archive lost the head of {signed.size} events, which this machine signed at "
                f"{signed.sealed_at:%Y-%m-%d %H:%M:%S} UTC. Restore the folder `seals` of the "
                "artifact store."
            )
        if head is None:
            return
        last = b""
        for leaves in self._archive.leaves(0, head.size):
            start = self._tree.size
            until = len(leaves) if signed is None else max(0, signed.size - start)
            self._tree.extend(leaf for _, leaf in leaves[:until])
            if signed is not None and start < signed.size == self._tree.size:
                _require_root(self._tree, signed)
            self._tree.extend(leaf for _, leaf in leaves[until:])
            self._chunk = leaves if len(leaves) < self._archive.chunk_leaves else []
            self._position, last = leaves[-1]
        _require_root(self._tree, head)
        with self.exporting():
            self._archive.complete_roots(head)
        self._sealed, self._sealed_at = head.size, head.sealed_at
        if sealed_events(read_rows(store, self._position - 1, 1)) != [(self._position, last)]:
            raise LogRewritten(
                f"The log lost or changed event {self._position}, which is sealed. If a backup was "
                "restored, keep the folder `seals` of the artifact store elsewhere and restart."
            )

    def step(self, store: psycopg.Connection[Any]) -> bool:
        """Hash new events, and export a head if one is due. Return True if there may be more."""
        wanted = self._seal_events - (self._tree.size - self._sealed)
        events = sealed_events(read_rows(store, self._position, wanted))
        if events:
            places = [self._position, *(each.notification_id for each in events)]
            for before, place in pairwise(places):
                if place - before > MAX_ID_GAP:
                    raise LogRewritten(
                        f"The log has an event {place} after event {before}. EcoLink numbers "
                        "events without such gaps. Verify the log, and delete the event."
                    )
            self._tree.extend(leaf for _, leaf in events)
            self._chunk += events
            self._position = events[-1].notification_id
            self._unsealed_since = self._unsealed_since or time.monotonic()
        if len(events) == wanted or self._is_due():
            self.export()
        if self._unsealed_since is None:
            SEALED_TIME.set(self._now().timestamp())
        return len(events) == wanted

    def export(self) -> None:
        """Export the leaves and the head of all hashed events. Repeat it after an error."""
        size = self._tree.size
        if size == self._sealed:
            return
        self._sealed_at = max(self._sealed_at, self._now())  # heads are in order of time
        head = TreeHead(self.log_key.origin, size, self._tree.root, self._position, self._sealed_at)
        with self.exporting():
            self._archive.put_leaves(size - len(self._chunk), self._chunk)
            self._archive.put_head(head, self._key)
        if self.last_head:
            self.last_head.write(head.sign(self._key))
        self._chunk = self._chunk[
            len(self._chunk) // self._archive.chunk_leaves * self._archive.chunk_leaves :
        ]
        self._sealed, self._unsealed_since = size, None
        SEALED_EVENTS.set(size)

    def _is_due(self) -> bool:
        since = self._unsealed_since
        return since is not None and time.monotonic() - since >= SEAL_SECONDS


def _require_root(tree: Frontier, head: TreeHead) -> None:
    if tree.root != head.root:
        raise SealDamaged(f"The leaves of {head.size} events do not have the root of their head.")
