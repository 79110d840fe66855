"""Simulated training jobs for the clients of `make bench-live`."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Aggregate, Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.core.money import MICROS_PER_DOLLAR
from domain.jobs.job import Job
from domain.training.checkpoint import SavedCheckpoint
from domain.use_cases.accounts import EcoLink
from infrastructure.accounts.sessions import begin_session
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_log_line, add_step
from infrastructure.training.reports import LogLine, StepMeasured
from tests.builders.examples import PLAN, estimate_at

JOBS_OF_ACCOUNT = 5
RATE_MICROS = 600_000
TOTAL_STEPS = 100_000
EVENT_SECONDS = 4.0  # between two events of a job
LOG_STEPS, MINUTE_SECONDS = 10, 60
NOBODY = Cause("service:bench", "bench", datetime.now(UTC))


@dataclass
class Platform:
    """Accounts with running jobs, and the time of each commit."""

    settings: Settings
    log: EventLog
    job_ids: list[UUID] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    written: dict[int, dict[int, float]] = field(default_factory=dict)
    checkpoints: dict[tuple[int, int], float] = field(default_factory=dict)
    turn: int = 0
    steps: int = 0
    next_event: float = field(default_factory=time.monotonic)
    next_step: float = field(default_factory=time.monotonic)

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings, jobs: int) -> Generator[Platform]:
        """Create a number of training jobs, five per account."""
        with open_log(settings) as log:
            platform = cls(settings, log)
            with because(NOBODY):
                for number in range(jobs):
                    platform._approve(number)
            platform.forget_written()
            yield platform

    @property
    def head(self) -> int:
        return self.log.recorder.max_notification_id() or 0

    def token_of(self, number: int) -> str:
        return self.tokens[number // JOBS_OF_ACCOUNT]

    @property
    def measured(self) -> tuple[range, range]:
        """Steps and log lines of every job so far."""
        return range(1, self.steps + 1), range(LOG_STEPS, self.steps + 1, LOG_STEPS)

    def forget_written(self) -> None:
        """Exclude everything so far from the measurement."""
        self.written = {number: {} for number in range(len(self.job_ids))}
        self.checkpoints.clear()

    def advance(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if now >= self.next_step:
                self.next_step += 1.0
                self._measure()
            if now >= self.next_event:
                self.next_event += EVENT_SECONDS / len(self.job_ids)
                with because(NOBODY):
                    self._happen(self.turn % len(self.job_ids), self.turn // len(self.job_ids))
                self.turn += 1
            time.sleep(max(0.0, min(self.next_step, self.next_event, until) - time.monotonic()))

    def _approve(self, number: int) -> None:
        if number % JOBS_OF_ACCOUNT == 0:
            ecolink, self.account_id = EcoLink(self.log), uuid4()
            ecolink.open_account(self.account_id, Role.OWNER)
            ecolink.grant_credit(self.account_id, 1000 * MICROS_PER_DOLLAR, "bench")
            key, _ = ecolink.issue_key(self.account_id)
            with connect(self.settings) as connection:
                self.tokens.append(begin_session(connection, key.id))
        plan = PLAN.model_copy(
            update={"region": "bench", "rate_micros_per_hour": RATE_MICROS, "required_bytes": 10**9}
        )
        job = Job.approve(uuid4(), self.account_id, plan, estimate_at(plan.rate_micros_per_hour))
        job.allocate_segment(1)
        job.start_pod(1, "pod", datetime.now(UTC))
        job.start_training(1, 0, TOTAL_STEPS, 1000, 50)
        meter = Meter.open(self.account_id, job.id, 1, RATE_MICROS)
        account = self.log.load(Account, self.account_id)
        account.settle(captured_micros=0, reserved_micros=meter.extend_lease(24 * 3600))
        self.log.commit(job, meter, account)
        self.job_ids.append(job.id)

    def _happen(self, number: int, turn: int) -> None:
        """Bill a minute, or save a checkpoint and delete an older one."""
        job = self.log.load(Job, self.job_ids[number])
        if turn % 3 == 0:
            meter = self.log.load(Meter, meter_id(job.id, 1))
            account = self.log.load(Account, job.account_id)
            charge = meter.post_minutes((meter.minutes + 1) * MINUTE_SECONDS, MINUTE_SECONDS)
            account.settle(captured_micros=charge, reserved_micros=0)
            self._commit(number, meter, account)
            return
        step = job.step + 10
        ref = f"checkpoints/{job.id}/{step}"
        job.save_checkpoint(
            SavedCheckpoint(
                segment=1,
                step=step,
                train_loss=2.0,
                elapsed_seconds=turn,
                ref=ref,
                manifest_sha256="c" * 64,
                total_bytes=10**6,
            )
        )
        self._commit(number, job)
        self.checkpoints[number, step] = max(self.written[number].values())

    def _commit(self, number: int, *aggregates: Aggregate) -> None:
        """Save, and record when the job's events were in the log."""
        own = {
            (event.originator_id, event.originator_version)
            for aggregate in aggregates
            if not isinstance(aggregate, Account)
            for event in aggregate.pending_events
        }
        before = self.head
        self.log.commit(*aggregates)
        moment = time.time()
        for each in self.log.recorder.select_notifications(
            start=before, limit=100, inclusive_of_start=False
        ):
            if (each.originator_id, each.originator_version) in own:
                self.written[number][each.id] = moment

    def _measure(self) -> None:
        """Add a step to each job, and sometimes a log line."""
        self.steps += 1
        with connect(self.settings, autocommit=False) as connection:
            for job_id in self.job_ids:
                add_step(connection, self._step(job_id))
                if self.steps % LOG_STEPS == 0:
                    add_log_line(connection, self._line(job_id))

    def _step(self, job_id: UUID) -> StepMeasured:
        return StepMeasured(
            account_id=job_id,  # not stored
            job_id=job_id,
            segment=1,
            step=self.steps,
            total_steps=TOTAL_STEPS,
            train_loss=2 + 1 / self.steps,
            smoothed_loss=2 + 1 / self.steps,
            learning_rate=2e-4,
            tokens=1000,
            tokens_per_second=1000,
            elapsed_seconds=self.steps,
            measured_at=datetime.now(UTC),
        )

    def _line(self, job_id: UUID) -> LogLine:
        return LogLine(
            account_id=job_id,
            job_id=job_id,
            segment=1,
            n=self.steps,
            level="INFO",
            text=f"step {self.steps} is done",
            logged_at=datetime.now(UTC),
        )
