"""Job events derived from the reports and exits of segments."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from uuid import UUID

from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Cause, because
from domain.core.errors import DomainError, Invalid, NotFound, StaleSegment
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from domain.jobs.segments import SegmentEnding
from infrastructure.artifacts.store import STORE_ERRORS, ArtifactCorrupt, Artifacts
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings
from infrastructure.training.customer_log import customer_lines
from infrastructure.training.job_artifacts import job_prefix, kept_log_ref
from infrastructure.training.reports import Phase, Report
from services.scheduler.control import ControlChannel
from services.scheduler.documents import document
from services.scheduler.funding import Funding
from services.scheduler.job_traces import TrainerSpans, in_trace_of
from services.scheduler.launchers.launcher import Launcher, PodName
from services.scheduler.retention import delete_unnamed

LOG_TAIL_LINES = 50
HEARTBEATS = ("report ", "checkpoint ")  # starts of lines without information about a failure
MAX_LOG_BYTES = 1024**2

# Exit codes of the trainer's watchdog. An overrun, with paid time and grace used up, is not a
# failure.
OVERRUN, STALL = 4, 5

# The kernel's OOM killer, an operator and a shutdown all use SIGKILL. The scheduler treats it as a
# fault of the machine, so that it retries the job.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


class ForeignReport(Exception):
    """A report names another account, or artifacts of another job."""


def _failure_of_exit(exit_code: int | None) -> FailureClass:
    """Return the failure class of an exit without a final report. None: the process disappeared."""
    if exit_code is None or exit_code in KILLED:
        return FailureClass.NODE_LOST
    return FailureClass.TIMEOUT if exit_code == STALL else FailureClass.TRAINER_CRASHED


def _require_own(job: Job, report: Report) -> None:
    """Raise ForeignReport if a report does not belong to the job."""
    resumed = report.resumed.ref if report.resumed is not None else None
    refs = [report.adapter_ref, resumed, *(saved.ref for saved in report.checkpoints)]
    foreign = [ref for ref in refs if ref is not None and not ref.startswith(f"{job_prefix(job)}/")]
    if report.account_id != job.account_id or foreign:
        raise ForeignReport(f"The report is not of job {job.id}.")


class Segments:
    """A recorder of the progress and the end of segments. Every method is idempotent."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        launcher: Launcher,
        control: ControlChannel,
        settings: Settings,
    ) -> None:
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._launcher = launcher
        self._control = control
        self._funding = Funding(log, settings.meter_minute_seconds)
        self._known: dict[tuple[UUID, int], tuple[object, ...]] = {}
        self._trainer_spans = TrainerSpans(settings.clock_speed)
        self._logger = logging.getLogger("segments")

    def heard_of(self, name: PodName) -> bool:
        """Return True if this process has recorded a report of the segment."""
        return (name.job_id, name.segment) in self._known

    def forget(self, name: PodName) -> None:
        """Drop the state of a segment whose pod was removed."""
        self._known.pop((name.job_id, name.segment), None)
        self._trainer_spans.forget(name)
        self._control.forget(name.job_id, name.segment)

    def request_stop(self, name: PodName) -> None:
        """Ask the trainer of a segment to save a checkpoint and exit."""
        self._control.stop(name.job_id, name.segment)

    def record(self, report: Report) -> None:
        """Save a report's new events. Acknowledge final ones, but no foreign one: it is dropped."""
        key = (report.job_id, report.segment)
        news = (
            report.phase,
            report.first_step_seconds,
            report.rejected,
            report.resumed,
            report.checkpoint,
            report.stopped_early,
            report.evaluation,
            report.ending,
        )
        if self._known.get(key) == news and report.ending is None:
            return
        try:
            self._log.retrying(lambda: self._record(report))
        except ForeignReport as refusal:
            self._logger.warning("dropping a report of %s: %s", PodName(*key), refusal)
            return
        except (StaleSegment, NotFound) as refusal:
            self._logger.info("rejected a report of %s: %s", PodName(*key), refusal)
        else:
            self._trainer_spans.take(report)
        self._known[key] = news
        if report.ending is not None:
            self._control.answer(report.job_id, report.segment)

    def _record(self, report: Report) -> None:
        job = self._log.load(Job, report.job_id)
        _require_own(job, report)
        cause = self._cause(f"report:{report.job_id}:{report.segment}:{report.n}")
        with because(cause), in_trace_of(self._log, job, "process Report") as step:
            self._progress(job, report)
            starts = any(isinstance(each, events.TrainingStarted) for each in job.pending_events)
            step.kept = bool(job.pending_events) or report.ending is not None
            if report.ending is None:
                self._log.commit(job)
            else:
                self._finish(job, report.ending, report)
        if starts:
            self._trainer_spans.expect(PodName(job.id, report.segment), step.parent)

    def _progress(self, job: Job, report: Report) -> None:
        segment, phase = report.segment, report.phase
        self._resume(job, report)
        if phase in (Phase.TRAINING, Phase.EVALUATION, Phase.REGISTER):
            job.start_training(
                segment,
                # Not the step of the report, because the first report to arrive may be of a later
                # step.
                report.resumed.step if report.resumed else 0,
                report.total_steps,
                report.train_examples,
                report.eval_examples,
            )
        for saved in report.checkpoints:
            job.save_checkpoint(saved)
        if report.stopped_early is not None:
            job.stop_early(segment, report.stopped_early)
        if phase in (Phase.EVALUATION, Phase.REGISTER):
            job.start_evaluation(segment, report.step)
        if phase is Phase.REGISTER and report.evaluation is not None:
            job.complete_evaluation(segment, report.evaluation, report.peak_memory_bytes)

    def _resume(self, job: Job, report: Report) -> None:
        """Record rejected checkpoints and the resume, without an invalid certificate."""
        for rejected in report.rejected:
            job.reject_checkpoint(report.segment, rejected.ref, rejected.reason)
        if (resumed := report.resumed) is None:
            return
        try:
            job.certify_resume(report.segment, resumed)
        except Invalid as refusal:
            name = PodName(job.id, report.segment)
            self._logger.warning("rejected the certificate of %s: %s", name, refusal)

    def _finish(self, job: Job, ending: SegmentEnding, report: Report) -> None:
        # A cancelled job registers no adapter.
        if ending.reason is SegmentEnd.COMPLETED and not job.cancel_requested:
            try:
                self._register(job, report)
            except (ArtifactCorrupt, FileNotFoundError, DomainError) as error:
                self._logger.error("cannot register %s: %s", job.id, error)
                error_class = type(error).__name__
                ending = ending.model_copy(
                    update={"reason": SegmentEnd.CRASHED, "error_class": error_class}
                )
        ran_seconds = max(0, ending.elapsed_seconds - ending.grace_seconds)
        shortfall = None
        if ending.reason is SegmentEnd.LEASE_ENDED:
            shortfall = self._funding.shortfall_after_lease(job, ran_seconds)
        self._end(job, report.segment, ending, shortfall=shortfall)

    def _register(self, job: Job, report: Report) -> None:
        ref, sha256 = report.adapter_ref, report.adapter_manifest_sha256
        if ref is None or sha256 is None:
            raise ArtifactCorrupt("The final report names no adapter.")
        charged = max(0, int(report.elapsed_seconds) - int(report.grace_seconds))
        manifest = document(self._log, self._artifacts, job, ref, sha256, charged)
        job.register(report.segment, ref, manifest.sha256)

    def lose(
        self,
        name: PodName,
        elapsed_seconds: int,
        exit_code: int | None,
        phase_seconds: Mapping[Phase, float] | None = None,
        grace_seconds: int = 0,
    ) -> None:
        """End a segment whose process ended without a final report.

        If the segment overran its paid time and grace period, its lease has ended, and the unused
        part of the lease does not count as available. The known elapsed time may be too low, and
        work without a checkpoint is credited. If this credit could pay for another launch, a job
        that is too slow to save would run forever at no cost. The job is therefore paused if the
        account cannot pay without the credit.
        """
        overran = exit_code == OVERRUN
        lost_as = "ProcessLost" if exit_code is None else f"TrainerExited({exit_code})"
        ending = SegmentEnding(
            reason=SegmentEnd.LEASE_ENDED if overran else SegmentEnd.CRASHED,
            elapsed_seconds=elapsed_seconds,
            grace_seconds=grace_seconds,
            error_class=None if overran else lost_as,
            failure=None if overran else _failure_of_exit(exit_code),
            phase_seconds=dict(phase_seconds or {}),
        )

        def attempt() -> None:
            job = self._log.load(Job, name.job_id)
            if not job.runs(name.segment):
                return
            with because(self._cause(f"lost:{name}")), in_trace_of(self._log, job, "lose pod"):
                shortfall = self._funding.shortfall_after_lease(job, None) if overran else None
                self._end(job, name.segment, ending, shortfall=shortfall, overran=overran)

        self._log.retrying(attempt)

    def _end(
        self,
        job: Job,
        segment: int,
        ending: SegmentEnding,
        *,
        shortfall: PauseReason | None,
        overran: bool = False,
    ) -> None:
        """End the segment and release its GPUs in one save. Then store the end of its log."""
        log_ref = None
        if ending.reason is SegmentEnd.CRASHED:
            log_ref = f"jobs/{job.account_id}/{job.id}/logs/segment-{segment}-tail.log"
        ending = ending.model_copy(update={"log_ref": log_ref})
        job.end_segment(segment, ending, shortfall=shortfall, overran=overran)
        pool = self._log.load(GpuPool, gpu_pool_id(job.plan.region, job.plan.gpu_type))
        pool.release(job.id, segment)
        self._log.commit(job, pool)
        if log_ref is not None:
            try:
                self._keep_log_tail(job.id, segment, log_ref)
            except STORE_ERRORS as error:  # `clean_up` retries
                name = PodName(job.id, segment)
                self._logger.warning("cannot store the log tail of %s yet: %s", name, error)

    def _keep_log_tail(self, job_id: UUID, segment: int, ref: str) -> None:
        """Store the last log lines, in the form that the owner of the job may see."""
        log = self._launcher.log(PodName(job_id, segment), MAX_LOG_BYTES).decode(errors="replace")
        shown = [line for line in log.splitlines() if not line.startswith(HEARTBEATS)]
        lines = list(customer_lines(shown))[-LOG_TAIL_LINES:]
        self._artifacts.put(ref, "".join(f"{line}\n" for line in lines).encode())

    def clean_up(self, job: Job, segment: int) -> None:
        """Store the last MiB of an ended segment's log, and delete its unnamed files."""
        tail_ref = self._tail_ref(job.id, segment)
        if tail_ref is not None and not self._artifacts.exists(tail_ref):
            self._keep_log_tail(job.id, segment, tail_ref)
        output = self._launcher.log(PodName(job.id, segment), MAX_LOG_BYTES)
        self._artifacts.put(kept_log_ref(job, segment), output)
        delete_unnamed(self._log, self._artifacts, job, segment)

    def _tail_ref(self, job_id: UUID, segment: int) -> str | None:
        for event in self._log.events.get(job_id, desc=True):
            if isinstance(event, events.SegmentEnded) and event.segment == segment:
                return event.log_ref
        return None

    def _cause(self, command_id: str) -> Cause:
        return Cause("service:scheduler", command_id, self._clock.now())
