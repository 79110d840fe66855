"""The scheduler's reactions: GPUs for jobs, launches for leases."""

from __future__ import annotations

from collections.abc import Sequence

from domain.account import Account
from domain.aggregate import Aggregate, Event
from domain.event_log import EventLog
from domain.gpu_pool import Claim, GpuPool
from domain.identity import gpu_pool_id
from domain.job import Job, SegmentEnd
from domain.meter import Meter
from infrastructure.settings import Settings
from services.scheduler.control import ControlChannel
from services.scheduler.launchers.launcher import Launcher, LaunchFailed
from services.scheduler.segment_spec import segment_spec


class Scheduling:
    """Turns approvals and endings into claims, claims into segments, leases into pods."""

    def __init__(
        self, log: EventLog, launcher: Launcher, control: ControlChannel, settings: Settings
    ) -> None:
        self._log = log
        self._launcher = launcher
        self._control = control
        self._settings = settings

    def react(self, event: Event) -> Sequence[Aggregate]:
        """Answer one event of the log."""
        match event:
            case Job.JobApproved() | Job.SegmentEnded():
                return self.on_segment_needed(event)
            case GpuPool.Event():
                return self.on_pool_changed(event)
            case Meter.LeaseGranted():
                return self.on_lease_granted(event)
            case Meter.LeaseExtended():
                return self.on_lease_extended(event)
            case _:
                return []

    def on_segment_needed(self, event: Event) -> Sequence[Aggregate]:
        """Queue a claim for the job's next segment, if it needs one."""
        return self.claim(self._log.load(Job, event.originator_id))

    def claim(self, job: Job) -> Sequence[Aggregate]:
        """Stand in the queue for a job's next segment.

        A job whose account cannot pay for a second of it stays out, so that it holds no GPU that
        others can pay for; `WaitingJobs` looks again.
        """
        segment = job.next_segment
        account = self._log.load(Account, job.account_id)
        if segment is None or not account.affords(job.plan.rate_micros_per_hour):
            return []
        pool = self._pool(job)
        pool.request(Claim(job.account_id, job.id, segment, job.plan.gpu_count))
        return [pool]

    def on_pool_changed(self, event: Event) -> Sequence[Aggregate]:
        """Serve the head of the queue, if it fits; the allocation's own event serves the next."""
        pool = self._log.load(GpuPool, event.originator_id)
        claim = pool.next_fitting
        if claim is None:
            return []
        pool.allocate(claim)
        job = self._log.load(Job, claim.job_id)
        if job.next_segment != claim.segment:
            pool.release(claim.job_id, claim.segment)
            return [pool]
        job.allocate_segment(claim.segment)
        return [pool, job]

    def on_lease_granted(self, event: Meter.LeaseGranted) -> Sequence[Aggregate]:
        """Launch the segment; launching again finds the pod that was launched before."""
        job = self._log.load(Job, event.job_id)
        if not job.segment_running or job.segment != event.segment or job.pod is not None:
            return []
        try:
            pod = self._launcher.launch(segment_spec(job, event.paid_seconds, self._settings))
        except LaunchFailed:
            pool = self._pool(job)
            job.end_segment(event.segment, SegmentEnd.CRASHED, 0, error_class="LaunchFailed")
            pool.release(job.id, event.segment)
            return [job, pool]
        job.start_pod(event.segment, str(pod.name), pod.bound_at)
        return [job]

    def on_lease_extended(self, event: Meter.LeaseExtended) -> Sequence[Aggregate]:
        """Tell the segment how long it may run."""
        self._control.pay(event.job_id, event.segment, event.paid_seconds)
        return []

    def _pool(self, job: Job) -> GpuPool:
        return self._log.load(GpuPool, gpu_pool_id(job.plan.region, job.plan.gpu_type))
