"""Histories of the platform, written to a log with the real aggregates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from domain.access.api_key import ApiKey
from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUpRule, SavedCard
from domain.billing.meter import Meter, SegmentLimits
from domain.billing.payment import Payment, Receipt
from domain.billing.suspension import SuspensionReason
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.event_log import EventLog
from domain.core.identity import base_model_id, deployment_id, gpu_pool_id, meter_id
from domain.datasets.dataset import Contents, Dataset
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.guarantee import Guarantee
from domain.jobs.job import Job, SegmentEnd
from domain.jobs.lifecycle import PauseReason
from domain.training.checkpoint import RejectionReason
from domain.training.training_plan import Order, TrainingPlan
from domain.use_cases.auto_top_ups import AutoToppingUp
from domain.use_cases.deployments import Deploying, base_deployment, deployed_refs
from domain.use_cases.payments import Paying
from domain.use_cases.returns import Returning
from tests.builders.commands import NOW, command
from tests.builders.examples import (
    ACCOUNT_ID,
    DATASET_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    REVISION,
    STATE,
    ending,
    evaluation_result,
    resume_certificate,
    saved_checkpoint,
)

SECRET = "eco_secret-of-a-test"
RIGHTS = Rights(Role.OWNER, tuple(Scope))
MINUTE_SECONDS, LEASE_SECONDS = 60, 300
RETENTION = timedelta(days=30)
BOUND_AT = NOW + timedelta(seconds=5)

E = TypeVar("E", bound=Event)


class History:
    """Steps of a history. Each is one or more commands."""

    def __init__(
        self,
        log: EventLog,
        account_id: UUID = ACCOUNT_ID,
        job_id: UUID = JOB_ID,
        plan: TrainingPlan = PLAN,
        command: Callable[[str], AbstractContextManager[object]] = command,
    ) -> None:
        self.log = log
        self.account_id = account_id
        self.job_id = job_id
        self.plan = plan
        self._command = command  # gives the block's events their cause and time
        self.guarantee_factor = 0.0  # of approvals and resumes

    def another_job(self, account_id: UUID | None = None) -> History:
        """Return the history of another job, of the same account by default."""
        return History(self.log, account_id or self.account_id, uuid4(), self.plan, self._command)

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

    def events(self, kind: type[E] = Event) -> list[E]:
        """Return the job's events of a kind."""
        return [each for each in self.log.events.get(self.job_id) if isinstance(each, kind)]

    def last(self, kind: type[E] = Event) -> E:
        """Return the job's last event of a kind."""
        return self.events(kind)[-1]

    def topics(self, after: str = "PodStarted") -> list[str]:
        """Return the topics of the job's events after the first one with a topic."""
        found = [type(each).TOPIC for each in self.events()]
        return found[found.index(after) + 1 :]

    @contextmanager
    def changing_job(self) -> Iterator[Job]:
        """Yield the job, and save it after the block."""
        with self._command(f"job {uuid4()}"):
            job = self.job
            yield job
            self.log.commit(job)

    @contextmanager
    def changing_account(self) -> Iterator[Account]:
        """Yield the account, and save it after the block."""
        with self._command(f"account {uuid4()}"):
            account = self.account
            yield account
            self.log.commit(account)

    def open_account(self, balance_micros: int) -> None:
        """Open an account with credit."""
        with self._command(f"open account {self.account_id} with {balance_micros}"):
            account = Account.open(self.account_id, Role.OWNER, "UTC")
            account.grant_credit(balance_micros, "first")
            self.log.commit(account)

    def top_up(self, amount_micros: int, reference: str, provider: str = "manual") -> None:
        """Confirm a payment."""
        receipt = Receipt(provider=provider, reference=reference, amount_micros=amount_micros)
        with self._command(f"top up {reference}"):
            account, payment = self.account, Payment.receive(self.account_id, receipt)
            account.top_up(payment)
            self.log.commit(payment, account)

    def pay_by_card(self, amount_micros: int = 10_000_000) -> None:
        """Pay by card, refund a tenth, and turn automatic top-ups with the card on."""
        with self._command("pay by card"):
            paying, saving = Paying(self.log), AutoToppingUp(self.log)
            payment = paying.start(uuid4(), self.account_id, amount_micros, saves_card=True)
            paying.open_checkout(payment.id, "cs_1")
            receipt = Receipt(provider="stripe", reference="pi_1", amount_micros=amount_micros)
            paying.confirm(payment.id, receipt)
            Returning(self.log).request_refund(self.account_id, "pi_1", "re_1", amount_micros // 10)
            saving.save_card(self.account_id, SavedCard(customer="cus_1", payment_method="pm_1"))
            rule = AutoTopUpRule(
                threshold_micros=2_000_000, amount_micros=5_000_000, month_max_micros=20_000_000
            )
            saving.set_rule(self.account_id, rule)

    def suspend(self, reason: SuspensionReason = SuspensionReason.ABUSE) -> None:
        """Suspend the account."""
        with self.changing_account() as account:
            account.suspend(reason)

    def reinstate(self) -> None:
        """Reinstate the account."""
        with self.changing_account() as account:
            account.reinstate()

    def issue_key(self) -> ApiKey:
        """Issue an API key."""
        with self._command("issue key"):
            key = ApiKey.issue(self.account_id, RIGHTS, SECRET)
            self.log.commit(key)
        return key

    def import_base(self, name: str = "tiny") -> BaseModel:
        """Import a base model."""
        with self._command("import base"):
            base = BaseModel.imported(name, REVISION)
            self.log.commit(base)
        return base

    def deploy_base(self, name: str = "tiny") -> None:
        """Deploy the base model and activate the deployment."""
        with self._command(f"deploy {name}"):
            deployment = base_deployment(self.log, self.log.load(BaseModel, base_model_id(name)))
            deployment.activate()
            self.log.commit(deployment)

    def deploy_checkpoint(self, step: int) -> str:
        """Deploy a checkpoint and return its name."""
        with self._command(f"deploy {step}"):
            return Deploying(self.log).deploy_checkpoint(self.account_id, self.job_id, step).model

    def activate(self, model: str) -> None:
        """Activate the account's deployment."""
        with self._command(f"activate {model}"):
            deployment = self._deployment(model)
            deployment.activate()
            self.log.commit(deployment)

    def fail_deployment(self, model: str) -> None:
        """Fail the account's deployment."""
        with self._command(f"fail {model}"):
            deployment = self._deployment(model)
            deployment.fail("no_room", "It does not fit.")
            self.log.commit(deployment)

    def undeploy(self, model: str) -> None:
        """Undeploy the account's deployment."""
        with self._command(f"undeploy {model}"):
            Deploying(self.log).undeploy(self.account_id, model)

    def _deployment(self, model: str) -> Deployment:
        return self.log.load(Deployment, deployment_id(self.account_id, model))

    def prepare_dataset(self) -> None:
        """Upload and validate a dataset."""
        with self._command("upload"):
            dataset = Dataset.uploaded(DATASET_ID, self.account_id, "uploads/a", "a" * 64, 1000)
            dataset.validate(
                PLAN.dataset_ref, PLAN.dataset_sha256, Contents(100, 3), "datasets/a/report"
            )
            self.log.commit(dataset)

    def open_pool(self, capacity: int = 1) -> None:
        """Add GPUs to a pool."""
        with self._command("open pool"):
            pool = GpuPool.open(self.plan.region, self.plan.gpu_type)
            pool.change_capacity(capacity)
            self.log.commit(pool)

    @property
    def pool(self) -> GpuPool:
        """Return the GPU pool from the log."""
        return self.log.load(GpuPool, gpu_pool_id(self.plan.region, self.plan.gpu_type))

    def _claim(self, segment: int) -> Claim:
        return Claim(self.account_id, self.job_id, segment, self.plan.gpu_count)

    def approve_job(self, order: Order = Order(), *, queued: bool = True, **plan: Any) -> None:
        """Approve a job with a changed plan. Unless `queued`, the scheduler has yet to queue it."""
        with self._command(f"approve {self.job_id}"):
            changed = self.plan.model_copy(update=plan)
            saved: list[Aggregate] = [
                Job.approve(
                    self.job_id, self.account_id, changed, ESTIMATE, order, self.guarantee_factor
                )
            ]
            if queued:
                pool = self.pool
                pool.request(Claim(self.account_id, self.job_id, 1, changed.gpu_count))
                saved.append(pool)
            self.log.commit(*saved)

    def request_gpus(self, segment: int) -> None:
        """Queue the next segment."""
        with self._command(f"request {segment}"):
            pool = self.pool
            pool.request(self._claim(segment))
            self.log.commit(pool)

    def allocate_segment(self, segment: int) -> None:
        """Allocate GPUs to the next segment."""
        with self._command(f"allocate {segment}"):
            job, pool = self.job, self.pool
            pool.request(self._claim(segment))
            claim = pool.next_fitting()
            assert claim is not None
            pool.allocate(claim)
            job.allocate_segment(segment)
            self.log.commit(pool, job)

    def grant_lease(self, segment: int, seconds: int = LEASE_SECONDS) -> None:
        """Open the segment's meter with its first lease."""
        with self._command(f"lease {segment}"):
            account, job = self.account, self.job
            limits = SegmentLimits(
                guarantee_micros=job.left_of_guarantee(job.usage.paid_micros),
                most_seconds=job.left_seconds,
            )
            meter = Meter.open(
                self.account_id, self.job_id, segment, job.rate_micros_per_hour, limits
            )
            reserved = meter.extend_lease(seconds)
            account.settle(captured_micros=0, reserved_micros=reserved)
            self.log.commit(meter, account)

    def extend_lease(self, segment: int, seconds: int) -> None:
        """Extend the segment's lease."""
        with self.changing_account() as account:
            meter = self.meter(segment)
            account.settle(captured_micros=0, reserved_micros=meter.extend_lease(seconds))
            self.log.commit(meter)

    def refuse_lease(self, segment: int) -> None:
        """Open the segment's meter and refuse its lease."""
        with self._command(f"refuse {segment}"):
            meter = Meter.open(
                self.account_id, self.job_id, segment, self.plan.rate_micros_per_hour
            )
            meter.refuse_lease()
            self.log.commit(meter)

    def reserve_balance(self, left_micros: int = 0) -> None:
        """Reserve the balance for other leases, except for some micro-dollars."""
        with self.changing_account() as account:
            reserved = account.available_micros - left_micros
            account.settle(captured_micros=0, reserved_micros=reserved)

    def start_pod(
        self, segment: int, host: str | None = None, bound_at: datetime = BOUND_AT
    ) -> None:
        """Bind the GPUs on a host."""
        with self.changing_job() as job:
            job.start_pod(segment, f"{self.job_id}-{segment}", bound_at, host)

    def start_training(self, segment: int, step: int = 0, total_steps: int = 30) -> None:
        """Start training."""
        with self.changing_job() as job:
            job.start_training(segment, step, total_steps, 95, 5)

    def save_checkpoint(
        self,
        segment: int,
        step: int,
        elapsed_seconds: int,
        train_loss: float = 2.5,
        **fields: Any,
    ) -> None:
        """Save a checkpoint."""
        with self.changing_job() as job:
            saved = saved_checkpoint(segment, step, train_loss, elapsed_seconds, **fields)
            job.save_checkpoint(saved)

    def reject_checkpoint(self, segment: int, ref: str) -> None:
        """Reject a checkpoint that a segment could not resume from."""
        with self.changing_job() as job:
            job.reject_checkpoint(segment, ref, RejectionReason.CORRUPT)

    def prune_checkpoints(self, number: int) -> None:
        """Prune checkpoints, as the scheduler does after the n-th checkpoint."""
        with self.changing_job() as job:
            job.prune_checkpoints(deployed_refs(self.log, job))

    def bill(self, segment: int, elapsed_seconds: int) -> None:
        """Bill the elapsed time, as the ticker does."""
        with self._command(f"tick {segment} {elapsed_seconds}"):
            account, meter = self.account, self.meter(segment)
            captured = meter.post_minutes(elapsed_seconds, MINUTE_SECONDS)
            account.settle(captured_micros=captured, reserved_micros=0)
            self.log.commit(account, meter)

    def start_evaluation(self, segment: int) -> None:
        """Start the evaluation after the last step."""
        with self.changing_job() as job:
            job.start_evaluation(segment, 30)

    def complete(self, segment: int, adapter_sha256: str = "a" * 64) -> None:
        """Evaluate and register the job."""
        with self.changing_job() as job:
            job.start_evaluation(segment, 30)
            job.complete_evaluation(
                segment,
                evaluation_result(*(3.0, 2.0, 5, 400), accuracy_before=0.4, accuracy_after=0.55),
                peak_memory_bytes=1_200_000_000,
            )
            job.register(segment, "jobs/a/adapter", adapter_sha256)

    def end_segment(
        self,
        segment: int,
        reason: SegmentEnd,
        elapsed_seconds: int = 10,
        *,
        shortfall: PauseReason | None = None,
        settled: bool = True,
        **fields: Any,
    ) -> None:
        """End the segment and release the GPUs. If `settled`, close its meter, if there is one."""
        fields = {"log_ref": "logs/tail" if fields.get("error_class") else None} | fields
        with self.changing_job() as job:
            pool = self.pool
            job.end_segment(segment, ending(reason, elapsed_seconds, **fields), shortfall=shortfall)
            pool.release(self.job_id, segment)
            self.log.commit(job, pool)
        if settled:
            with self._command(f"settle {segment}"):
                kept_seconds = self.last(events.SegmentEnded).kept_seconds
                self._settle(segment, elapsed_seconds, kept_seconds)

    def pause(self) -> None:
        """Request a pause as the owner."""
        with self.changing_job() as job:
            job.pause()
            self._leave_queue(job)

    def resume(
        self,
        rate_micros_per_hour: int = PLAN.rate_micros_per_hour,
        gpu_count: int | None = None,
    ) -> None:
        """Resume as the owner. The gates are not checked."""
        with self.changing_job() as job:
            used = job.usage
            guarantee = Guarantee.of(
                ESTIMATE, self.guarantee_factor, used.paid_micros, used.paid_seconds
            )
            gpus = gpu_count or job.gpu_count
            job.resume(ESTIMATE, rate_micros_per_hour, "test", gpus, guarantee)

    def cancel(self) -> None:
        """Cancel as the owner."""
        with self.changing_job() as job:
            job.cancel(RETENTION)
            self._leave_queue(job)

    def promote(self) -> None:
        """Promote the last checkpoint to a model."""
        with self.changing_job() as job:
            job.promote()

    def expire_adapter(self) -> None:
        """Expire the adapter at the end of its retention."""
        with because(Cause("service:scheduler", "expire", NOW + RETENTION)):
            job = self.job
            job.expire_adapter()
            self.log.commit(job)

    def _leave_queue(self, job: Job) -> None:
        """Withdraw the claim of a job that does not run, and save both."""
        pool = self.pool
        if job.running is None:
            pool.withdraw(job.id)
        self.log.commit(job, pool)

    def _settle(self, segment: int, elapsed_seconds: int, kept_seconds: int) -> None:
        meter = self.log.find(Meter, meter_id(self.job_id, segment))
        if meter is None:
            return
        account = self.account
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

    def resume_after_a_crash(self, *, certified: bool = False) -> None:
        """Run a job with a crash after 100 s, of which 60 s are credited, until it trains again."""
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
        if certified:
            with self.changing_job() as job:
                job.certify_resume(2, resume_certificate(10, "checkpoints/1/10", STATE))
        self.start_training(2, step=10)

    def run_covered(self, seconds: int = 250, *, ends: bool = True) -> None:
        """Run a job at the balance of its guarantee, by default for longer than that charges."""
        self.guarantee_factor = 3
        self.open_account(ESTIMATE.high_micros)
        self.open_pool()
        self.approve_job()
        self.allocate_segment(1)
        self.grant_lease(1)
        self.start_pod(1)
        self.start_training(1)
        self.save_checkpoint(1, 10, seconds)
        self.bill(1, seconds)
        if ends:
            self.end_segment(1, SegmentEnd.STOPPED, seconds)

    def run_with_a_crash(self) -> None:
        """Run a job with a crash after 100 s, of which 60 s are credited, then 130 s to the end."""
        self.resume_after_a_crash()
        self.bill(2, 125)
        self.complete(2)
        self.end_segment(2, SegmentEnd.COMPLETED, 130)
