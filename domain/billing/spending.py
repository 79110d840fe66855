"""The charges of a job that count towards its maximum cost."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.core.identity import meter_id


def committed_micros(
    log: EventLog, job_id: UUID, segments: int, unsaved: Sequence[Meter] = ()
) -> int:
    """Return the charges for the first `segments` segments of a job, in micro-dollars.

    Credits for lost work reduce the charges. The lease of an open meter counts as a whole.
    `unsaved` meters replace those in the log.
    """
    changed = {meter.id: meter for meter in unsaved}
    ids = (meter_id(job_id, each) for each in range(1, segments + 1))
    meters = (changed.get(each) or log.find(Meter, each) for each in ids)
    return sum(meter.committed_micros for meter in meters if meter is not None)
