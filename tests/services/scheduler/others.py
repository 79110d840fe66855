"""Commands of other processes: approve, lease, end, spend."""

from __future__ import annotations

from uuid import UUID

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.jobs import events
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN, ending
from tests.builders.history import History


def approve(
    log: EventLog, job_id: UUID = JOB_ID, account_id: UUID = ACCOUNT_ID, count: int = 1
) -> None:
    """Approve a job, as the gateway does."""
    with command(f"approve {job_id}"):
        plan = PLAN.model_copy(update={"gpu_count": count})
        log.commit(Job.approve(job_id, account_id, plan))


def lease(log: EventLog, job_id: UUID = JOB_ID, segment: int = 1, seconds: int = 300) -> None:
    """Grant a lease, as billing does."""
    with command(f"lease {job_id} {segment}"):
        meter = log.find(Meter, meter_id(job_id, segment)) or Meter.open(
            ACCOUNT_ID, job_id, segment, PLAN.rate_micros_per_hour
        )
        meter.extend_lease(seconds)
        log.commit(meter)


def end(log: EventLog, segment: int = 1, reason: SegmentEnd = SegmentEnd.STOPPED) -> None:
    """End a segment, as its reports do."""
    history = History(log)
    with command(f"end {segment}"):
        job, pool = history.job, history.pool
        job.end_segment(segment, ending(reason, 10))
        pool.release(JOB_ID, segment)
        log.commit(job, pool)


def job(log: EventLog, job_id: UUID = JOB_ID) -> Job:
    return log.load(Job, job_id)


def spend(history: History) -> None:
    """Reserve the whole balance for leases."""
    with command("spend"):
        account = history.account
        account.settle(captured_micros=0, reserved_micros=account.available_micros)
        history.log.commit(account)


def pause_reason(history: History) -> PauseReason:
    """The reason of the job's last event, a pause."""
    last = list(history.log.events.get(history.job_id))[-1]
    assert isinstance(last, events.JobPaused)
    return last.reason
