"""The benchmark of many running jobs works with a few, and its jobs are real ones."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.jobs.job import Job
from infrastructure.settings import Settings
from tests.bench.scale import measure
from tests.bench.scale_jobs import POOL_ID, SEGMENT, Jobs


def test_copied_jobs_load_as_real_ones() -> None:
    # given
    jobs, log = Jobs.of(6, accounts=3), EventLog()

    # when
    log.recorder.insert_events(list(jobs.stored_events()))

    # then
    for account_id, job_id in ((jobs.account_id(n), jobs.job_id(n, 1)) for n in range(3)):
        job, meter = log.load(Job, job_id), log.load(Meter, meter_id(job_id, SEGMENT))
        account = log.load(Account, account_id)
        assert job.account_id == meter.account_id == account.id == account_id
        assert account.reserved_micros == 2 * meter.charge_between(0, meter.paid_seconds)
    pool = log.load(GpuPool, POOL_ID)
    assert {claim.job_id for claim in pool.held.values()} == {
        jobs.job_id(account, job) for account in range(3) for job in range(2)
    }


def test_all_measurements_run(settings: Settings, tmp_path: Path) -> None:
    verdicts = list(measure(Console(quiet=True), settings, Jobs.of(20, 4), 20, tmp_path))

    assert len(verdicts) >= 7
