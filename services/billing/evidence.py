"""Evidence that segments ran: from reports of trainers, and of launchers before the first."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from uuid import UUID

from pydantic import BaseModel, ValidationError

from infrastructure.measurements import add_evidence
from infrastructure.store import Connection


class Evidence(BaseModel):
    """What billing reads of any report."""

    job_id: UUID
    segment: int
    elapsed_seconds: float


def keep_evidence(connection: Connection, messages: Iterable[dict[str, object]]) -> None:
    """Keep the longest time that each segment has shown, in one transaction."""
    longest: dict[tuple[UUID, int], float] = {}
    for message in messages:
        try:
            shown = Evidence.model_validate(message)
        except ValidationError as error:
            logging.getLogger("evidence").warning("dropping a report: %s", error)
            continue
        key = (shown.job_id, shown.segment)
        longest[key] = max(longest.get(key, 0.0), shown.elapsed_seconds)
    with connection.transaction():
        for (job_id, segment), elapsed_seconds in sorted(longest.items()):
            add_evidence(connection, job_id, segment, elapsed_seconds)
