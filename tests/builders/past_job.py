"""A job whose life is told to the log: real aggregates and measurements, at moments in the past."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from uuid import UUID, uuid4

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.aggregate import Cause, because
from domain.core.identity import gpu_pool_id, meter_id
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import Job, SegmentEnd
from domain.training.phases import Phase
from domain.training.smoothed_loss import SmoothedLoss
from gateway.backend import Backend
from gateway.launch.job_form import JobRequest
from infrastructure.measurements import add_evaluation, add_log_line
from infrastructure.reports import EvaluationMeasured, LogLine
from tests.builders.examples import STATE, ending, evaluation_result, saved_checkpoint

MINUTE_SECONDS, LEASE_SECONDS, RETENTION = 60, 300, timedelta(days=30)
LOADING_SECONDS, STEP_SECONDS, EVALUATION_SECONDS, STEP_TOKENS = 48.0, 1.6, 6.0, 3_424
SAVED_BYTES, ADAPTER_SHA256 = 26_300_000, "a" * 64


class PastJob:
    """FeedEvent in order, from the approval on; `now` is the moment that the history has come to.

    One segment at a time; a step takes `STEP_SECONDS`, and what it costs is metered on the way.
    """

    def __init__(
        self, backend: Backend, account_id: UUID, at: datetime, form: JobRequest, seed: int = 0
    ) -> None:
        self.backend, self.account_id, self.now = backend, account_id, at
        self.form, self.seed, self.random = form, seed, Random(seed)
        self.step, self.lines, self.began = 0, 0, at
        self.smoothed = {0: SmoothedLoss()}  # by step
        with self._told():
            job = backend.launching.approve(
                account_id, str(uuid4()), form.choices, wait=True, loads=lambda: []
            )
        self.id, self.plan = job.id, job.plan
        assert job.estimate is not None
        self.total_steps = job.estimate.total_steps

    @property
    def path(self) -> str:
        """Of its page."""
        return f"/fine-tune/ftjob-{self.id.hex}"

    @property
    def job(self) -> Job:
        """As the log has it."""
        return self.backend.log.load(Job, self.id)

    def queue(self) -> PastJob:
        """It stands in its pool's queue."""
        with self._told():
            pool = self._pool
            pool.request(self._claim(self.job.segment + 1))
            self.backend.log.commit(pool)
        return self

    def train(self, steps: int, *, save_every: int = 100) -> PastJob:
        """Bind the GPUs if none are, and take so many steps; each `save_every` saves and evaluates.

        The loss falls as those of real runs do: quickly, then slowly, with noise.
        """
        if self.job.running is None:
            self._launch()
        first, last = self.step + 1, self.step + steps
        for saved in range(first + save_every - 1 - (first - 1) % save_every, last + 1, save_every):
            self._step_to(saved)
            self._save()
        self._step_to(last)
        return self

    def evaluate(self, *, completed: bool = True) -> PastJob:
        """All steps are done."""
        with self._told(2):
            job = self.job
            job.start_evaluation(job.segment, self.step)
            self.backend.log.commit(job)
        if completed:
            self._evaluated(0, 2.61, 0.47)
            with self._told(30):
                job = self.job
                after = loss_at(self.step, self.total_steps) + 0.06
                job.complete_evaluation(
                    job.segment,
                    evaluation_result(
                        *(2.61, after, 64, 9_870), accuracy_before=0.47, accuracy_after=0.68
                    ),
                    peak_memory_bytes=self.peak_bytes,
                )
                self.backend.log.commit(job)
        return self

    def register(self) -> PastJob:
        """Its adapter has a name."""
        with self._told(1):
            job = self.job
            job.register(job.segment, f"jobs/{self.id}/adapter", ADAPTER_SHA256)
            self.backend.log.commit(job)
        return self.end(SegmentEnd.COMPLETED)

    def ask_to_pause(self) -> PastJob:
        """Its owner pauses it, and its trainer has not saved yet."""
        with self._told(1):
            job = self.job
            job.pause()
            self.backend.log.commit(job)
        return self

    def pause(self) -> PastJob:
        """Its owner pauses it."""
        self.ask_to_pause()._save()
        return self.end(SegmentEnd.STOPPED)

    def run_dry(self) -> PastJob:
        """Its account's balance reaches zero, by this job and another one."""
        self._save()
        self.end(SegmentEnd.LEASE_ENDED, can_pay=False)
        with self._told():
            account = self._account
            rest = account.available_micros
            account.settle(captured_micros=rest, reserved_micros=rest, second_micros=1)
            self.backend.log.commit(account)
        return self

    def ask_to_cancel(self) -> PastJob:
        """Its owner cancels it, and its trainer has not saved yet."""
        with self._told(1):
            job = self.job
            job.cancel(RETENTION)
            self.backend.log.commit(job)
        return self

    def cancel(self) -> PastJob:
        """Its owner cancels it."""
        self.ask_to_cancel()._save()
        return self.end(SegmentEnd.STOPPED)

    def promote(self) -> PastJob:
        """What it had saved is a model, although it was cancelled."""
        with self._told(60):
            job = self.job
            job.promote()
            self.backend.log.commit(job)
        return self

    def lose_capacity(self) -> PastJob:
        """Its region has fewer GPUs than it waits for."""
        with self._told(1):
            job = self.job
            job.lose_capacity()
            self.backend.log.commit(job)
        return self

    def crash(self, failure: FailureClass, shortage: MemoryShortage | None = None) -> PastJob:
        """Its trainer is lost; it goes on from the last checkpoint."""
        self.end(SegmentEnd.CRASHED, failure=failure, shortage=shortage)
        self.step = self.job.checkpoints.step
        return self

    def fail(
        self,
        failure: FailureClass,
        error_class: str,
        output: str,
        shortage: MemoryShortage | None = None,
    ) -> PastJob:
        """Its trainer ends with an error that is not tried again."""
        ref = f"jobs/{self.id}/logs/segment-{self.job.segment}.log"
        self.backend.artifacts.put(ref, output.encode())
        how: dict[str, object] = {"failure": failure, "error_class": error_class, "log_ref": ref}
        return self.end(SegmentEnd.CRASHED, shortage=shortage, **how)

    def end(self, reason: SegmentEnd, *, can_pay: bool = True, **how: object) -> PastJob:
        """The segment is over and settled, and its GPUs are free."""
        elapsed = self._elapsed_seconds
        with self._told(1):
            job, pool = self.job, self._pool
            phases = {Phase.MODEL_LOAD: LOADING_SECONDS, Phase.TRAINING: elapsed - LOADING_SECONDS}
            ended = ending(reason, elapsed, phase_seconds=phases, **how)  # type: ignore[arg-type]
            job.end_segment(job.segment, ended, can_pay=can_pay)
            pool.release(job.id, job.segment)
            self.backend.log.commit(job, pool)
            kept = job.usage.paid[job.segment].seconds
        with self._told():
            account, meter = self._account, self._meter
            charge, released = meter.close(elapsed, MINUTE_SECONDS)
            account.settle(captured_micros=charge, reserved_micros=-released)
            if credit := meter.credit_lost_work(kept):
                account.reverse_charge(credit, job.id, job.segment, kept, meter.billed_seconds)
            self.backend.log.commit(account, meter)
        return self

    def log(self, text: str, level: str = "INFO") -> None:
        """A line of its trainer's log."""
        self.lines += 1
        with self.backend.pool.connection() as connection:
            line = LogLine(
                account_id=self.account_id,
                job_id=self.id,
                segment=self.job.segment,
                n=self.lines,
                level=level,
                text=text,
                logged_at=self.now,
            )
            add_log_line(connection, line)

    def _launch(self) -> None:
        segment = self.job.segment + 1
        with self._told(1):
            pool, job = self._pool, self.job
            claim = self._claim(segment)
            pool.request(claim)
            pool.allocate(claim)
            job.allocate_segment(segment)
            account = self._account
            meter = Meter.open(self.account_id, self.id, segment, self.plan.rate_micros_per_hour)
            reserved = meter.extend_lease(LEASE_SECONDS)
            account.settle(captured_micros=0, reserved_micros=reserved)
            self.backend.log.commit(pool, job)
            self.backend.log.commit(meter, account)
        with self._told(1):
            self.began = self.now
            job = self.job
            job.start_pod(segment, f"{self.id}-{segment}", self.now)
            self.backend.log.commit(job)
        self.log(f"loading {self.plan.base_model}")
        with self._told(LOADING_SECONDS):
            job = self.job
            job.start_training(segment, self.step, self.total_steps, 2_336, 64)
            self.backend.log.commit(job)
        self.log(f"training {self.total_steps} steps of 16 examples")

    def _step_to(self, last: int) -> None:
        if last <= self.step:
            return
        add_steps(self, self.step + 1, last)
        self.now += timedelta(seconds=(last - self.step) * STEP_SECONDS)
        self.step = last
        self.log(f"step {last}/{self.total_steps} loss {measured_loss(self, last):.4f}")
        self._bill()

    def _bill(self) -> None:
        with self._told():
            account, meter = self._account, self._meter
            elapsed = self._elapsed_seconds
            charge = meter.post_minutes(elapsed, MINUTE_SECONDS)
            reserved = 0
            if (ahead := elapsed + LEASE_SECONDS - meter.paid_seconds) > 0:
                seconds = min(ahead, account.available_micros * 3600 // meter.rate_micros_per_hour)
                reserved = meter.extend_lease(seconds) if seconds > 0 else 0
            account.settle(captured_micros=charge, reserved_micros=reserved)
            self.backend.log.commit(account, meter)

    def _save(self) -> None:
        loss = loss_at(self.step, self.total_steps)
        self._evaluated(self.step, loss + 0.08, 0.72 - loss / 10)
        with self._told(1):
            job = self.job
            job.save_checkpoint(
                saved_checkpoint(
                    job.segment,
                    self.step,
                    measured_loss(self, self.step),
                    self._elapsed_seconds,
                    f"jobs/{self.id}/checkpoints/{job.segment}/step-{self.step}",
                    "c" * 64,
                    total_bytes=SAVED_BYTES,
                    state=STATE,
                    eval_loss=loss + 0.08,
                )
            )
            self.backend.log.commit(job)
        self.log(f"checkpoint step={self.step} saved")

    def _evaluated(self, step: int, loss: float, accuracy: float) -> None:
        self.now += timedelta(seconds=EVALUATION_SECONDS)
        with self.backend.pool.connection() as connection:
            add_evaluation(
                connection,
                EvaluationMeasured(
                    account_id=self.account_id,
                    job_id=self.id,
                    segment=self.job.segment,
                    step=step,
                    eval_loss=loss,
                    accuracy=accuracy,
                    examples=64,
                    label_tokens=9_870,
                    seconds=EVALUATION_SECONDS,
                    elapsed_seconds=self._elapsed_seconds,
                    measured_at=self.now,
                ),
            )

    @contextmanager
    def _told(self, seconds_later: float = 0) -> Iterator[None]:
        self.now += timedelta(seconds=seconds_later)
        with because(Cause(f"account:{self.account_id}", str(uuid4()), self.now)):
            yield

    def _claim(self, segment: int) -> Claim:
        return Claim(self.account_id, self.id, segment, self.plan.gpu_count)

    @property
    def _elapsed_seconds(self) -> int:
        return int((self.now - self.began).total_seconds())

    @property
    def peak_bytes(self) -> int:
        """Memory that it took at most, bytes: a little less than was predicted."""
        return int((self.plan.required_bytes or 1_000_000_000) * 0.91)

    @property
    def _account(self) -> Account:
        return self.backend.log.load(Account, self.account_id)

    @property
    def _meter(self) -> Meter:
        return self.backend.log.load(Meter, meter_id(self.id, self.job.segment))

    @property
    def _pool(self) -> GpuPool:
        return self.backend.log.load(GpuPool, gpu_pool_id(self.plan.region, self.plan.gpu_type))


def loss_at(step: int, total_steps: int) -> float:
    """Training loss without its noise, nats."""
    return 1.12 + 1.45 * math.exp(-9 * step / max(1, total_steps)) - 0.12 * step / total_steps


def measured_loss(job: PastJob, step: int) -> float:
    """Training loss as a step measured it, nats: the same however often it is asked for."""
    return loss_at(step, job.total_steps) + Random(f"{job.seed} {step}").gauss(0, 0.11)


def add_steps(job: PastJob, first: int, last: int) -> None:
    """Measurements of some steps of the running segment, straight into their table."""
    segment, began = job.job.segment, job.now
    with job.backend.pool.connection() as connection:
        with connection.cursor().copy("COPY step_measurements FROM STDIN") as copy:
            for step in range(first, last + 1):
                at = began + timedelta(seconds=(step - first + 1) * STEP_SECONDS)
                loss = measured_loss(job, step)
                smoothed = job.smoothed[step - 1].after(loss, job.total_steps)
                job.smoothed[step] = smoothed
                copy.write_row(
                    (
                        *(job.id, step, segment, loss, smoothed.value),
                        2e-4 * (1 + math.cos(math.pi * step / job.total_steps)) / 2,
                        STEP_TOKENS * step,
                        STEP_TOKENS / STEP_SECONDS + job.random.gauss(0, 30),
                        (at - job.began).total_seconds(),
                        at,
                        job.peak_bytes,
                    )
                )
