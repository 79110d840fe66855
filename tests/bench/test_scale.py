"""The benchmark of many running jobs works with a few, and its jobs are real ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.jobs.job import Job
from infrastructure.settings import Settings
from tests.bench.scale import Run
from tests.bench.scale_jobs import POOL_ID, SEGMENT, Jobs
from tests.bench.scale_shares import owner_of


def test_copied_jobs_load_as_real_ones() -> None:
    # given
    jobs, log = Jobs.of(6, accounts=3, minutes=2), EventLog()

    # when
    log.recorder.insert_events(list(jobs.stored_events()))

    # then
    for account_id, job_id in ((jobs.account_id(n), jobs.job_id(n, 1)) for n in range(3)):
        job, meter = log.load(Job, job_id), log.load(Meter, meter_id(job_id, SEGMENT))
        account = log.load(Account, account_id)
        assert job.account_id == meter.account_id == account.id == account_id
        assert meter.minutes == 2
        reserved = meter.charge_between(meter.billed_seconds, meter.paid_seconds)
        assert account.reserved_micros == 2 * reserved
    pool = log.load(GpuPool, POOL_ID)
    assert {claim.job_id for claim in pool.held.values()} == {
        jobs.job_id(account, job) for account in range(3) for job in range(2)
    }


@pytest.fixture
def run(settings: Settings, log: EventLog) -> Iterator[Run]:
    with owner_of(settings) as owner:
        yield Run(Console(quiet=True), settings, log, owner, Jobs.of(20, accounts=4, minutes=2))


@pytest.mark.full
def test_the_store_and_the_ticker_are_measured_with_a_few_jobs(run: Run) -> None:
    verdicts = [*run.store(), *run.audit(), *run.tick(workflows=20)]

    assert len(verdicts) == 7


@pytest.mark.full
def test_the_platform_is_measured_with_a_few_jobs(run: Run) -> None:
    # given
    list(run.store())

    # when
    lag, _ = run.platform()

    # then
    assert lag.met
