"""Evidence of how long segments ran, from trainers' reports and the scheduler's observations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ValidationError

from domain.core.counts import Count, Seconds
from infrastructure.bus.exchange import read
from infrastructure.postgres.store import Connection
from infrastructure.training.measurements import add_evidence_of_many
from projections.job_detail import ended_segments


class Evidence(BaseModel):
    """The fields of a report that billing reads."""

    account_id: UUID
    job_id: UUID
    segment: Count
    elapsed_seconds: Seconds


def elapsed_seconds(shown_seconds: float, bound_at: datetime | None, now: datetime) -> int:
    """Return the smaller of the reported time and the time since `bound_at`, at least 0."""
    if bound_at is None:
        return 0
    return int(max(0.0, min(shown_seconds, (now - bound_at).total_seconds())))


def keep_evidence(connection: Connection, messages: Iterable[object]) -> None:
    """Store the longest elapsed time of each segment that has not ended."""
    logger = logging.getLogger("evidence")
    longest: dict[tuple[UUID, int], float] = {}
    for message in messages:
        try:
            shown = read(Evidence, message)
        except ValidationError as error:
            logger.warning("dropping an invalid report: %s", error)
            continue
        key = (shown.job_id, shown.segment)
        longest[key] = max(longest.get(key, 0.0), shown.elapsed_seconds)
    for ended in ended_segments(connection, longest) if longest else ():
        del longest[ended]
    add_evidence_of_many(connection, longest)
