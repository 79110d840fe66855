"""The serving process's reactions: what is wanted is put into memory, what is not leaves it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from threading import Lock
from uuid import UUID, uuid4

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment, DeploymentStatus
from domain.jobs.job import Job
from domain.use_cases.deployments import base_deployment, model_deployment, why_not_served
from infrastructure.backoff import Postponed
from infrastructure.clock import Clock
from infrastructure.consumer import BATCH_EVENTS
from services.serving.attempts import Attempts
from services.serving.deployed import CannotServe, Host
from services.serving.resource_exhaustion import MOST_TRIES, is_shortage
from services.serving.weights import WeightStore

log = logging.getLogger("serving")


class Serving:
    """Keeps memory equal to what the log wants: at the start all at once, then event by event.

    What is attached again changes nothing, so that each event may be answered again.
    """

    def __init__(
        self, log: EventLog, clock: Clock, store: WeightStore, attempts: Attempts, host: Host
    ) -> None:
        self._log = log
        self._clock = clock
        self._store = store
        self._attempts = attempts
        self._host = host
        self._postponed = Postponed[UUID]()
        self._one_at_a_time = Lock()  # a replay and what was put off run beside the consumer

    def react(self, event: Event) -> Sequence[Aggregate]:
        """Answer one event of the log."""
        match event:
            case BaseModel.BaseModelImported() | BaseModel.BaseModelRevised():
                return self.on_base_imported(event)
            case Job.Registered():
                return self.on_registered(event)
            case (
                Deployment.DeploymentRequested()
                | Deployment.DeploymentRenewed()
                | Deployment.Undeployed()
            ):
                return self.on_deployment_changed(event)
            case _:
                return []

    def restore(self) -> None:
        """Put everything into memory that is wanted, bases first; what cannot be is given up.

        Raises what says nothing against the weights, such as a store that is away.
        """
        wanted = sorted(self._wanted(), key=lambda each: each.weights.adapter is not None)
        self._store.forget_all_but(wanted)
        for each in wanted:
            self._settle_alone(each.id)
        log.info("%d deployments were wanted at the start", len(wanted))

    def try_again(self) -> None:
        """Attach what the machine had no room for, as far as its time has come."""
        for id in self._postponed.due(self._clock.now()):  # bases come first
            try:
                self._settle_alone(id)
            except Exception:  # another is not to wait for it
                log.exception("%s is tried again later", id)
                self._postponed.put_off(id, self._clock.now())

    def on_base_imported(self, event: Event) -> Sequence[Aggregate]:
        """Deploy a base that never was, and a new revision in the place of the one before.

        So do bases that were imported before there were deployments get theirs. An operator's word
        stays: what was undeployed is not deployed again by an import.
        """
        base = self._log.load(BaseModel, event.originator_id)
        if base.deleted:
            return []
        known = self._log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, base.name))
        if known is not None and known.status is DeploymentStatus.UNDEPLOYED:
            return []
        return [base_deployment(self._log, base)]

    def on_registered(self, event: Job.Registered) -> Sequence[Aggregate]:
        """Deploy the model of a job that was approved with that wish."""
        job = self._log.load(Job, event.originator_id)
        if not job.order.deploy or job.model_deleted:
            return []
        deployment = model_deployment(self._log, job)
        base = job.plan.base_model
        if (reason := why_not_served(self._log, base, job.plan.base_manifest_sha256)) is not None:
            deployment.fail("base_not_deployed", f"An adapter needs its base, and {base} {reason}.")
        return [deployment]

    def on_deployment_changed(self, event: Event) -> Sequence[Aggregate]:
        """Make memory as the deployment is wanted now, whatever came after this event."""
        deployment = self._log.load(Deployment, event.originator_id)
        self._settle(deployment)
        return [deployment]

    def _settle_alone(self, id: UUID) -> None:
        """Make memory as a deployment is wanted now, beside any event."""

        def attempt() -> None:
            deployment = self._log.load(Deployment, id)
            self._settle(deployment)
            self._log.commit(deployment)

        cause = Cause("service:serving", f"settle:{uuid4()}", self._clock.now())
        with because(cause):
            self._log.retrying(attempt)

    def _settle(self, deployment: Deployment) -> None:
        """Attach or detach, and have the deployment say what came of it.

        What the machine has no room for now stays wanted, and is tried again: the log says nothing
        against it, and other events do not wait for it. What never was served is given up in the
        end, for it may be too large for this machine.
        """
        with self._one_at_a_time:
            if not deployment.status.is_wanted:
                self._let_go(deployment.id)
                return
            try:
                self._attach(deployment)
            except CannotServe as refusal:
                self._give_up(deployment, refusal)
            except Exception as error:
                if not is_shortage(error):
                    raise
                self._host.detach(deployment.id)  # what it had before may be what is in the way
                self._put_off(deployment, error)
            else:
                self._postponed.settled(deployment.id)
                deployment.activate()

    def _put_off(self, deployment: Deployment, error: Exception) -> None:
        """Try again later what found no room now."""
        never_served = deployment.status is DeploymentStatus.DEPLOYING
        if never_served and self._postponed.tries(deployment.id) == MOST_TRIES:
            self._give_up(deployment, CannotServe("no_room", repr(error)))
            return
        pause = self._postponed.put_off(deployment.id, self._clock.now())
        log.warning("%s finds no room now; again in %s", deployment.model, pause, exc_info=error)

    def _give_up(self, deployment: Deployment, refusal: CannotServe) -> None:
        log.warning("%s (%s)", deployment.model, refusal.code, exc_info=refusal)
        self._let_go(deployment.id)
        deployment.fail(refusal.code, refusal.message)

    def _let_go(self, id: UUID) -> None:
        """Have it neither in memory nor on this machine's disk, nor tried again."""
        self._postponed.settled(id)
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
            if is_shortage(error):
                raise
            # The weights are those of the log: another attempt would end the same way, and a
            # process that ends here would take everything else that is served with it.
            raise CannotServe("load_failed") from error

    def _wanted(self) -> Iterator[Deployment]:
        """Every deployment that the log wants served, read from the log itself."""
        position = 0
        while batch := self._log.recorder.select_notifications(
            start=position,
            limit=BATCH_EVENTS,
            topics=[Deployment.DeploymentRequested.TOPIC],
            inclusive_of_start=False,
        ):
            for notification in batch:
                assert isinstance(notification.originator_id, UUID)
                deployment = self._log.load(Deployment, notification.originator_id)
                if deployment.status.is_wanted:
                    yield deployment
            position = batch[-1].id
