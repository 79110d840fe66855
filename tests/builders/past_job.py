"""Jobs with a history in the past: real aggregates, charges and measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from uuid import UUID, uuid4

from domain.billing.account import Account
from domain.core.aggregate import Cause, because
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from domain.training.phases import Phase
from domain.training.smoothed_loss import SmoothedLoss
from gateway.backend import Backend
from gateway.jobs.launch.job_form import JobRequest
from infrastructure.training.measurements import add_evaluation, add_log_line
from infrastructure.training.reports import EvaluationMeasured, LogLine
from tests.builders.examples import STATE, evaluation_result
from tests.builders.history import LEASE_SECONDS, MINUTE_SECONDS, History

LOADING_SECONDS, STEP_SECONDS, EVALUATION_SECONDS, STEP_TOKENS = 48.0, 1.6, 6.0, 3_424
SAVED_BYTES, ADAPTER_SHA256 = 26_300_000, "a" * 64


STEP_COLUMNS = (
    "job_id, step, segment, train_loss, smoothed_loss, learning_rate, tokens, tokens_per_second, "
    "elapsed_seconds, measured_at, peak_memory_bytes, gpu_utilization, gpu_memory_bytes"
)


class PastJob:
    """A job whose events happen one after another, from its approval on.

    `now` is the time of the last event. A step takes STEP_SECONDS, and its cost is metered.
    """

    def __init__(
        self, backend: Backend, account_id: UUID, at: datetime, form: JobRequest, seed: int = 0
    ) -> None:
        self.backend, self.account_id, self.now = backend, account_id, at
        self.seed, self.random = seed, Random(seed)
        self.step, self.lines, self.began = 0, 0, at
        self.smoothed = {0: SmoothedLoss()}  # by step
        with self._command("approve"):
            job = backend.launching.approve(
                self.account_id, str(uuid4()), form.choices, wait=True, loads=lambda: []
            )
        assert job.estimate is not None
        self.id, self.plan, self.total_steps = job.id, job.plan, job.estimate.total_steps
        self.history = History(backend.log, self.account_id, job.id, job.plan, self._command)

    @property
    def path(self) -> str:
        """Path of the job's page."""
        return f"/fine-tune/ftjob-{self.id.hex}"

    @property
    def job(self) -> Job:
        return self.history.job

    @property
    def peak_bytes(self) -> int:
        """Peak memory, a little below the predicted one."""
        return int((self.plan.required_bytes or 1_000_000_000) * 0.91)

    def queue(self) -> PastJob:
        """Queue the job for GPUs."""
        self.history.request_gpus(self.job.segment + 1)
        return self

    def train(self, steps: int, *, save_every: int = 100) -> PastJob:
        """Train this many steps, and evaluate and save every `save_every` steps.

        A segment is launched if none runs.
        """
        if self.job.running is None:
            self._launch()
        last = self.step + steps
        for saved in range(self.step - self.step % save_every + save_every, last + 1, save_every):
            self._step_to(saved)
            self._save()
        self._step_to(last)
        return self

    def evaluate(self, *, completed: bool = True) -> PastJob:
        """Start the evaluation after the last step, and complete it."""
        with self._after(2).changing_job() as job:
            job.start_evaluation(job.segment, self.step)
        if completed:
            self._evaluated(0, 2.61, 0.47)
            loss = loss_at(self.step, self.total_steps) + 0.06
            result = evaluation_result(
                2.61, loss, 64, 9_870, accuracy_before=0.47, accuracy_after=0.68
            )
            with self._after(30).changing_job() as job:
                job.complete_evaluation(job.segment, result, peak_memory_bytes=self.peak_bytes)
        return self

    def register(self) -> PastJob:
        """Register the model."""
        with self._after(1).changing_job() as job:
            job.register(job.segment, f"jobs/{self.id}/adapter", ADAPTER_SHA256)
        return self.end(SegmentEnd.COMPLETED)

    def request_pause(self) -> PastJob:
        self._after(1).pause()
        return self

    def pause(self) -> PastJob:
        self.request_pause()._save()
        return self.end(SegmentEnd.STOPPED)

    def request_cancel(self) -> PastJob:
        self._after(1).cancel()
        return self

    def cancel(self) -> PastJob:
        self.request_cancel()._save()
        return self.end(SegmentEnd.STOPPED)

    def exhaust_balance(self) -> PastJob:
        """Pause the job because the balance is used up, partly by another job."""
        self._save()
        self.end(SegmentEnd.LEASE_ENDED, shortfall=PauseReason.BALANCE)
        with self._command("spend"):
            account = self.history.account
            rest = account.available_micros
            account.settle(captured_micros=rest, reserved_micros=rest, second_micros=1)
            self.backend.log.commit(account)
        return self

    def reach_max_cost(self) -> PastJob:
        """Pause the job because its charges reach its maximum cost."""
        self._save()
        self.end(SegmentEnd.LEASE_ENDED, shortfall=PauseReason.MAX_COST)
        meter = self.history.meter(self.job.segment)
        with self._after(1).changing_job() as job:
            job.change_max_cost(meter.committed_micros)
        return self

    def promote(self) -> PastJob:
        """Promote the last checkpoint of the cancelled job to a model."""
        self._after(60).promote()
        return self

    def lose_capacity(self) -> PastJob:
        """Pause the queued job because its region has too few GPUs."""
        with self._after(1).changing_job() as job:
            job.lose_capacity()
        return self

    def crash(self, failure: FailureClass, shortage: MemoryShortage | None = None) -> PastJob:
        """End the segment with a failure after which the job continues from its checkpoint."""
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
        """Fail the job, with the last output of its trainer."""
        ref = f"jobs/{self.id}/logs/segment-{self.job.segment}.log"
        self.backend.artifacts.put(ref, output.encode())
        return self.end(
            SegmentEnd.CRASHED,
            failure=failure,
            error_class=error_class,
            log_ref=ref,
            shortage=shortage,
        )

    def end(self, reason: SegmentEnd, **fields: object) -> PastJob:
        """End the segment, settle its meter and release its GPUs."""
        elapsed = self._elapsed_seconds
        phases = {Phase.MODEL_LOAD: LOADING_SECONDS, Phase.TRAINING: elapsed - LOADING_SECONDS}
        history, segment = self._after(1), self.job.segment
        history.end_segment(segment, reason, elapsed, phase_seconds=phases, **fields)  # type: ignore[arg-type]
        return self

    def log(self, text: str, level: str = "INFO") -> None:
        """Add a line to the trainer's log."""
        self.lines += 1
        line = LogLine(
            account_id=self.account_id,
            job_id=self.id,
            segment=self.job.segment,
            n=self.lines,
            level=level,
            text=text,
            logged_at=self.now,
        )
        with self.backend.pool.connection() as connection:
            add_log_line(connection, line)

    def add_steps(self, last: int) -> None:
        """Add measurements of all steps up to the last one, directly to their table."""
        segment, first, began = self.job.segment, self.step + 1, self.now
        with (
            self.backend.pool.connection() as connection,
            connection.cursor().copy(f"COPY step_measurements ({STEP_COLUMNS}) FROM STDIN") as copy,
        ):
            for step in range(first, last + 1):
                at = began + timedelta(seconds=(step - first + 1) * STEP_SECONDS)
                loss = self._measured_loss(step)
                self.smoothed[step] = self.smoothed[step - 1].after(loss, self.total_steps)
                copy.write_row(
                    (
                        *(self.id, step, segment, loss, self.smoothed[step].value),
                        2e-4 * (1 + math.cos(math.pi * step / self.total_steps)) / 2,
                        STEP_TOKENS * step,
                        STEP_TOKENS / STEP_SECONDS + self.random.gauss(0, 30),
                        (at - self.began).total_seconds(),
                        at,
                        *(self.peak_bytes, *self._gpu_use()),
                    )
                )
        self.step = last

    def _gpu_use(self) -> tuple[float | None, int | None]:
        """Return the utilization and memory of a job on GPUs, of which a CPU has none."""
        if self.plan.gpu_type.startswith("cpu"):
            return None, None
        return 0.97, self.peak_bytes * self.plan.gpu_count

    def _launch(self) -> None:
        segment = self.job.segment + 1
        self._after(1).allocate_segment(segment)
        self.history.grant_lease(segment)
        history = self._after(1)
        self.began = self.now
        history.start_pod(segment, bound_at=self.now)
        self.log(f"loading {self.plan.base_model}")
        self._after(LOADING_SECONDS).start_training(segment, self.step, self.total_steps)
        self.log(f"training {self.total_steps} steps of 16 examples")

    def _step_to(self, last: int) -> None:
        if last <= self.step:
            return
        seconds = (last - self.step) * STEP_SECONDS
        self.add_steps(last)
        self.now += timedelta(seconds=seconds)
        self.log(f"step {last}/{self.total_steps} loss {self._measured_loss(last):.4f}")
        self._bill()

    def _bill(self) -> None:
        """Post the elapsed minutes, and extend the lease as far as the balance pays."""
        with self._command("bill"):
            account: Account = self.history.account
            meter, elapsed = self.history.meter(self.job.segment), self._elapsed_seconds
            charge = meter.post_minutes(elapsed, MINUTE_SECONDS)
            affordable = account.available_micros * 3600 // meter.rate_micros_per_hour
            seconds = min(elapsed + LEASE_SECONDS - meter.paid_seconds, affordable)
            reserved = meter.extend_lease(seconds) if seconds > 0 else 0
            account.settle(captured_micros=charge, reserved_micros=reserved)
            self.backend.log.commit(account, meter)

    def _save(self) -> None:
        loss = loss_at(self.step, self.total_steps)
        self._evaluated(self.step, loss + 0.08, 0.72 - loss / 10)
        self._after(1).save_checkpoint(
            self.job.segment,
            self.step,
            self._elapsed_seconds,
            self._measured_loss(self.step),
            ref=f"jobs/{self.id}/checkpoints/{self.job.segment}/step-{self.step}",
            total_bytes=SAVED_BYTES,
            state=STATE,
            eval_loss=loss + 0.08,
        )
        self.log(f"checkpoint step={self.step} saved")

    def _evaluated(self, step: int, loss: float, accuracy: float) -> None:
        self.now += timedelta(seconds=EVALUATION_SECONDS)
        measured = EvaluationMeasured(
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
        )
        with self.backend.pool.connection() as connection:
            add_evaluation(connection, measured)

    def _after(self, seconds: float) -> History:
        """Let time pass, and return the history to continue."""
        self.now += timedelta(seconds=seconds)
        return self.history

    @contextmanager
    def _command(self, _: str) -> Iterator[None]:
        with because(Cause(f"account:{self.account_id}", str(uuid4()), self.now)):
            yield

    @property
    def _elapsed_seconds(self) -> int:
        return int((self.now - self.began).total_seconds())

    def _measured_loss(self, step: int) -> float:
        """Training loss of a step with noise, nats. It depends only on seed and step."""
        noise = Random(f"{self.seed} {step}").gauss(0, 0.11)
        return loss_at(step, self.total_steps) + noise


def loss_at(step: int, total_steps: int) -> float:
    """Training loss without noise, nats. It falls quickly at first, then slowly."""
    return 1.12 + 1.45 * math.exp(-9 * step / max(1, total_steps)) - 0.12 * step / total_steps
