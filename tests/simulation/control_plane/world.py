"""A simulated installation: users, processes, storage, bus and GPUs, and the faults among them."""

from __future__ import annotations

import json
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid5

from eventsourcing.persistence import IntegrityError, Notification, Tracking
from nats.errors import Error as NatsError

from domain.access.api_key import ApiKey
from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.payment import STRIPE_PROVIDER, Receipt, ReturnKind
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import GpuType, Region
from domain.core.actor import KEY
from domain.core.aggregate import Cause, because
from domain.core.errors import DomainError, VersionConflict
from domain.estimating.estimate import remaining
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from domain.training.training_plan import Order, TrainingPlan
from domain.use_cases.accounts import EcoLink
from domain.use_cases.catalog import Cataloging
from domain.use_cases.jobs import Launching
from domain.use_cases.returns import Returning
from domain.use_cases.spending_limits import SpendingLimits
from infrastructure.artifacts.store import STORE_ERRORS
from infrastructure.bus.event_handlers import UNREACHABLE
from infrastructure.training.reports import PodSeen
from services.scheduler.launchers.launcher import GpusBusy, LaunchFailed, PodName
from tests.builders.examples import PLAN
from tests.simulation.control_plane.bus import Bus
from tests.simulation.control_plane.cluster import GPU_TYPE, REGION, Cluster, Trainer, Work
from tests.simulation.control_plane.database import Database, differing, folded
from tests.simulation.control_plane.files import Files
from tests.simulation.control_plane.kernel import Kernel, Killed, Owner, Signal
from tests.simulation.control_plane.processes import (
    GATEWAY,
    SERVICES,
    SETTINGS,
    Process,
    replaced,
    start,
)
from tests.simulation.control_plane.rules import FACTOR, Row, Rules, Segment
from tests.simulation.control_plane.store import (
    ProcessLog,
    SharedLog,
    StoreConnection,
    StoredLog,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = UUID("5b7c43ae-0d8e-4b44-8a52-3ad0cbb5d9a4")
RETENTION = timedelta(minutes=10)
RESTART_SECONDS = 2.0
RELAY_SECONDS = 0.02
MOST_NESTED = 3
"""Number of processes that may be frozen at once."""

GPUS_BUILT = 8

LEADERS = ("billing", "scheduler")
"""The services whose saves require the lead."""

KILL, FREEZE, LOSE_ANSWER = "kill", "freeze", "lose answer"

EXPECTED = (
    *UNREACHABLE,
    *STORE_ERRORS,
    VersionConflict,
    IntegrityError,
    NatsError,
    GpusBusy,
    LaunchFailed,
)
"""Errors that a service may log while something else fails."""


@dataclass
class Fault:
    """A fault that happens when a process of a service reaches a point the `after`-th time."""

    kind: str
    after: int = 0
    seconds: float = 0.0


class Unexpected(logging.Handler):
    """Collects the errors that services log and that no fault explains."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, EXPECTED):
            self._report(f"{record.name} logged {type(error).__name__}: {error}")


class World:
    """One simulated installation, which lives in the context of `running`."""

    def __init__(self) -> None:
        self.kernel = Kernel(self._on_death, self._on_failure)
        self.shared = SharedLog(observer=self._on_commit)
        self.database = Database(self.database_now)
        self.bus = Bus(self.kernel)
        self.files = Files(lambda: self.kernel.now)
        self.cluster = Cluster(self.kernel, self.bus, self.files, self.service_now)
        self.cluster.built = GPUS_BUILT
        self.cluster.on_launch = self._see_clocks
        self.log_grew = Signal(self.kernel)
        self.rules = Rules(self._fact_of, self._evidence, SETTINGS.meter_minute_seconds)
        self.happened: Counter[str] = Counter()
        self.service_jump = self.database_jump = 0
        self.store_away_until = 0.0
        self.armed: dict[tuple[str, str], Fault] = {}
        self.current: dict[str, Process] = {}
        self.frozen = 0
        self.accounts: list[UUID] = []
        self.keys: dict[UUID, UUID] = {}
        self.jobs: list[UUID] = []
        self.payments: list[tuple[UUID, str]] = []
        self.refunds: list[tuple[str, str]] = []
        self.plans: dict[UUID, TrainingPlan] = {}
        self._commands = 0
        self.supervisor = Owner("supervisor")
        self._listener = Unexpected(self._on_unexpected)

    # Context

    @contextmanager
    def running(self) -> Generator[None]:
        """Run the block with all services started, on simulated time."""
        root = logging.getLogger()
        handlers, level = root.handlers, root.level
        with replaced(self) as replace:
            self._replace = replace
            root.handlers = [self._listener]
            root.setLevel(logging.ERROR)
            try:
                self._open()
                yield
            finally:
                root.handlers = handlers
                root.setLevel(level)
                self.kernel.close()
                self.database.close()

    def _open(self) -> None:
        self.gateway = Process(self, GATEWAY, 1)
        self.log = self.gateway.open_log(leads=False)
        self.current[GATEWAY] = self.gateway
        self.log_of_simulation = ProcessLog(StoreConnection(self.shared, _no_fault, None))
        self.use = EcoLink(self.log)
        self.returning = Returning(self.log)
        limits = SpendingLimits(self.log, SETTINGS.meter_minute_seconds)
        quoting: Any = self
        self.launching = Launching(self.log, quoting, limits, RETENTION, guarantee_factor=FACTOR)
        with self.acting("operator"):
            catalog = Catalog.open()
            catalog.offer_gpu_type(
                GpuType(
                    name=GPU_TYPE,
                    title="GPU",
                    vram_gib=80,
                    micros_per_hour=3_600_000,
                    bf16_tflops=100,
                    backing="nvidia",
                    max_per_job=4,
                    source="simulation",
                )
            )
            catalog.offer_region(Region(name=REGION, title="Local", capacity={}))
            self.log.commit(catalog)
        for service in SERVICES:
            self.start(service)

    # Time

    def service_now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.kernel.now + self.service_jump)

    def database_now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.kernel.now + self.database_jump)

    def run(self, seconds: float) -> None:
        self.kernel.run(seconds)

    def jump(self, which: str, seconds: int) -> None:
        """Set the error of the services' or the database's clock."""
        setattr(self, f"{which}_jump", seconds)
        for trainer in self.cluster.all.values():
            self._see_clocks(trainer)

    def _see_clocks(self, trainer: Trainer) -> None:
        """Note if a clock shows another age of a trainer than the true one."""
        true = EPOCH + timedelta(seconds=self.kernel.now - trainer.seconds_since_launch)
        skew = (trainer.bound_at - true).total_seconds()
        for jump in (self.service_jump, self.database_jump):
            trainer.clock_was_ahead |= jump - skew > 0.5
            trainer.clock_was_wrong |= abs(jump - skew) > 0.5

    # Processes

    def start(self, service: str) -> None:
        """Start a process of a service, which takes the lead. Try again if it fails."""
        epoch = self.shared.epochs[service] = self.shared.epochs.get(service, 0) + 1
        try:
            self.current[service] = start(self, service, epoch, self._replace)
        except (*UNREACHABLE, *STORE_ERRORS, Killed):
            self._restart(service, None)

    def _restart(self, service: str, ended: Process | None) -> None:
        async def restart() -> None:
            if self.current.get(service) is ended or ended is None:
                self.start(service)

        self.kernel.spawn(self.supervisor, restart(), RESTART_SECONDS)

    def _on_death(self, owner: Owner) -> None:
        if isinstance(owner, Process):
            self.happened["process restarts"] += 1
            self.kernel.spawn(self.supervisor, owner.broker.give_back())
            self._restart(owner.service, owner)

    def saved(self, process: Process) -> None:
        """Check that no former leader has saved events."""
        leader = self.shared.epochs.get(process.service)
        if process.service in LEADERS and process.leadership.epoch != leader:
            self.rules.violations.append(
                f"{process.name} saved, but {leader} is the leader's epoch"
            )

    def _on_failure(self, owner: Owner, error: Exception) -> None:
        self.happened["process exits"] += 1
        if not isinstance(error, EXPECTED):
            text = "".join(traceback.format_exception(error)[-3:])
            self.rules.violations.append(f"{owner.name} exited: {text}")

    def reach(self, process: Process, point: str, error: type[Exception]) -> None:
        """Let the armed faults of a process happen at a point."""
        if point == "after commit":
            self.saved(process)
        if point.endswith(("statement", "before commit")) and self.is_store_away:
            raise error("the database is away")
        fault = self.armed.get((process.service, point))
        if fault is None:
            return
        if fault.after > 0:
            fault.after -= 1
            return
        if fault.kind == FREEZE and self.frozen >= MOST_NESTED:
            return
        del self.armed[process.service, point]
        self.happened[f"{fault.kind} {point}"] += 1
        if fault.kind == KILL:
            raise Killed(point)
        if fault.kind == LOSE_ANSWER:
            raise error("the connection was lost")
        self._freeze(process, fault.seconds)

    @property
    def is_store_away(self) -> bool:
        return self.kernel.now < self.store_away_until

    def _freeze(self, process: Process, seconds: float) -> None:
        """Stop a process inside a step, while a standby takes the lead and the others go on."""
        process.thaws_at = self.kernel.now + seconds
        if process.service in SERVICES:
            self.start(process.service)
        self.frozen += 1
        self.kernel.run(seconds)
        self.frozen -= 1
        if not process.lives:
            raise Killed("killed while frozen")

    # Commands of users and operators

    @contextmanager
    def acting(self, actor: str) -> Generator[None]:
        self._commands += 1
        with because(Cause(actor, f"{actor}:{self._commands}", self.service_now())):
            yield

    def do(self, actor: str, command: Callable[[], object]) -> bool:
        """Run a command in the gateway. Return False if it is refused or fails."""
        try:
            with self.acting(actor):
                command()
        except DomainError as error:
            self.happened[f"refused: {type(error).__name__}"] += 1
            return False
        except UNREACHABLE:
            self.happened["commands during an outage"] += 1
            return False
        return True

    def open_account(self) -> None:
        account_id = uuid5(NAMESPACE, f"account {len(self.accounts)}")

        def command() -> None:
            self.use.open_account(account_id, Role.OWNER)
            secret = f"secret of {account_id}"
            rights = KeyRequest().granted(Role.OWNER, None, self.service_now())
            key = ApiKey.issue(account_id, rights, secret)
            self.log.commit(key)
            self.keys[account_id] = key.id

        if self.do("operator", command):
            self.accounts.append(account_id)

    def declare_capacity(self, gpus: int) -> None:
        """Offer a number of GPUs."""

        def command() -> None:
            Cataloging(self.log).change(lambda it: it.declare_capacity(REGION, GPU_TYPE, gpus))

        self.do("operator", command)

    def actor_of(self, account_id: UUID, *, by_key: bool) -> str:
        return f"{KEY}{self.keys[account_id]}" if by_key else "account"

    def top_up(self, account_id: UUID, amount_micros: int) -> None:
        reference = f"payment {len(self.payments)}"
        receipt = Receipt(
            provider=STRIPE_PROVIDER, reference=reference, amount_micros=amount_micros
        )
        if self.do("operator", lambda: self.use.top_up(account_id, receipt)):
            self.payments.append((account_id, reference))

    def approve(
        self, account_id: UUID, plan: TrainingPlan, work: Work, order: Order, *, by_key: bool
    ) -> None:
        """Approve a job as its owner. The client sends the command twice if no answer comes."""
        name = f"job {len(self.jobs)}"
        choices: Any = SimpleNamespace(plan=plan, work=work, recorded=plan.choices)

        def command() -> None:
            from domain.core.identity import created_id

            job_id = created_id(account_id, "job", name)
            self.cluster.work[job_id] = work
            self.plans[job_id] = plan
            job = self.launching.approve(
                account_id, name, choices, wait=True, loads=list, order=order
            )
            if job.id not in self.jobs:
                self.jobs.append(job.id)

        actor = self.actor_of(account_id, by_key=by_key)
        if not self.do(actor, command):
            self.do(actor, command)

    def take_back(self, number: int, percent: int) -> None:
        """Let a bank take back a part of a payment for good."""
        if not self.payments:
            return
        _, reference = self.payments[number % len(self.payments)]
        id = f"dispute {len(self.refunds)}"
        self.refunds.append((reference, ""))

        def command() -> None:
            payment = self.returning.load(reference)
            amount = payment.refundable_micros * percent // 100
            if amount > 0:
                self.returning.take_back(reference, id, ReturnKind.DISPUTE, amount)

        self.do("operator", command)

    def refund(self, number: int, percent: int) -> None:
        """Request a refund of a part of a payment."""
        if not self.payments:
            return
        account_id, reference = self.payments[number % len(self.payments)]
        id = f"refund {len(self.refunds)}"

        def command() -> None:
            amount = self.returning.load(reference).refundable_micros * percent // 100
            if amount > 0:
                self.returning.request_refund(account_id, reference, id, amount)
                self.refunds.append((reference, id))

        self.do("operator", command)

    def fail_refund(self, number: int) -> None:
        """Let the provider refuse a refund, once or again."""
        known = [each for each in self.refunds if each[1]]
        if known:
            reference, id = known[number % len(known)]
            self.do("operator", lambda: self.returning.fail_refund(reference, id))

    def remove_budgets(self, account_id: UUID) -> None:
        for name in list(self.log_of_simulation.load(Account, account_id).budgets):
            self.do("account", lambda name=name: self.use.remove_budget(account_id, name))

    def lift_limits(self) -> None:
        """Offer GPUs, lift all limits, pay, and resume all paused jobs."""
        self.declare_capacity(GPUS_BUILT)
        for account_id in self.accounts:
            account = self.log_of_simulation.load(Account, account_id)
            if account.suspension is not None:
                self.do("operator", partial(self.use.reinstate, account_id))
            self.remove_budgets(account_id)
            if account.available_micros < 1_000_000:
                self.top_up(account_id, 2_000_000)
        for job_id in self.jobs:
            job = self.log_of_simulation.load(Job, job_id)
            if job.status.is_final:
                continue
            if job.max_cost_micros is not None:
                self.command_job(job_id, "change_max_cost", max_cost_micros=None)
            if job.status is JobStatus.PAUSED:
                options = {"wait": True, "loads": list, "gpu_count": None}
                self.command_job(job_id, "resume", **options)

    # The use cases' port for quotes

    def resolved(self, account_id: UUID, choices: Any) -> Any:
        del account_id
        return choices

    def quote(self, account_id: UUID, choices: Any) -> Any:
        del account_id
        plan: TrainingPlan = choices.plan
        estimate = choices.work.estimate(plan.rate_micros_per_hour)
        return SimpleNamespace(plan=plan, estimate=estimate, alternatives=frozenset())

    def rest_of(self, job: Job, gpu_count: int | None = None) -> Any:
        count = gpu_count or job.gpu_count
        work, rate = self.cluster.work[job.id], self.plans[job.id].rate_micros_per_hour
        rest = remaining(
            work.estimate(rate),
            step=job.step,
            total_steps=work.total_steps,
            trained=job.trained,
            rate_micros_per_hour=rate,
        )
        if count == job.gpu_count:
            rest = rest.measured(job.measured.steps, job.measured.seconds)
        return SimpleNamespace(
            plan=SimpleNamespace(
                rate_micros_per_hour=rate, catalog_version="simulation", gpu_count=count
            ),
            estimate=rest,
        )

    def command_job(self, job_id: UUID, name: str, *, by_key: bool = False, **options: Any) -> bool:
        """Run a use case of a job's owner by its name."""
        account_id = self.log_of_simulation.load(Job, job_id).account_id
        self.rules.command(str(job_id), name)
        use_case = getattr(self.launching, name)
        actor = self.actor_of(account_id, by_key=by_key)
        return self.do(actor, lambda: use_case(account_id, job_id, **options))

    # What the rules see

    def _on_commit(self, rows: Sequence[Notification], tracking: Tracking | None) -> None:
        if rows and tracking is not None:
            self.handled(tracking.application_name, tracking.notification_id)
        if rows:
            self.database.copy(rows)
            self.rules.see([_row(row) for row in rows])
            self.log_grew.set(RELAY_SECONDS)

    def _on_unexpected(self, text: str) -> None:
        self.rules.violations.append(text)

    def answers(self, service: str, topics: frozenset[str]) -> None:
        self.rules.answered[service] = topics

    def handled(self, service: str, position: int) -> None:
        self.rules.handled.setdefault(service, set()).add(position)

    def parked(self, service: str, position: int, error: str, *, replay: bool) -> None:
        self.happened["parked events"] += 1
        if not replay:
            self.rules.violations.append(f"{service} parked event {position}: {error}")

    def _fact_of(self, segment: Segment) -> Trainer | None:
        return self.cluster.all.get(PodName(UUID(segment[0]), segment[1]))

    def _evidence(self, segment: Segment) -> int:
        """Return the longest time for which a report or the scheduler saw a segment."""
        trainer = self._fact_of(segment)
        if trainer is None:
            return 0
        spec = trainer.spec
        seen = PodSeen(
            account_id=spec.account_id, job_id=spec.job_id, segment=spec.segment, elapsed_seconds=0
        )
        return max(trainer.told, int(self.bus.seen.get(seen.subject, 0.0)))

    # The end

    @property
    def is_at_rest(self) -> bool:
        """True if every job has ended, no pod is left, and every event is handled."""
        last = self.shared.last_id or 0
        return (
            all(job.final is not None for job in self.rules.jobs.values())
            and not self.cluster.trainers
            and not any(pool.held for pool in self.rules.pools.values())
            and all(position == last for position in self._positions().values())
            and not self.database.run("SELECT 1 AS one FROM parked_events")
        )

    def _positions(self) -> dict[str, int]:
        handlers = {name: self.shared.position(name) for name in ("billing", "scheduler")}
        rows = self.database.run("SELECT name, position FROM projection_positions")
        return handlers | {row["name"]: row["position"] for row in rows}

    def heal(self) -> None:
        """End all faults."""
        self.armed.clear()
        self.store_away_until = self.bus.away_until = 0.0
        self.files.away_until = self.files.full_until = 0.0
        self.jump("service", 0)
        self.jump("database", 0)
        self.cluster.fails = 0
        for durable in self.bus.durables.values():
            durable.release()
        for trainer in self.cluster.running():
            trainer.is_muted_until, trainer.is_deaf, trainer.overruns = 0.0, False, False

    def check_end(self) -> None:
        """Check a platform at rest, and compare the read models with a fresh fold of the log."""
        last = self.shared.last_id or 0
        self.rules.check_rest(last, self._positions())
        self.rules.violations += self.cluster.problems
        fresh = folded(StoredLog(self.shared), self.database_now)
        for name in differing(self.database, fresh):
            self.rules.violations.append(f"the projection {name} differs from a fresh fold")
        fresh.close()
        for account_id in self.accounts:
            with suppress(DomainError):
                self._check_account(account_id)

    def _check_account(self, account_id: UUID) -> None:
        account = StoredLog(self.shared).load(Account, account_id)
        money = self.rules.accounts[str(account_id)]
        if (account.balance_micros, account.reserved_micros) != (money.balance, money.reserved):
            self.rules.violations.append(f"the account {account_id} differs from its rows")


def _no_fault(point: str) -> None:
    del point


def _row(notification: Notification) -> Row:
    state = json.loads(notification.state)
    id = str(notification.originator_id)
    return Row(notification.id, id, notification.originator_version, notification.topic, state)


def plan_of(gpu_count: int, rate_micros_per_hour: int) -> TrainingPlan:
    """Return a plan for the simulated GPUs."""
    return cast(
        TrainingPlan,
        PLAN.model_copy(
            update={
                "region": REGION,
                "gpu_type": GPU_TYPE,
                "gpu_count": gpu_count,
                "rate_micros_per_hour": rate_micros_per_hour,
            }
        ),
    )
