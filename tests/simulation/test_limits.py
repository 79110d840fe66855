"""Pauses at a maximum cost and at a budget, with the real services in memory."""

from __future__ import annotations

from domain.billing.account import Account
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job, JobStatus
from domain.jobs.lifecycle import PauseReason
from tests.simulation.story import SECOND_MICROS, limited


def test_a_job_pauses_at_each_limit_to_the_second_and_resumes() -> None:
    story = limited(log := EventLog())
    paused = [each for each in log.events.get(story.job_id) if isinstance(each, events.JobPaused)]
    assert [each.reason for each in paused] == [PauseReason.MAX_COST, PauseReason.BUDGET]
    job = log.load(Job, story.job_id)
    assert (job.status, job.segment) == (JobStatus.REGISTERED, 3)
    assert job.usage.paid_seconds == 100 + 60 + 130
    account = log.load(Account, story.account_id)
    assert account.balance_micros == (1_000 - 290) * SECOND_MICROS
    assert (story.platform.limits.overshoot_micros, story.platform.difference(account.id)) == (0, 0)
