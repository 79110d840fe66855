"""Decoded events in batches, for folds of the whole log."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID

import psycopg
from pydantic_core import from_json

from domain.audit.sealed_event import StoredRow
from domain.core.event_log import event_of
from domain.core.recorded import Recorded
from infrastructure.postgres.event_rows import read_rows
from infrastructure.postgres.log_reader import TOPICS

BATCH_EVENTS = 5_000
"""Events of a batch.

Folds write the rows of a batch with a few statements, so larger batches are faster. A reader and a
fold have two batches in memory, about 50 MB.
"""


def event_batches(
    connection: psycopg.Connection[Any],
    topics: Collection[str] | None = None,
    after: int = 0,
    until: int | None = None,
) -> Iterator[list[Recorded]]:
    """Yield the events with these topics, or all, in the order of the log.

    They are after the notification ID `after` and up to `until`. The last batch is the first one
    that is not full. Raise ValueError if an event has an unknown topic or an invalid state.
    """
    rows: list[StoredRow] | None = None
    while rows is None or len(rows) == BATCH_EVENTS:  # else a writer could keep the reader busy
        rows = read_rows(connection, after, BATCH_EVENTS, topics=topics, until=until)
        batch: list[Recorded] = []
        for id, originator, version, topic, state in rows:
            if topic not in TOPICS:
                raise ValueError(f"event {id} has the unknown topic {topic!r}")
            event = event_of(topic, UUID(bytes=originator), version, from_json(state))
            batch.append(Recorded.of(id, event))
        if batch:
            yield batch
            after = batch[-1].id
