"""Event handlers of the serving process, which load wanted deployments and unload all others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from threading import Lock
from uuid import UUID, uuid4

from domain.billing.account import Account
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment, DeploymentStatus
from domain.jobs import events
from domain.jobs.job import Job
from domain.use_cases.deployments import base_deployment, model_deployment, why_not_served
from infrastructure.bus.consumer import BATCH_EVENTS, recorded
from infrastructure.bus.event_handlers import Handlers
from infrastructure.process.backoff import Backoff
from infrastructure.process.clock import Clock
from services.serving.attempts import Attempts
from services.serving.deployed import CannotServe, Host
from services.serving.resource_exhaustion import MAX_TRIES, is_resource_exhaustion
from services.serving.weights import WeightStore

log = logging.getLogger("serving")


class Serving:
    """Event handlers that keep the wanted deployments in memory.

    A deployment is wanted while it is deploying or active and its account is not suspended.
    Handlers are idempotent, so any event may be handled again.
    """

    def __init__(
        self, log: EventLog, clock: Clock, store: WeightStore, attempts: Attempts, host: Host
    ) -> None:
        self._log = log
        self._clock = clock
        self._store = store
        self._attempts = attempts
        self._host = host
        self._backoff = Backoff[UUID]()
        self._suspended: set[UUID] = set()  # accounts
        self._one_at_a_time = Lock()  # replays and retries run concurrently with the consumer

    @property
    def handlers(self) -> Handlers:
        """Event handlers, by event."""
        return {
            BaseModel.BaseModelImported: self.on_base_imported,
            BaseModel.BaseModelRevised: self.on_base_imported,
            events.Registered: self.on_registered,
            Deployment.DeploymentRequested: self.on_deployment_changed,
            Deployment.DeploymentRenewed: self.on_deployment_changed,
            Deployment.Undeployed: self.on_deployment_changed,
            Account.AccountSuspended: self.on_suspended,
            Account.AccountReinstated: self.on_reinstated,
        }

    def restore(self) -> None:
        """Load all wanted deployments, base models first. Fail those that cannot be served."""
        self._suspended = self._suspended_accounts()
        wanted = sorted(self._wanted(), key=lambda each: each.weights.adapter is not None)
        self._store.forget_all_but(wanted)
        for each in wanted:
            self._settle_alone(each.id)
        log.info("serving starts with %d requested deployments", len(wanted))

    def try_again(self) -> None:
        """Retry the deployments that lacked resources and whose retry is due."""
        for id in self._backoff.due(self._clock.now()):  # base models first
            try:
                self._settle_alone(id)
            except Exception:  # one failure must not delay the others
                log.exception("retrying %s later", id)
                self._backoff.postpone(id, self._clock.now())

    def on_base_imported(self, event: Event) -> Sequence[Aggregate]:
        """Deploy a base model at its first import, and replace an older revision."""
        base = self._log.load(BaseModel, event.originator_id)
        if base.deleted:
            return []
        known = self._log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, base.name))
        if known is not None and known.status is DeploymentStatus.UNDEPLOYED:
            return []
        return [base_deployment(self._log, base)]

    def on_registered(self, event: events.Registered) -> Sequence[Aggregate]:
        """Deploy the model of a job that was approved with `deploy`."""
        job = self._log.load(Job, event.originator_id)
        if not job.order.deploy or job.model_deleted:
            return []
        deployment = model_deployment(self._log, job)
        base = job.plan.base_model
        if (reason := why_not_served(self._log, base, job.plan.base_manifest_sha256)) is not None:
            deployment.fail("base_not_deployed", f"The adapter needs its base model. {reason}")
        return [deployment]

    def on_deployment_changed(self, event: Event) -> Sequence[Aggregate]:
        """Load or unload the deployment according to its current state, not to the event."""
        deployment = self._log.load(Deployment, event.originator_id)
        self._settle(deployment)
        return [deployment]

    def on_suspended(self, event: Account.AccountSuspended) -> Sequence[Aggregate]:
        """Unload the deployments of a suspended account."""
        self._suspended.add(event.account_id)
        return self._settle_wanted(event.account_id)

    def on_reinstated(self, event: Account.AccountReinstated) -> Sequence[Aggregate]:
        """Load the wanted deployments of a reinstated account."""
        self._suspended.discard(event.account_id)
        return self._settle_wanted(event.account_id)

    def _settle_wanted(self, account_id: UUID) -> Sequence[Aggregate]:
        own = list(self._wanted(account_id))
        for each in own:
            self._settle(each)
        return own

    def _settle_alone(self, id: UUID) -> None:
        """Load or unload a deployment according to its current state, without an event."""

        def attempt() -> None:
            deployment = self._log.load(Deployment, id)
            self._settle(deployment)
            self._log.commit(deployment)

        cause = Cause("service:serving", f"settle:{uuid4()}", self._clock.now())
        with because(cause):
            self._log.retrying(attempt)

    def _settle(self, deployment: Deployment) -> None:
        """Attach or detach a deployment, and record the outcome.

        If resources are exhausted, retry the deployment later, so that other events can be handled
        meanwhile. A deployment that was never active fails after MAX_TRIES, because it may be too
        large for this machine.
        """
        with self._one_at_a_time:
            if not deployment.status.is_wanted or deployment.account_id in self._suspended:
                self._let_go(deployment.id)
                return
            try:
                self._attach(deployment)
            except CannotServe as refusal:
                self._give_up(deployment, refusal)
            except Exception as error:
                if not is_resource_exhaustion(error):
                    raise
                self._host.detach(deployment.id)  # its previous weights may occupy the memory
                self._put_off(deployment, error)
            else:
                self._backoff.reset(deployment.id)
                deployment.activate()

    def _put_off(self, deployment: Deployment, error: Exception) -> None:
        """Schedule a retry. After MAX_TRIES, fail a deployment that was never active."""
        never_served = deployment.status is DeploymentStatus.DEPLOYING
        if never_served and self._backoff.failures(deployment.id) == MAX_TRIES:
            self._give_up(deployment, CannotServe("no_room", repr(error)))
            return
        pause = self._backoff.postpone(deployment.id, self._clock.now())
        log.warning(
            "no resources to load %s; retrying in %s", deployment.model, pause, exc_info=error
        )

    def _give_up(self, deployment: Deployment, refusal: CannotServe) -> None:
        log.warning("%s (%s)", deployment.model, refusal.code, exc_info=refusal)
        self._let_go(deployment.id)
        deployment.fail(refusal.code, refusal.message)

    def _let_go(self, id: UUID) -> None:
        self._backoff.reset(id)
        self._host.detach(id)
        self._store.forget(id)

    def _attach(self, deployment: Deployment) -> None:
        served = self._store.fetch(deployment)
        try:
            with self._attempts.noted(deployment.id):
                self._host.attach(served)
        except CannotServe:
            raise
        except Exception as error:
            if is_resource_exhaustion(error):
                raise
            # The weights match the log, so a retry would fail in the same way. If the process ended
            # here, all other deployments would end too.
            raise CannotServe("load_failed") from error

    def _wanted(self, account_id: UUID | None = None) -> Iterator[Deployment]:
        """Yield deploying and active deployments of one or all accounts, without loading others."""
        for event in self._events(Deployment.DeploymentRequested):
            if account_id not in (None, event.account_id):
                continue
            deployment = self._log.load(Deployment, event.originator_id)
            if deployment.status.is_wanted:
                yield deployment

    def _suspended_accounts(self) -> set[UUID]:
        found = set[UUID]()
        for event in self._events(Account.AccountSuspended, Account.AccountReinstated):
            if isinstance(event, Account.AccountSuspended):
                found.add(event.account_id)
            else:
                found.discard(event.account_id)
        return found

    def _events(self, *kinds: type[Event]) -> Iterator[Event]:
        position = 0
        while batch := self._log.recorder.select_notifications(
            start=position,
            limit=BATCH_EVENTS,
            topics=[kind.TOPIC for kind in kinds],
            inclusive_of_start=False,
        ):
            for notification in batch:
                yield recorded(self._log, notification).event
            position = batch[-1].id
