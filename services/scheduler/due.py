"""What is due for jobs, done for each by itself: one that fails keeps no other from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from uuid import UUID

from domain.core.event_log import EventLog


def attempt_each(
    log: EventLog, job_ids: Iterable[UUID], attempt: Callable[[UUID], None], logger: logging.Logger
) -> None:
    """Run a use case for each job, again after a version conflict.

    What fails otherwise is logged, and is due the next time, too.
    """
    for job_id in job_ids:
        try:
            log.retrying(partial(attempt, job_id))
        except Exception:
            logger.exception("what is due for job %s failed; next time", job_id)
