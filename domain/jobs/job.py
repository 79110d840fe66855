"""A fine-tuning job, and its rules from the approval to the registration of the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.actor import acting_key
from domain.core.aggregate import Aggregate, current_cause
from domain.core.errors import Invalid, StaleSegment, WrongState
from domain.core.money import Toward, dollars, price_micros, seconds_within
from domain.estimating.estimate import Estimate
from domain.jobs import events, lifecycle
from domain.jobs.checkpoints import Checkpoints
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer
from domain.jobs.guarantee import Guarantee
from domain.jobs.lifecycle import Command, Effect, JobStatus, PauseReason, SegmentEnd
from domain.jobs.segments import RunningSegment, SegmentEnding
from domain.jobs.usage import MeasuredSteps, PaidTime, Usage
from domain.training.checkpoint import (
    KEPT_NEWEST,
    RejectionReason,
    ResumeCertificate,
    SavedCheckpoint,
    is_newer,
    superfluous,
)
from domain.training.early_stopping import EarlyStop
from domain.training.evaluation import EvaluationResult
from domain.training.perplexity import perplexity
from domain.training.training_plan import Order, TrainingPlan

RELAUNCH_DELAYS = (timedelta(0), timedelta(seconds=30), timedelta(minutes=5))
"""Delays before relaunches after failures. A later checkpoint restarts the sequence."""

RELAUNCH_LIMIT = len(RELAUNCH_DELAYS)

PATIENCE = 3
"""Number of consecutive evaluations without a new lowest held-out loss that suggests overfitting.
"""

MODEL_DELETED = "You deleted the job's model permanently. Start a new job."


@dataclass(frozen=True)
class Model:
    """The adapter of a job, and the public name of the model."""

    name: str
    adapter_ref: str
    manifest_sha256: str


class Job(Aggregate):
    """A fine-tuning job. `domain.jobs.lifecycle` defines how each state handles each command."""

    TOPIC: ClassVar[str] = "Job"
    Event = events.JobEvent

    # Approval

    @classmethod
    def approve(
        cls,
        job_id: UUID,
        account_id: UUID,
        plan: TrainingPlan,
        estimate: Estimate,
        order: Order = Order(),
        guarantee_factor: float = 0,
    ) -> Job:
        """Return an approved job, which is queued. Its maximum cost must pay for a second.

        Charges stop at the estimate's upper bound. The job pauses after `guarantee_factor` times
        its time; 0 turns both off.
        """
        _require_a_second(order.max_cost_micros, plan.rate_micros_per_hour)
        return cls._create(
            events.JobApproved,
            id=job_id,
            account_id=account_id,
            plan=plan,
            estimate=estimate,
            guarantee=Guarantee.of(estimate, guarantee_factor),
            **dict(order),
        )

    @event(events.JobApproved)
    def __init__(self, event: events.JobApproved) -> None:
        self.account_id = event.account_id
        self.approver = event.actor  # actor of the approval or the last resume
        self.plan = event.plan
        self.estimate = event.estimate
        self.order = event.part(Order)
        # The job pauses before its charges exceed this; None: no maximum.
        self.max_cost_micros = self.order.max_cost_micros
        self.guarantee = event.guarantee
        self.status = JobStatus.TRAINING
        self.rate_micros_per_hour = event.plan.rate_micros_per_hour
        # Balance that the last approval or resume required.
        self.gate_micros = event.estimate.high_micros
        self.gpu_count = event.plan.gpu_count  # of the running segment, or of the next one
        self.segment = 0  # number of the newest segment
        self.running: RunningSegment | None = None
        self.usage = Usage()
        self.measured = MeasuredSteps()  # on the current number of GPUs
        self.began_step = 0  # step after which the newest segment started training
        self.step = 0
        self.total_steps = 0  # 0: not known yet; after an early stop: the number of trained steps
        self.stopped_early: EarlyStop | None = None
        # Number of parts into which a micro-batch is split so that it fits.
        self.micro_batch_split = 1
        self.checkpoints = Checkpoints()
        # Lowest loss of all checkpoints, including deleted ones.
        self.best_step, self.best_eval_loss = 0, inf
        self.stalls = 0  # number of evaluated checkpoints since the best one
        self.furthest_step = 0  # furthest step of all saved checkpoints
        self.crashes = 0  # number of failures since that step was saved
        self.relaunch_at: datetime | None = None  # earliest time of the next launch
        self.pause_requested: PauseReason | None = None
        self.resumed = False  # True: not paused since the last resume
        self.retention: timedelta | None = None  # set while a running segment is being cancelled
        self.expires_at: datetime | None = None  # time at which EcoLink deletes the checkpoints
        self.expired = False
        self.model: Model | None = None
        self.model_deleted = False

    def change_max_cost(self, max_cost_micros: int | None) -> None:
        """Change or remove the maximum cost of an unfinished job. Granted leases stay valid."""
        if self.status.is_final:
            raise WrongState(
                f"The job is {self.status}. You can change the maximum cost of an unfinished job "
                "only."
            )
        _require_a_second(max_cost_micros, self.rate_micros_per_hour)
        if max_cost_micros != self.max_cost_micros:
            self.trigger_event(events.MaxCostChanged, max_cost_micros=max_cost_micros)

    @event(events.MaxCostChanged)
    def _max_cost_changed(self, max_cost_micros: int | None) -> None:
        self.max_cost_micros = max_cost_micros

    # Queries

    @property
    def key_id(self) -> UUID | None:
        """API key that approved or last resumed the job; the next segment counts against it."""
        return acting_key(self.approver)

    def left_of_max_cost(self, committed_micros: int) -> int | None:
        """Return what the charges leave of the maximum cost, at least 0; None without one."""
        if self.max_cost_micros is None:
            return None
        return max(0, self.max_cost_micros - committed_micros)

    @property
    def pauses_at_max_cost(self) -> bool:
        """True if the maximum cost is below the guarantee, at which charges stop."""
        return self.max_cost_micros is not None and (
            self.guarantee is None or self.max_cost_micros < self.guarantee.micros
        )

    def left_of_guarantee(self, committed_micros: int) -> int | None:
        """Return the micro-dollars that may still be charged, at least 0; None: no guarantee."""
        return self.guarantee and max(0, self.guarantee.micros - committed_micros)

    @property
    def left_seconds(self) -> int | None:
        """Seconds that the next or running segment may take under the guarantee; None: no limit."""
        return self.guarantee and max(0, self.guarantee.seconds - self.usage.paid_seconds)

    @property
    def next_segment(self) -> int | None:
        """Number of the segment for which the job needs GPUs; None if it needs none."""
        if self.status.is_final or self.status is JobStatus.PAUSED or self.running is not None:
            return None
        return self.segment + 1

    @property
    def cancel_requested(self) -> bool:
        """True if the running segment must end because the owner cancelled the job."""
        return self.running is not None and self.retention is not None

    @property
    def stop_requested(self) -> bool:
        """True if the running segment must save a checkpoint and exit at the owner's request."""
        return self.running is not None and (
            self.retention is not None or self.pause_requested is not None
        )

    @property
    def trained(self) -> bool:
        """True if a checkpoint includes all training steps. Only the evaluation remains."""
        return 0 < self.total_steps <= self.checkpoints.step

    @property
    def model_name(self) -> str:
        """Name of the model that the job produces."""
        parts = ("ft", self.plan.base_model, self.order.suffix, self.id.hex[:12])
        return ":".join(part for part in parts if part)

    def runs(self, segment: int) -> bool:
        """Return True if this segment is the running one."""
        return self.running is not None and self.running.number == segment

    @property
    def pod(self) -> str | None:
        """Pod of the running segment; None until the launcher has started it."""
        return None if self.running is None else self.running.pod

    def may_launch(self, now: datetime) -> bool:
        """Return True unless the next launch is delayed until after `now`."""
        return self.relaunch_at is None or self.relaunch_at <= now

    def launch_micros(self, minute_seconds: int) -> int:
        """Return the balance that a launch requires: the price of one metered minute.

        The unit is micro-dollars. With a lower balance, the job would run out of money while it
        loads the model, and EcoLink would relaunch it for every cent of a top-up. If the last
        approval or resume required less than the price of a minute, a launch requires only that
        amount.
        """
        minute = price_micros(self.rate_micros_per_hour, minute_seconds)
        return min(minute, max(1, self.gate_micros))

    # Start and training of a segment

    def allocate_segment(self, segment: int) -> None:
        """Start the next segment at the rate of the approval or of the last resume."""
        if segment != self.next_segment:
            raise StaleSegment(f"Segment {segment} is not the next segment of this job.")
        self.trigger_event(
            events.SegmentAllocated, segment=segment, rate_micros_per_hour=self.rate_micros_per_hour
        )

    @event(events.SegmentAllocated)
    def _segment_allocated(self, segment: int) -> None:
        self.segment = segment
        self.running = RunningSegment(segment)
        self.relaunch_at = None

    def start_pod(
        self, segment: int, pod: str, bound_at: datetime, host: str | None = None
    ) -> None:
        """Record once that the launcher started the segment's pod, and on which host."""
        if self._require_running(segment).pod is None:
            self.trigger_event(
                events.PodStarted, segment=segment, pod=pod, bound_at=bound_at, host=host
            )

    @event(events.PodStarted)
    def _pod_started(self, segment: int, pod: str, host: str | None) -> None:
        self.running = replace(self._require_running(segment), pod=pod, host=host)

    def reject_checkpoint(self, segment: int, ref: str, reason: RejectionReason) -> None:
        """Discard a checkpoint, if it exists, that the running segment could not use.

        The segment wanted to resume from it, or to register it as the best state.
        """
        self._require_running(segment)
        lost = self.checkpoints.find(ref)
        if lost is None:
            return
        rest = self.checkpoints.without(ref)
        work_is_lost = lost is self.checkpoints.newest
        self.trigger_event(
            events.CheckpointRejected,
            segment=segment,
            step=lost.step,
            ref=ref,
            reason=reason,
            saved_in=lost.segment,
            kept_seconds=rest.saved_seconds(lost.segment) if work_is_lost else None,
        )

    @event(events.CheckpointRejected)
    def _checkpoint_rejected(self, ref: str, kept_seconds: int | None) -> None:
        self.checkpoints = self.checkpoints.without(ref)
        self.step = self.checkpoints.step
        if kept_seconds is not None:
            self.usage = self.usage.until(self.checkpoints.newest)

    def certify_resume(self, segment: int, certificate: ResumeCertificate) -> None:
        """Record once per segment that it restored the state of its checkpoint.

        Raise Invalid if the job has no such checkpoint, or if the restored state differs from the
        saved state.
        """
        if self._require_running(segment).certified:
            return
        saved = self.checkpoints.find(certificate.ref)
        if saved is None or saved.step != certificate.step:
            raise Invalid(
                f"The job has no checkpoint {certificate.ref} of step {certificate.step:,}.",
                field="resumed.ref",
            )
        compared = saved.state or certificate.state
        differing = set(certificate.state.differing(compared)) - set(certificate.unchecked)
        if differing:
            raise Invalid(
                f"The restored state differs from {certificate.ref}: "
                f"{', '.join(sorted(differing))}.",
                field="resumed.state",
            )
        self.trigger_event(events.ResumeCertified, segment=segment, **dict(certificate))

    @event(events.ResumeCertified)
    def _resume_certified(self, segment: int) -> None:
        self.running = replace(self._require_running(segment), certified=True)

    def start_training(
        self, segment: int, step: int, total_steps: int, train_examples: int, eval_examples: int
    ) -> None:
        """Record once per segment that it started training after `step`."""
        if not self._require_running(segment).trains:
            self.trigger_event(
                events.TrainingStarted,
                segment=segment,
                step=step,
                total_steps=total_steps,
                train_examples=train_examples,
                eval_examples=eval_examples,
            )

    @event(events.TrainingStarted)
    def _training_started(self, segment: int, step: int, total_steps: int) -> None:
        if step < total_steps:  # a job that has trained all steps keeps its status
            self.status = JobStatus.TRAINING
            self.stopped_early = None  # a resume from an earlier checkpoint repeats the stop
        self.running = replace(self._require_running(segment), trains=True)
        self.step, self.total_steps = step, total_steps
        self.began_step = step

    def save_checkpoint(self, saved: SavedCheckpoint) -> None:
        """Record a durable checkpoint. Ignore it if it is not newer than the last one."""
        self._require_running(saved.segment)
        if is_newer(saved, self.checkpoints.newest):
            stalls = self.stalls
            self.trigger_event(events.CheckpointSaved, **dict(saved))
            if stalls < PATIENCE == self.stalls:
                self.trigger_event(
                    events.OverfittingSuspected,
                    segment=saved.segment,
                    step=saved.step,
                    eval_loss=saved.eval_loss,
                    best_step=self.best_step,
                    best_eval_loss=self.best_eval_loss,
                )

    @event(events.CheckpointSaved)
    def _checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        self.checkpoints = self.checkpoints.including(event.part(SavedCheckpoint))
        self.step = event.step
        if event.eval_loss is not None and event.step > self.furthest_step:
            if event.eval_loss < self.best_eval_loss:
                self.best_step, self.best_eval_loss, self.stalls = event.step, event.eval_loss, 0
            else:
                self.stalls += 1
        elif event.eval_loss is not None and event.eval_loss < self.best_eval_loss:
            # The evaluation of a step that an earlier checkpoint had saved without it.
            self.best_step, self.best_eval_loss, self.stalls = event.step, event.eval_loss, 0
        if event.step > self.furthest_step:
            self.crashes, self.furthest_step = 0, event.step

    def prune_checkpoints(self, in_use: Collection[str] = ()) -> None:
        """Discard checkpoints that are neither needed nor `in_use` (deployed or continued)."""
        newest = self.plan.lora.n_checkpoints or 1
        if self.model is None:
            newest = max(newest, KEPT_NEWEST)
        kept = [*in_use, *([self.model.adapter_ref] if self.model else [])]
        for each in superfluous(self.checkpoints, newest, kept):
            self.trigger_event(events.CheckpointPruned, step=each.step, ref=each.ref)

    @event(events.CheckpointPruned)
    def _checkpoint_pruned(self, ref: str) -> None:
        self.checkpoints = self.checkpoints.without(ref)

    # Evaluation and registration

    def stop_early(self, segment: int, stop: EarlyStop) -> None:
        """Record that training ended before its last step. Repeated calls have no effect."""
        self._require_running(segment)
        if self.status is JobStatus.TRAINING and self.stopped_early is None:
            self.trigger_event(events.TrainingStoppedEarly, segment=segment, **dict(stop))

    @event(events.TrainingStoppedEarly)
    def _training_stopped_early(self, event: events.TrainingStoppedEarly) -> None:
        self.stopped_early = event.part(EarlyStop)
        self.step = self.total_steps = event.step

    def start_evaluation(self, segment: int, step: int) -> None:
        """Start, once, the evaluation phase of the running segment at `step`."""
        self._require_running(segment)
        if self.status is JobStatus.TRAINING:
            self.trigger_event(events.EvaluationStarted, segment=segment, step=step)

    @event(events.EvaluationStarted)
    def _evaluation_started(self, step: int) -> None:
        self.status = JobStatus.EVALUATING
        self.step = step

    def complete_evaluation(
        self, segment: int, result: EvaluationResult, peak_memory_bytes: int | None = None
    ) -> None:
        """Record the result of the evaluation. Repeated calls have no effect."""
        self._require_running(segment)
        if self.status is JobStatus.EVALUATING:
            self.trigger_event(
                events.EvaluationCompleted,
                segment=segment,
                perplexity_before=perplexity(result.loss_before),
                perplexity_after=perplexity(result.loss_after),
                peak_memory_bytes=peak_memory_bytes,
                **dict(result),
            )

    @event(events.EvaluationCompleted)
    def _evaluation_completed(self, loss_after: float, final_loss: float | None) -> None:
        self.status = JobStatus.TRAINED_PENDING_REGISTER
        scored = loss_after if final_loss is None else final_loss
        self.checkpoints = self.checkpoints.scored(self.total_steps, scored)

    def register(self, segment: int, adapter_ref: str, manifest_sha256: str) -> None:
        """Register the adapter as a model. Raise WrongState if the job is being cancelled."""
        self._require_running(segment)
        if self.cancel_requested:
            raise WrongState(lifecycle.CANCEL_PENDING)
        if self.status is not JobStatus.TRAINED_PENDING_REGISTER:
            raise WrongState(f"The job is {self.status}, not trained_pending_register.")
        self.trigger_event(
            events.Registered,
            segment=segment,
            model=self.model_name,
            adapter_ref=adapter_ref,
            manifest_sha256=manifest_sha256,
        )

    @event(events.Registered)
    def _registered(self, model: str, adapter_ref: str, manifest_sha256: str) -> None:
        self.status = JobStatus.REGISTERED
        self.model = Model(model, adapter_ref, manifest_sha256)

    # End of a segment

    def end_segment(
        self,
        segment: int,
        ending: SegmentEnding,
        *,
        shortfall: PauseReason | None = None,
        overran: bool = False,
    ) -> None:
        """End the running segment, and pause, cancel, fail or relaunch the job.

        `shortfall` is the reason why the job cannot be launched again, such as that it cannot be
        paid, or None if it can.
        `overran` is true if the trainer did not save a checkpoint within the paid time and the
        grace period.
        """
        self._require_running(segment)
        crashed = ending.reason is SegmentEnd.CRASHED
        failure = ending.failure or FailureClass.TRAINER_CRASHED
        ending = ending.model_copy(update={"failure": failure if crashed else None})
        work_is_lost = overran or self._platform_pays(ending)
        elapsed = ending.elapsed_seconds
        self.trigger_event(
            events.SegmentEnded,
            segment=segment,
            kept_seconds=self.checkpoints.saved_seconds(segment) if work_is_lost else elapsed,
            **dict(ending),
        )
        self._conclude(ending, shortfall)

    def _platform_pays(self, ending: SegmentEnding) -> bool:
        """Return True if the platform pays for the time after the last checkpoint."""
        if ending.reason is SegmentEnd.STOPPED:
            return not self.stop_requested
        return ending.failure is not None and FAILURES[ending.failure].payer is Payer.PLATFORM

    @event(events.SegmentEnded)
    def _segment_ended(self, event: events.SegmentEnded) -> None:
        self.running = None
        self.crashes += event.reason is SegmentEnd.CRASHED
        # The next segment repeats the evaluation.
        if self.status is JobStatus.TRAINED_PENDING_REGISTER:
            self.status = JobStatus.EVALUATING
        if self.status is not JobStatus.REGISTERED:
            self.step = self.checkpoints.step
        seconds = max(0, min(event.kept_seconds, event.elapsed_seconds - event.grace_seconds))
        limit = self.left_of_guarantee(self.usage.paid_micros)
        paid = PaidTime(self.rate_micros_per_hour, seconds, limit)
        self.usage = self.usage.after(event.segment, paid, event)
        saved = self.checkpoints.newest
        if saved is not None and saved.segment == event.segment:
            steps = saved.step - self.began_step
            self.measured = self.measured.after(steps, saved.elapsed_seconds, event)

    def _conclude(self, ending: SegmentEnding, shortfall: PauseReason | None) -> None:
        """Trigger the event that follows the end of a segment. A relaunch needs no event."""
        failure = ending.failure
        if self.status is JobStatus.REGISTERED:
            self._score_estimate()
        elif self.retention is not None:
            self._cancel(self.retention)
        elif failure is not None and not self._is_retried(failure, ending.shortage):
            self.trigger_event(
                events.JobFailed,
                error_class=ending.error_class or "ProcessLost",
                log_ref=ending.log_ref,
                failure=failure,
            )
        elif self.pause_requested is not None:
            self._pause(self.pause_requested)
        elif shortfall is not None:
            self._pause(shortfall)
        # EcoLink relaunches a job with a halved batch without a delay.
        elif failure is not None and ending.shortage is None:
            self._postpone_relaunch()

    def _is_retried(self, failure: FailureClass, shortage: MemoryShortage | None) -> bool:
        """Return True if EcoLink relaunches the job. The job halves a batch that did not fit once.

        A single example cannot be split. The micro batch size does not matter, because the trainer
        batches short examples together.
        """
        if self.crashes > RELAUNCH_LIMIT:
            return False
        chosen = self.plan.lora
        if shortage is None or self.micro_batch_split > 1 or shortage.rows == 1:
            return FAILURES[failure].retried
        self.trigger_event(
            events.MicroBatchHalved,
            micro_batch_size=-(-chosen.micro_batch_size // 2),
            gradient_accumulation=min(2, chosen.micro_batch_size) * chosen.gradient_accumulation,
        )
        return True

    @event(events.MicroBatchHalved)
    def _micro_batch_halved(self) -> None:
        self.micro_batch_split = 2

    def _postpone_relaunch(self) -> None:
        if delay := RELAUNCH_DELAYS[self.crashes - 1]:
            self.trigger_event(events.RelaunchPostponed, until=current_cause().now + delay)

    @event(events.RelaunchPostponed)
    def _relaunch_postponed(self, until: datetime) -> None:
        self.relaunch_at = until

    def _score_estimate(self) -> None:
        approved = self.estimate
        self.trigger_event(
            events.EstimateScored,
            low_seconds=approved.low_seconds,
            high_seconds=approved.high_seconds,
            low_micros=approved.low_micros,
            high_micros=approved.high_micros,
            actual_seconds=self.usage.paid_seconds,
            actual_micros=self.usage.price_micros,
            phase_seconds=dict(self.usage.phase_seconds),
            segments=self.usage.segments,
            precision=self.plan.precision,
            base_model=self.plan.base_model,
            gpu_type=self.plan.gpu_type,
            gpu_count=self.gpu_count,
        )

    @event(events.JobFailed)
    def _job_failed(self) -> None:
        self.status = JobStatus.FAILED

    # Pause and resume

    def pause(self) -> None:
        """Pause the job at its owner's request. A running segment saves first."""
        if self.cancel_requested:
            raise WrongState(lifecycle.CANCEL_PENDING)
        if self.stop_requested or (
            lifecycle.require(self.status, Command.PAUSE) is Effect.UNCHANGED
        ):
            return
        self._begin_pause(PauseReason.OWNER)

    def suspend(self) -> None:
        """Pause a suspended account's job after a save, unless it registers its adapter."""
        pauses = lifecycle.rule(self.status, Command.PAUSE).effect is Effect.PAUSES
        if pauses and not self.stop_requested:
            self._begin_pause(PauseReason.SUSPENDED)

    def _begin_pause(self, reason: PauseReason) -> None:
        if self.running is not None:
            self.trigger_event(events.PauseRequested, reason=reason)
        else:
            self._pause(reason)

    @event(events.PauseRequested)
    def _pause_requested(self, reason: PauseReason) -> None:
        self.pause_requested = reason

    def deplete(self, shortfall: PauseReason = PauseReason.BALANCE) -> None:
        """Pause a queued job that cannot be paid. A running segment ends with its lease."""
        effect = lifecycle.require(self.status, Command.DEPLETE)
        if effect is not Effect.UNCHANGED and self.running is None:
            self._pause(shortfall)

    def lose_capacity(self) -> None:
        """Pause a queued job that needs more GPUs than its region has."""
        if self.next_segment is not None:
            self._pause(PauseReason.CAPACITY)

    def _pause(self, reason: PauseReason) -> None:
        self.trigger_event(events.JobPaused, reason=reason, step=self.step)

    @event(events.JobPaused)
    def _job_paused(self) -> None:
        self.status = JobStatus.PAUSED
        self.pause_requested = None
        self.resumed = False

    def must_resume(self) -> bool:
        """Return False if the job was already resumed. Raise WrongState if it is not paused."""
        if self.cancel_requested:
            raise WrongState(lifecycle.CANCEL_PENDING)
        if self.stop_requested:
            raise WrongState(lifecycle.PAUSE_PENDING)
        effect = lifecycle.require(self.status, Command.RESUME, repeated=self.resumed)
        return effect is Effect.RESUMES

    def resume(
        self,
        estimate: Estimate,
        rate_micros_per_hour: int,
        catalog_version: str,
        gpu_count: int,
        guarantee: Guarantee | None = None,
    ) -> None:
        """Resume from the last checkpoint, at a new rate and an estimate of the rest, once."""
        if self.must_resume():
            self.trigger_event(
                events.JobResumed,
                rate_micros_per_hour=rate_micros_per_hour,
                catalog_version=catalog_version,
                estimate=estimate,
                guarantee=guarantee,
                gpu_count=gpu_count,
            )

    @event(events.JobResumed)
    def _job_resumed(
        self,
        actor: str,
        rate_micros_per_hour: int,
        estimate: Estimate,
        gpu_count: int,
        guarantee: Guarantee | None,
    ) -> None:
        self.approver = actor
        self.status = JobStatus.EVALUATING if self.trained else JobStatus.TRAINING
        self.rate_micros_per_hour = rate_micros_per_hour
        if gpu_count != self.gpu_count:
            self.measured = MeasuredSteps()
        self.gpu_count = gpu_count
        self.gate_micros = estimate.high_micros
        self.guarantee = guarantee
        self.resumed = True
        self.relaunch_at = None

    # Cancellation, promotion, expiry and deletion

    def cancel(self, retention: timedelta) -> None:
        """Cancel the job. Keep its checkpoints for the retention time."""
        effect = lifecycle.require(self.status, Command.CANCEL)
        if effect is Effect.UNCHANGED or self.cancel_requested:
            return
        if self.running is not None:
            seconds = int(retention.total_seconds())
            self.trigger_event(events.CancelRequested, retention_seconds=seconds)
        else:
            self._cancel(retention)

    @event(events.CancelRequested)
    def _cancel_requested(self, retention_seconds: int) -> None:
        self.retention = timedelta(seconds=retention_seconds)

    def _cancel(self, retention: timedelta) -> None:
        saved = self.checkpoints.newest
        self.trigger_event(
            events.JobCancelled,
            step=self.step,
            checkpoint_ref=saved.ref if saved else None,
            manifest_sha256=saved.manifest_sha256 if saved else None,
            expires_at=current_cause().now + retention if saved else None,
        )

    @event(events.JobCancelled)
    def _job_cancelled(self, expires_at: datetime | None) -> None:
        self.status = JobStatus.CANCELLED
        self.expires_at = expires_at

    @property
    def retention_ended(self) -> bool:
        """True if the retention time of a cancelled job has ended."""
        return self.expired or (
            self.expires_at is not None and current_cause().now >= self.expires_at
        )

    def promote(self) -> None:
        """Register the last checkpoint of a cancelled or failed job as a model.

        The owner paid for the checkpoints of a failed job, so they never expire. Raise WrongState
        if the job has another state or no checkpoint.
        """
        if self.status not in (JobStatus.CANCELLED, JobStatus.FAILED):
            raise WrongState(
                f"The job is {self.status}. You can promote only a cancelled or failed job."
            )
        if self.model_deleted:
            raise WrongState(MODEL_DELETED)
        saved = self.checkpoints.newest
        if saved is None:
            raise WrongState(
                "The job ended before its first checkpoint, so there is nothing to promote. "
                "Start a new job."
            )
        if self.model is not None:
            return
        if self.retention_ended:
            raise WrongState(
                f"EcoLink kept the job's checkpoints until {self.expires_at:%Y-%m-%d %H:%M} "
                "UTC. Start a new job."
            )
        self.trigger_event(
            events.AdapterPromoted,
            model=self.model_name,
            adapter_ref=saved.ref,
            manifest_sha256=saved.manifest_sha256,
        )

    @event(events.AdapterPromoted)
    def _adapter_promoted(self, model: str, adapter_ref: str, manifest_sha256: str) -> None:
        self.model = Model(model, adapter_ref, manifest_sha256)

    def expire_adapter(self) -> None:
        """Discard the checkpoints of a cancelled job whose retention time has ended."""
        saved = self.checkpoints.newest
        if saved is None or self.model is not None or self.expired or not self.retention_ended:
            return
        self.trigger_event(
            events.AdapterExpired, adapter_ref=saved.ref, manifest_sha256=saved.manifest_sha256
        )

    @event(events.AdapterExpired)
    def _adapter_expired(self) -> None:
        self.expired = True

    def delete_model(self) -> None:
        """Delete the model and all checkpoints, once. Raise WrongState if the job has no model."""
        if self.model_deleted:
            return
        if self.model is None:
            raise WrongState(f"The job is {self.status} and has no model to delete.")
        self.trigger_event(
            events.ModelDeleted,
            model=self.model.name,
            adapter_ref=self.model.adapter_ref,
            manifest_sha256=self.model.manifest_sha256,
        )

    @event(events.ModelDeleted)
    def _model_deleted(self) -> None:
        self.model_deleted = True
        self.model = None
        self.checkpoints = Checkpoints()

    def _require_running(self, segment: int) -> RunningSegment:
        """Return the running segment. Raise StaleSegment unless it is `segment`."""
        if self.running is None or self.running.number != segment:
            raise StaleSegment(f"Segment {segment} is not the running segment ({self.segment}).")
        return self.running


def _require_a_second(max_cost_micros: int | None, rate_micros_per_hour: int) -> None:
    """Raise Invalid if a maximum cost does not pay for one second."""
    if max_cost_micros is None:
        return
    if max_cost_micros < 0 or seconds_within(max_cost_micros, rate_micros_per_hour) == 0:
        second = price_micros(rate_micros_per_hour, 1)
        raise Invalid(
            f"The maximum cost is {dollars(max_cost_micros)}, but a second of the job costs "
            f"{dollars(second, Toward.UP)}. Enter a higher amount.",
            field="max_cost",
        )
