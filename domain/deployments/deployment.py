"""Deployment: a model that shall answer requests under its name, and whether it does."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event
from pydantic import BaseModel, ConfigDict

from domain.core.aggregate import Aggregate, Created, Event
from domain.core.identity import deployment_id


class DeploymentStatus(StrEnum):
    """Where a deployment stands."""

    DEPLOYING = "deploying"  # wanted, and not proven yet
    ACTIVE = "active"  # wanted, and it has answered that it can be served
    FAILED = "failed"
    UNDEPLOYED = "undeployed"

    @property
    def is_wanted(self) -> bool:
        """Whether whatever serves shall hold it in memory."""
        return self in (DeploymentStatus.DEPLOYING, DeploymentStatus.ACTIVE)


class AdapterWeights(BaseModel):
    """An adapter in the artifact store: a job's model, or one of its checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str  # artifact prefix
    manifest_sha256: str
    job_id: UUID
    step: int | None  # of a checkpoint; None: the job's model


class Weights(BaseModel):
    """What a deployment serves: a base as it is, or an adapter on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: str
    base_ref: str
    base_manifest_sha256: str
    adapter: AdapterWeights | None  # None: the base


class Deployment(Aggregate):
    """A name that should answer requests. Deployments of bases belong to the platform.

    A repeated command changes nothing, and neither does a restart of the serving process.
    """

    TOPIC: ClassVar[str] = "Deployment"

    class DeploymentRequested(Created):
        """A base, model or checkpoint should answer requests under its name."""

        model: str
        weights: Weights

        @property
        def job_id(self) -> UUID | None:
            """The job that made what is served; None of a base. A name never serves another's."""
            return self.weights.adapter and self.weights.adapter.job_id

    class DeploymentRenewed(Event):
        """The model should answer again, or with other weights."""

        weights: Weights

    class DeploymentActivated(Event):
        """The model is loaded and answers requests."""

    class DeploymentFailed(Event):
        """The model cannot be served. It is not retried until the next request to deploy it."""

        code: str
        message: str

    class Undeployed(Event):
        """The model no longer answers requests."""

    @classmethod
    def request(cls, account_id: UUID, model: str, weights: Weights) -> Deployment:
        """A name that was never deployed before."""
        return cls._create(
            cls.DeploymentRequested,
            id=deployment_id(account_id, model),
            account_id=account_id,
            model=model,
            weights=weights,
        )

    @event(DeploymentRequested)
    def __init__(self, account_id: UUID, model: str, weights: Weights) -> None:
        self.account_id = account_id
        self.model = model
        self.weights = weights
        self.status = DeploymentStatus.DEPLOYING

    def renew(self, weights: Weights) -> None:
        """Have the model answer with these weights, whatever became of it before."""
        if not self.status.is_wanted or weights != self.weights:
            self.trigger_event(self.DeploymentRenewed, weights=weights)

    @event(DeploymentRenewed)
    def _deployment_renewed(self, weights: Weights) -> None:
        self.weights = weights
        self.status = DeploymentStatus.DEPLOYING

    def activate(self) -> None:
        """Record that it answers requests, if that is still wanted."""
        if self.status is DeploymentStatus.DEPLOYING:
            self.trigger_event(self.DeploymentActivated)

    @event(DeploymentActivated)
    def _deployment_activated(self) -> None:
        self.status = DeploymentStatus.ACTIVE

    def fail(self, code: str, message: str) -> None:
        """Give up what is wanted and cannot be served, also where it could before."""
        if self.status.is_wanted:
            self.trigger_event(self.DeploymentFailed, code=code, message=message)

    @event(DeploymentFailed)
    def _deployment_failed(self) -> None:
        self.status = DeploymentStatus.FAILED

    def undeploy(self) -> None:
        """Have the model answer no more."""
        if self.status is not DeploymentStatus.UNDEPLOYED:
            self.trigger_event(self.Undeployed)

    @event(Undeployed)
    def _undeployed(self) -> None:
        self.status = DeploymentStatus.UNDEPLOYED
