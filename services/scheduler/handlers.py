"""Event handlers of the scheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.catalog.base_model import BaseModel
from domain.catalog.catalog import Catalog
from domain.core.aggregate import Aggregate, Event, current_cause
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job import Job, SegmentEnd
from domain.use_cases.deployments import deployed_refs
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.event_handlers import UNREACHABLE, Handlers
from infrastructure.settings import Settings
from infrastructure.training.segment_credentials import CredentialIssuer
from services.scheduler.allocating import Allocation
from services.scheduler.capacity import capacity_changes
from services.scheduler.control import ControlChannel
from services.scheduler.documents import document_promoted
from services.scheduler.funding import Funding
from services.scheduler.launchers.launcher import GpusBusy, LauncherUnavailable, LaunchFailed
from services.scheduler.launching import PodStarter
from services.scheduler.retention import delete_saved

Continuing = Callable[[UUID, UUID], Iterable[UUID]]
"""A function of account and job that returns the unfinished jobs that continue the job's model."""


LAUNCHER_REST = timedelta(seconds=60)
"""Time after a failure of the launcher in which event handlers launch nothing."""


class Scheduling:
    """Event handlers that queue jobs, allocate GPUs, launch segments and delete unused files."""

    def __init__(
        self,
        log: EventLog,
        pods: PodStarter,
        control: ControlChannel,
        artifacts: Artifacts,
        settings: Settings,
        continuing: Continuing,
    ) -> None:
        self._log = log
        self._pods = pods
        self._control = control
        self._artifacts = artifacts
        self._settings = settings
        self._continuing = continuing
        self._funding = Funding(log, settings.meter_minute_seconds)
        self._launcher_failed_at = datetime.min.replace(tzinfo=UTC)
        self._logger = logging.getLogger("scheduling")

    @property
    def handlers(self) -> Handlers:
        """Event handlers, by event."""
        return {
            events.JobApproved: self.on_segment_needed,
            events.JobResumed: self.on_segment_needed,
            events.SegmentEnded: self.on_segment_needed,
            GpuPool: self.on_pool_changed,
            Meter.LeaseGranted: self.on_lease_granted,
            Meter.LeaseExtended: self.on_lease_extended,
            Meter.LeaseRefused: self.on_lease_refused,
            events.PauseRequested: self.on_stop_requested,
            events.CancelRequested: self.on_stop_requested,
            events.JobPaused: self.on_job_stopped,
            events.JobCancelled: self.on_job_stopped,
            events.AdapterExpired: self.on_saved_given_up,
            events.ModelDeleted: self.on_saved_given_up,
            events.AdapterPromoted: self.on_adapter_promoted,
            events.CheckpointSaved: self.on_checkpoint_superseded,
            events.Registered: self.on_registered,
            events.JobFailed: self.on_job_failed,
            events.CheckpointPruned: self.on_checkpoint_pruned,
            Deployment.Undeployed: self.on_checkpoint_released,
            BaseModel.BaseModelDeleted: self.on_base_deleted,
            Catalog.GpuTypeOffered: self.on_offer_changed,
            Catalog.GpuTypeWithdrawn: self.on_offer_changed,
            Catalog.RegionOffered: self.on_offer_changed,
            Catalog.RegionWithdrawn: self.on_offer_changed,
            Catalog.CapacityDeclared: self.on_offer_changed,
        }

    def on_segment_needed(self, event: Event) -> Sequence[Aggregate]:
        """Queue a claim for the next segment of the job, if it needs one."""
        return self.claim(self._log.load(Job, event.originator_id))

    def claim(self, job: Job) -> Sequence[Aggregate]:
        """Queue a claim for a job's next segment, and serve the queue, or pause the job.

        `due.claim_due` does the same for a delayed relaunch. If the queue cannot be served, the
        claim is queued, and the handler of its event fails instead.
        """
        segment = job.next_segment
        if segment is None or not job.may_launch(current_cause().now):
            return []
        if (shortfall := self._funding.shortfall(job)) is not None:
            job.deplete(shortfall)
            return [job]
        claim = Claim(job.account_id, job.id, segment, job.gpu_count)
        try:
            return self._serve(self._claimed(job, claim))
        except UNREACHABLE:
            raise
        except Exception:
            self._logger.exception("queuing the claim of job %s only", job.id)
            return [self._claimed(job, claim)]

    def on_pool_changed(self, event: Event) -> Sequence[Aggregate]:
        """Serve the first claims of the queue. The resulting events trigger this handler again."""
        return self._serve(self._log.load(GpuPool, event.originator_id))

    def on_lease_granted(self, event: Meter.LeaseGranted) -> Sequence[Aggregate]:
        """Launch the segment. If its pod cannot start yet, LaunchRetries launches it later.

        After a failure of the launcher, only LaunchRetries launches, because a failure can take
        long, and running trainers wait for the next events.
        """
        if abs(current_cause().now - self._launcher_failed_at) < LAUNCHER_REST:
            return []
        try:
            return self._pods.start(event.job_id, event.segment, event.paid_seconds)
        except LaunchFailed:
            self._launcher_failed_at = current_cause().now
        except (GpusBusy, LauncherUnavailable):
            pass
        return []

    def on_lease_extended(self, event: Meter.LeaseExtended) -> Sequence[Aggregate]:
        """Send a running segment its new total of paid seconds and renewed credentials."""
        job = self._log.load(Job, event.job_id)
        if not job.runs(event.segment):
            return []
        issuer = CredentialIssuer.of(self._settings)
        jwt = issuer.issue(job.account_id, job.id, job.segment).jwt if issuer else ""
        self._control.pay(event.job_id, event.segment, event.paid_seconds, jwt)
        return []

    def on_lease_refused(self, event: Meter.LeaseRefused) -> Sequence[Aggregate]:
        """Pause a job that has GPUs but may not use one second of them."""
        job = self._log.load(Job, event.job_id)
        if not job.runs(event.segment):
            return []
        assert job.pod is None, "a pod was launched without a lease"
        shortfall = self._funding.refused_lease(job)
        return self._pods.end_unlaunched(job, SegmentEnd.LEASE_ENDED, shortfall=shortfall)

    def on_stop_requested(self, event: Event) -> Sequence[Aggregate]:
        """Ask the trainer to save and exit, or end a segment that has no pod, free of charge."""
        job = self._pods.settled_job(event.originator_id)
        if not job.stop_requested:
            return []
        if not self._pods.launched(job):
            return self._pods.end_unlaunched(job, SegmentEnd.STOPPED)
        self._control.stop(job.id, job.segment)
        return []

    def on_job_stopped(self, event: events.JobPaused | events.JobCancelled) -> Sequence[Aggregate]:
        """Remove the job from the queue.

        If the job was cancelled, prune the checkpoints of the job that it continued. If it was
        cancelled without a checkpoint, also delete the files that its trainers saved. The handler
        may run late. A job that has been resumed keeps its new position in the queue.
        """
        job = self._log.load(Job, event.originator_id)
        if isinstance(event, events.JobCancelled) and event.checkpoint_ref is None:
            delete_saved(self._artifacts, job)
        if job.next_segment is not None:
            return []
        pool = self._pool(job)
        pool.withdraw(job.id)
        return [pool, *self._prune_continued(job)]

    def on_saved_given_up(self, event: Event) -> Sequence[Aggregate]:
        """Delete the job's checkpoints and adapters."""
        delete_saved(self._artifacts, self._log.load(Job, event.originator_id))
        return []

    def on_adapter_promoted(self, event: events.AdapterPromoted) -> Sequence[Aggregate]:
        """Write the model card and provenance of the promoted checkpoint. Prune the others."""
        job = self._log.load(Job, event.originator_id)
        document_promoted(self._log, self._artifacts, job, event)
        return self._prune(job)

    def on_checkpoint_superseded(self, event: Event) -> Sequence[Aggregate]:
        """Prune the checkpoints that the job no longer needs."""
        return self._prune(self._log.load(Job, event.originator_id))

    def on_registered(self, event: events.Registered) -> Sequence[Aggregate]:
        """Prune the checkpoints that the job and the job that it continued no longer need."""
        job = self._log.load(Job, event.originator_id)
        return [*self._prune(job), *self._prune_continued(job)]

    def on_job_failed(self, event: events.JobFailed) -> Sequence[Aggregate]:
        """Prune the checkpoints of the job that the failed job continued."""
        return self._prune_continued(self._log.load(Job, event.originator_id))

    def on_checkpoint_pruned(self, event: events.CheckpointPruned) -> Sequence[Aggregate]:
        """Delete the files of a checkpoint."""
        self._artifacts.delete_directory(event.ref)
        return []

    def on_base_deleted(self, event: BaseModel.BaseModelDeleted) -> Sequence[Aggregate]:
        """Delete the files of all revisions of a base model. No unfinished job uses them."""
        base = self._log.load(BaseModel, event.originator_id)
        if base.deleted:  # otherwise it was imported again, possibly with the same files
            for ref in base.refs:
                self._artifacts.delete_directory(ref)
        return []

    def on_checkpoint_released(self, event: Deployment.Undeployed) -> Sequence[Aggregate]:
        """Prune a checkpoint that was kept only for a deployment which did not fail."""
        adapter = self._log.load(Deployment, event.originator_id).weights.adapter
        if adapter is None or adapter.step is None:
            return []
        return self._prune(self._log.load(Job, adapter.job_id))

    def on_offer_changed(self, event: Event) -> Sequence[Aggregate]:
        """Set the capacities of the pools to those of the catalog and the machine."""
        return capacity_changes(self._log, self._pods.launcher)

    def _claimed(self, job: Job, claim: Claim) -> GpuPool:
        pool = self._pool(job)
        queued = pool.queue.get((job.id, claim.segment))
        if queued is not None and queued != claim:
            pool.withdraw(job.id)  # the job was resumed with another GPU count
        pool.request(claim)
        return pool

    def _serve(self, pool: GpuPool) -> Sequence[Aggregate]:
        return Allocation(self._log, self._funding, pool).serve()

    def _prune(self, job: Job) -> Sequence[Aggregate]:
        job.prune_checkpoints(deployed_refs(self._log, job) | self._continued_refs(job))
        return [job]

    def _prune_continued(self, job: Job) -> Sequence[Aggregate]:
        if not job.status.is_final or job.plan.start is None:
            return []
        return self._prune(self._log.load(Job, job.plan.start.job_id))

    def _continued_refs(self, job: Job) -> frozenset[str]:
        ids = self._continuing(job.account_id, job.id)
        # The read model may still list a job that has ended.
        found = [
            each for each in (self._log.load(Job, id) for id in ids) if not each.status.is_final
        ]
        return frozenset(each.plan.start.ref for each in found if each.plan.start is not None)

    def _pool(self, job: Job) -> GpuPool:
        return self._log.load(GpuPool, gpu_pool_id(job.plan.region, job.plan.gpu_type))
