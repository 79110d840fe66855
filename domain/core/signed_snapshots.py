"""Snapshots, used only if the signature is valid and their last event is in the log."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import AggregateRecorder, EventStore, Mapper, Recording, StoredEvent
from pydantic import BaseModel, ValidationError

from domain.core.event_format import NewerEvent


class SignedState(BaseModel):
    """Contents of the state column of a snapshot's row."""

    last_event_sha256: str
    """SHA-256 hash of the last event that the snapshot includes, as stored in the log."""
    snapshot: str
    """JSON of the snapshot."""
    signature: str
    """HMAC-SHA256 of the aggregate's ID, the version, the event hash and the snapshot."""


class SignedSnapshots(EventStore[UUID]):
    """Snapshots of aggregates, signed with a secret that is not in the database.

    A database role that can insert rows therefore cannot forge a snapshot. Each snapshot also
    contains the hash of its last event. If the log is restored from a backup without that event,
    EcoLink ignores the snapshot.
    """

    def __init__(
        self,
        mapper: Mapper[UUID],
        recorder: AggregateRecorder,
        events: AggregateRecorder,
        secret: str,
    ) -> None:
        super().__init__(mapper, recorder)
        self._events = events
        self._secret = secret.encode()
        self._reported: set[tuple[UUID | str, int]] = set()

    def put(
        self,
        domain_events: Sequence[DomainEventProtocol[UUID]],
        *,
        last_events: Sequence[StoredEvent] = (),
        **kwargs: Any,
    ) -> list[Recording[UUID]]:
        """Sign and store snapshots of stored events, which are read unless in `last_events`."""
        known = {(each.originator_id, each.originator_version): each for each in last_events}
        rows = [
            self._signed(each, known.get((each.originator_id, each.originator_version)))
            for each in domain_events
        ]
        self.recorder.insert_events(rows, **kwargs)
        return []

    def get(
        self,
        originator_id: UUID,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Iterator[DomainEventProtocol[UUID]]:
        """Yield genuine snapshots. Log and skip forged ones, and skip outdated ones."""
        while limit is None or limit > 0:
            rows = self.recorder.select_events(originator_id, gt=gt, lte=lte, desc=desc, limit=1)
            if not rows:
                return
            version = rows[0].originator_version
            gt, lte = (gt, version - 1) if desc else (version, lte)
            try:
                genuine = self.verified(rows[0])
            except ForgedSnapshot as forged:
                self._report(rows[0], forged)
                continue
            try:
                snapshot = self.current(genuine)
            except OutdatedSnapshot:
                continue
            limit = None if limit is None else limit - 1
            yield snapshot

    def current(self, genuine: StoredEvent) -> DomainEventProtocol[UUID]:
        """Return a snapshot, upcast. Raise OutdatedSnapshot if EcoLink cannot use its state.

        During an upgrade, the state may be of a newer version of EcoLink.
        """
        try:
            return self.mapper.to_domain_event(genuine)
        except NewerEvent as error:
            raise OutdatedSnapshot from error
        except ValidationError as error:
            if self._is_new(genuine):
                logging.getLogger("event_log").error(
                    "The snapshot of %s at version %d is outdated: %s. EcoLink reads the events.",
                    *(genuine.originator_id, genuine.originator_version, error),
                )
            raise OutdatedSnapshot from error

    def verified(self, row: StoredEvent, last_event: StoredEvent | None = None) -> StoredEvent:
        """Return the snapshot in a row. Raise ForgedSnapshot if it is not genuine.

        `last_event` is the stored event at the snapshot's version. Without it, the log is read.
        """
        try:
            state = SignedState.model_validate_json(row.state)
        except ValidationError:
            raise ForgedSnapshot("It has no signature.") from None
        expected = self._signature(row, state.last_event_sha256, state.snapshot)
        if not hmac.compare_digest(expected.encode(), state.signature.encode()):
            raise ForgedSnapshot("Its signature is invalid.")
        last_event = last_event or self._last_event(row)
        if last_event is None or state.last_event_sha256 != _sha256(last_event):
            raise ForgedSnapshot("The log does not have its last event.")
        return StoredEvent(
            row.originator_id, row.originator_version, row.topic, state.snapshot.encode()
        )

    def _signed(
        self, snapshot: DomainEventProtocol[UUID], last_event: StoredEvent | None
    ) -> StoredEvent:
        row = self.mapper.to_stored_event(snapshot)
        last_event = last_event or self._last_event(row)
        assert last_event is not None
        last = _sha256(last_event)
        text = row.state.decode()
        state = SignedState(
            last_event_sha256=last, snapshot=text, signature=self._signature(row, last, text)
        )
        return StoredEvent(
            row.originator_id, row.originator_version, row.topic, state.model_dump_json().encode()
        )

    def _signature(self, row: StoredEvent, last_event_sha256: str, text: str) -> str:
        signed = [
            *(str(row.originator_id), row.originator_version, row.topic),
            *(last_event_sha256, text),
        ]
        return hmac.digest(self._secret, json.dumps(signed).encode(), "sha256").hex()

    def _last_event(self, row: StoredEvent) -> StoredEvent | None:
        """Return the event at a snapshot's version, or None if it does not exist."""
        version = row.originator_version
        found = self._events.select_events(row.originator_id, gt=version - 1, lte=version)
        return found[0] if found else None

    def _report(self, row: StoredEvent, forged: ForgedSnapshot) -> None:
        """Log each ignored snapshot once, because EcoLink loads an account many times a minute."""
        if self._is_new(row):
            logging.getLogger("event_log").critical(
                "EcoLink does not use the snapshot of %s at version %d. %s Run `ecolink audit "
                "verify`.",
                *(row.originator_id, row.originator_version, forged),
            )

    def _is_new(self, row: StoredEvent) -> bool:
        key = (row.originator_id, row.originator_version)
        if key in self._reported:
            return False
        self._reported.add(key)
        return True


def _sha256(event: StoredEvent) -> str:
    return hashlib.sha256(b"%s\0%s" % (event.topic.encode(), event.state)).hexdigest()


class OutdatedSnapshot(Exception):
    """Another version of EcoLink created the snapshot, and this one cannot use its state."""


class ForgedSnapshot(Exception):
    """EcoLink did not create the snapshot from the events in its log."""
