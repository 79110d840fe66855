"""Histories of the platform, written to a log with the real aggregates."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.payment import Payment, Receipt
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import base_model_id, deployment_id, gpu_pool_id, meter_id
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.training.checkpoint import RejectionReason
from domain.use_cases.deployments import Deploying, base_deployment, deployed_refs
from tests.builders.commands import NOW, command
from tests.builders.examples import (
    ACCOUNT_ID,
    DATASET_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    ending,
    evaluation_result,
    saved_checkpoint,
)
from tests.builders.tiny_model import TINY_SHAPE

SECRET = "eco_secret-of-a-test"
MINUTE_SECONDS, LEASE_SECONDS = 60, 300
RETENTION = timedelta(days=30)
BOUND_AT = NOW + timedelta(seconds=5)


class History:
    """Steps of a history. Each is one or more commands."""

    def __init__(self, log: EventLog, account_id: UUID = ACCOUNT_ID, job_id: UUID = JOB_ID) -> None:
        self.log = log
        self.account_id = account_id
        self.job_id = job_id

    @property
    def account(self) -> Account:
        """Return the account from the log."""
        return self.log.load(Account, self.account_id)

    @property
    def job(self) -> Job:
        """Return the job from the log."""
        return self.log.load(Job, self.job_id)

    def meter(self, segment: int) -> Meter:
        """Return a segment's meter from the log."""
        return self.log.load(Meter, meter_id(self.job_id, segment))

    def open_account(self, balance_micros: int) -> None:
        """Open an account with credit."""
        with command(f"open account {self.account_id} with {balance_micros}"):
            account = Account.open(self.account_id, Role.USER, "UTC")
            account.grant_credit(balance_micros, "first")
            self.log.commit(account)

    def top_up(self, amount_micros: int, reference: str, provider: str = "manual") -> None:
        """Confirm a payment."""
        receipt = Receipt(provider=provider, reference=reference, amount_micros=amount_micros)
        with command(f"top up {reference}"):
            account, payment = self.account, Payment.receive(self.account_id, receipt)
            account.top_up(payment)
            self.log.commit(payment, account)

    def issue_key(self) -> ApiKey:
        """Issue an API key."""
        with command("issue key"):
            key = ApiKey.issue(self.account_id, Role.USER, SECRET)
            self.log.commit(key)
        return key

    def import_base(self, name: str = "tiny") -> BaseModel:
        """Import a base model."""
        with command("import base"):
            base = BaseModel.imported(
                name, PLAN.base_ref, "b" * 64, "llama", 50_000, 256, TINY_SHAPE
            )
            self.log.commit(base)
        return base

    def deploy_base(self, name: str = "tiny") -> None:
        """Deploy the base model and activate the deployment."""
        with command(f"deploy {name}"):
            deployment = base_deployment(self.log, self.log.load(BaseModel, base_model_id(name)))
            deployment.activate()
            self.log.commit(deployment)

    def deploy_checkpoint(self, step: int) -> str:
        """Deploy a checkpoint and return its name."""
        with command(f"deploy {step}"):
            return Deploying(self.log).deploy_checkpoint(self.account_id, self.job_id, step).model

    def activate(self, model: str) -> None:
        """Activate the account's deployment."""
        with command(f"activate {model}"):
            deployment = self._deployment(model)
            deployment.activate()
            self.log.commit(deployment)

    def fail_deployment(self, model: str) -> None:
        """Fail the account's deployment."""
        with command(f"fail {model}"):
            deployment = self._deployment(model)
            deployment.fail("no_room", "It does not fit.")
            self.log.commit(deployment)

    def undeploy(self, model: str) -> None:
        """Undeploy the account's deployment."""
        with command(f"undeploy {model}"):
            Deploying(self.log).undeploy(self.account_id, model)

    def _deployment(self, model: str) -> Deployment:
        return self.log.load(Deployment, deployment_id(self.account_id, model))

    def prepare_dataset(self) -> None:
        """Upload and validate a dataset."""
        with command("upload"):
            dataset = Dataset.uploaded(DATASET_ID, self.account_id, "uploads/a", "a" * 64, 1000)
            dataset.validate(PLAN.dataset_ref, PLAN.dataset_sha256, 100, 3, "datasets/a/report")
            self.log.commit(dataset)

    def open_pool(self, capacity: int = 1) -> None:
        """Add GPUs to a pool."""
        with command("open pool"):
            pool = GpuPool.open(PLAN.region, PLAN.gpu_type)
            pool.change_capacity(capacity)
            self.log.commit(pool)

    @property
    def pool(self) -> GpuPool:
        """Return the GPU pool from the log."""
        return self.log.load(GpuPool, gpu_pool_id(PLAN.region, PLAN.gpu_type))

    def approve_job(self) -> None:
        """Approve a job, which is queued."""
        with command("approve"):
            job, pool = Job.approve(self.job_id, self.account_id, PLAN, ESTIMATE), self.pool
            pool.request(Claim(self.account_id, self.job_id, 1, PLAN.gpu_count))
            self.log.commit(job, pool)

    def request_gpus(self, segment: int) -> None:
        """Queue the next segment."""
        with command(f"request {segment}"):
            pool = self.pool
            pool.request(Claim(self.account_id, self.job_id, segment, PLAN.gpu_count))
            self.log.commit(pool)

    def allocate_segment(self, segment: int) -> None:
        """Allocate GPUs to the next segment."""
        with command(f"allocate {segment}"):
            job, pool = self.job, self.pool
            pool.request(Claim(self.account_id, self.job_id, segment, PLAN.gpu_count))
            claim = pool.next_fitting
            assert claim is not None
            pool.allocate(claim)
            job.allocate_segment(segment)
            self.log.commit(pool, job)

    def grant_lease(self, segment: int, seconds: int = LEASE_SECONDS) -> None:
        """Open the segment's meter with its first lease."""
        with command(f"lease {segment}"):
            account = self.account
            meter = Meter.open(
                self.account_id, self.job_id, segment, self.job.plan.rate_micros_per_hour
            )
            reserved = meter.extend_lease(seconds)
            account.settle(captured_micros=0, reserved_micros=reserved)
            self.log.commit(meter, account)

    def start_pod(self, segment: int, host: str | None = None) -> None:
        """Bind the GPUs on a host."""
        with command(f"pod {segment}"):
            job = self.job
            job.start_pod(segment, f"{self.job_id}-{segment}", BOUND_AT, host)
            self.log.commit(job)

    def start_training(self, segment: int, step: int = 0) -> None:
        """Start training."""
        with command(f"train {segment}"):
            job = self.job
            job.start_training(segment, step, 30, 95, 5)
            self.log.commit(job)

    def save_checkpoint(self, segment: int, step: int, elapsed_seconds: int) -> None:
        """Save a checkpoint."""
        with command(f"checkpoint {segment} {step}"):
            job = self.job
            ref = f"checkpoints/{segment}/{step}"
            job.save_checkpoint(
                saved_checkpoint(segment, step, 2.5, elapsed_seconds, ref, "c" * 64, 1000)
            )
            self.log.commit(job)

    def reject_checkpoint(self, segment: int, ref: str) -> None:
        """Reject a checkpoint that a segment could not resume from."""
        with command(f"reject {ref}"):
            job = self.job
            job.reject_checkpoint(segment, ref, RejectionReason.CORRUPT)
            self.log.commit(job)

    def prune_checkpoints(self, number: int) -> None:
        """Prune checkpoints, as the scheduler does after the n-th checkpoint."""
        with command(f"prune {number}"):
            job = self.job
            job.prune_checkpoints(deployed_refs(self.log, job))
            self.log.commit(job)

    def bill(self, segment: int, elapsed_seconds: int) -> None:
        """Bill the elapsed time, as the ticker does."""
        with command(f"tick {segment} {elapsed_seconds}"):
            account, meter = self.account, self.meter(segment)
            captured = meter.post_minutes(elapsed_seconds, MINUTE_SECONDS)
            account.settle(captured_micros=captured, reserved_micros=0)
            self.log.commit(account, meter)

    def start_evaluation(self, segment: int) -> None:
        """Start the evaluation after the last step."""
        with command(f"evaluate {segment}"):
            job = self.job
            job.start_evaluation(segment, 30)
            self.log.commit(job)

    def complete(self, segment: int) -> None:
        """Evaluate and register the job."""
        with command(f"complete {segment}"):
            job = self.job
            job.start_evaluation(segment, 30)
            job.complete_evaluation(
                segment,
                evaluation_result(*(3.0, 2.0, 5, 400), accuracy_before=0.4, accuracy_after=0.55),
                peak_memory_bytes=1_200_000_000,
            )
            job.register(segment, "jobs/a/adapter", "a" * 64)
            self.log.commit(job)

    def end_segment(
        self,
        segment: int,
        reason: SegmentEnd,
        elapsed_seconds: int,
        *,
        grace_seconds: int = 0,
        failure: FailureClass | None = None,
        error_class: str | None = None,
        can_pay: bool = True,
    ) -> None:
        """End the segment: release the GPUs and settle the meter."""
        with command(f"end {segment}"):
            job, pool = self.job, self.pool
            job.end_segment(
                segment,
                ending(
                    reason,
                    elapsed_seconds,
                    grace_seconds=grace_seconds,
                    failure=failure,
                    error_class=error_class,
                    log_ref="logs/tail" if error_class else None,
                ),
                can_pay=can_pay,
            )
            (ended,) = [
                each for each in job.pending_events if isinstance(each, events.SegmentEnded)
            ]
            pool.release(self.job_id, segment)
            self.log.commit(job, pool)
        with command(f"settle {segment}"):
            self._settle(segment, elapsed_seconds, ended.kept_seconds)

    def pause(self) -> None:
        """Request a pause as the owner."""
        with command("pause"):
            job = self.job
            job.pause()
            self._save_stopping(job)

    def resume(self, rate_micros_per_hour: int = PLAN.rate_micros_per_hour) -> None:
        """Resume as the owner. The gates are not checked."""
        with command("resume"):
            job = self.job
            job.resume(ESTIMATE, rate_micros_per_hour, "test")
            self.log.commit(job)

    def cancel(self) -> None:
        """Cancel as the owner."""
        with command("cancel"):
            job = self.job
            job.cancel(RETENTION)
            self._save_stopping(job)

    def promote(self) -> None:
        """Promote the last checkpoint to a model."""
        with command("promote"):
            job = self.job
            job.promote()
            self.log.commit(job)

    def expire_adapter(self) -> None:
        """Expire the adapter at the end of its retention."""
        with because(Cause("service:scheduler", "expire", NOW + RETENTION)):
            job = self.job
            job.expire_adapter()
            self.log.commit(job)

    def _save_stopping(self, job: Job) -> None:
        """Save the job. A queued job leaves the queue, and a running one is stopping."""
        pool = self.pool
        if job.running is None:
            pool.withdraw(job.id)
        self.log.commit(job, pool)

    def _settle(self, segment: int, elapsed_seconds: int, kept_seconds: int) -> None:
        account, meter = self.account, self.meter(segment)
        charge, released = meter.close(elapsed_seconds, MINUTE_SECONDS)
        account.settle(captured_micros=charge, reserved_micros=-released)
        billed = meter.billed_seconds
        if credit := meter.credit_lost_work(kept_seconds):
            account.reverse_charge(credit, self.job_id, segment, kept_seconds, billed)
        self.log.commit(account, meter)

    def run_until(self, chapter: str) -> None:
        """Run a job's history up to and including a step."""
        for name, tell in (
            ("account", lambda: self.open_account(1_000_000)),
            ("pool", self.open_pool),
            ("approved", self.approve_job),
            ("allocated", lambda: self.allocate_segment(1)),
            ("leased", lambda: self.grant_lease(1)),
            ("launched", lambda: self.start_pod(1)),
            ("training", lambda: self.start_training(1)),
        ):
            tell()
            if name == chapter:
                return
        raise AssertionError(f"there is no chapter {chapter}")

    def run_with_a_crash(self) -> None:
        """Run a job with a crash after 100 s, of which 60 s are credited, then 130 s to the end."""
        self.import_base()
        self.deploy_base()
        self.prepare_dataset()
        self.run_until("training")
        self.issue_key()
        self.save_checkpoint(1, 10, 40)
        self.bill(1, 61)
        self.end_segment(1, SegmentEnd.CRASHED, 100, error_class="ProcessLost")
        self.allocate_segment(2)
        self.grant_lease(2)
        self.start_pod(2)
        self.start_training(2, step=10)
        self.bill(2, 125)
        self.complete(2)
        self.end_segment(2, SegmentEnd.COMPLETED, 130)
