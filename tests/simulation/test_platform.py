"""The simulated platform: services that lag, and trainers that overrun."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.billing.account import Account
from domain.core.event_log import EventLog
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, JobStatus
from domain.jobs.lifecycle import SegmentEnd
from tests.builders.examples import PLAN, POLICY
from tests.simulation.platform import SimulatedPlatform
from tests.simulation.trainer import SimulatedTrainer

SECOND = 1000
"""Cost of a second, micro-dollars."""


@pytest.fixture
def platform() -> SimulatedPlatform:
    platform = SimulatedPlatform(EventLog(), POLICY)
    platform.open_pool("local", 1)
    return platform


def started(platform: SimulatedPlatform, seconds_of_money: int) -> tuple[UUID, SimulatedTrainer]:
    """An account with a running job."""
    account_id = platform.open_account("account")
    platform.top_up(account_id, seconds_of_money * SECOND, "first")
    plan = PLAN.model_copy(
        update={"region": "local", "gpu_type": "gpu", "rate_micros_per_hour": 3600 * SECOND}
    )
    platform.approve(account_id, "job", plan)
    (trainer,) = platform.trainers.values()
    return account_id, trainer


def balance(platform: SimulatedPlatform, account_id: UUID) -> int:
    assert platform.difference(account_id) == 0
    return platform.log.load(Account, account_id).balance_micros


def test_services_react_when_the_simulation_lets_them(platform: SimulatedPlatform) -> None:
    account_id, trainer = started(platform, 1000)
    platform.is_prompt = False
    platform.pass_time(100)
    platform.end(trainer, SegmentEnd.CRASHED, failure=FailureClass.BAD_DATA)
    assert platform.log.load(Account, account_id).reserved_micros == 300 * SECOND
    platform.drain()
    assert balance(platform, account_id) == 900 * SECOND


def test_an_overrun_is_billed_up_to_the_last_checkpoint(platform: SimulatedPlatform) -> None:
    account_id, trainer = started(platform, 120)
    platform.pass_time(50)
    platform.save_checkpoint(trainer)
    trainer.overruns = True
    platform.pass_time(100)
    platform.end_finished()
    assert balance(platform, account_id) == 70 * SECOND
    assert platform.faults.overruns == 1
    assert platform.faults.unpaid_seconds == 0
    job = platform.log.load(Job, trainer.job_id)
    assert job.status is JobStatus.PAUSED


def test_a_tick_between_an_end_and_its_settlement_bills_no_extra_time(
    platform: SimulatedPlatform,
) -> None:
    """The trainer's clock was ahead, and the platform's continues after the end."""
    account_id, trainer = started(platform, 1000)
    platform.is_prompt = False
    trainer.error = 150
    platform.pass_time(100)
    trainer.report()
    platform.end(trainer, SegmentEnd.CRASHED, failure=FailureClass.BAD_DATA)
    platform.pass_time(150)
    platform.tick(account_id)
    platform.drain()
    assert balance(platform, account_id) == 900 * SECOND
    assert platform.faults.overbilled_seconds == 0


def test_after_a_clock_moved_back_the_final_report_is_billed(
    platform: SimulatedPlatform,
) -> None:
    account_id, trainer = started(platform, 1000)
    platform.pass_time(100)
    platform.save_checkpoint(trainer)
    trainer.error = -80
    trainer.overruns = True
    platform.is_prompt = False
    platform.lose(trainer, None)
    platform.drain()
    assert platform.difference(account_id) == 0
