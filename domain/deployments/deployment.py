"""A request to serve a model under a name, and its state."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created
from domain.core.identity import deployment_id
from domain.core.value import Value


class DeploymentStatus(StrEnum):
    """States of a deployment."""

    DEPLOYING = "deploying"  # not loaded yet
    ACTIVE = "active"  # the model was loaded and serves requests
    FAILED = "failed"
    UNDEPLOYED = "undeployed"

    @property
    def is_wanted(self) -> bool:
        """True if serving should keep the model loaded."""
        return self in (DeploymentStatus.DEPLOYING, DeploymentStatus.ACTIVE)


class AdapterWeights(Value):
    """An adapter in the artifact store: the model of a job, or one of its checkpoints."""

    ref: str  # artifact prefix of the adapter
    manifest_sha256: str
    job_id: UUID
    step: int | None  # step of the checkpoint; None: the job's model


class Weights(Value):
    """The weights that a deployment serves: a base model, with or without an adapter."""

    base_model: str
    base_ref: str
    base_manifest_sha256: str
    adapter: AdapterWeights | None  # None: the base model itself


class Deployment(Aggregate):
    """A request to serve a model under a name. The platform owns deployments of base models.

    Repeated commands have no effect. A restart of serving does not change a deployment.
    """

    TOPIC: ClassVar[str] = "Deployment"

    class Event(Aggregate.Event):
        """Base class of the events of a deployment."""

    class DeploymentRequested(Event, Created):
        """The owner or an operator requested that a model, checkpoint or base model be served."""

        model: str
        weights: Weights

        @property
        def job_id(self) -> UUID | None:
            """Job that trained the adapter; None for a base model. Always the same for a name."""
            return self.weights.adapter and self.weights.adapter.job_id

    class DeploymentRenewed(Event):
        """The model was requested again, possibly with other weights."""

        weights: Weights

    class DeploymentActivated(Event):
        """The model is loaded and serves requests."""

    class DeploymentFailed(Event):
        """The model cannot be served. EcoLink does not retry until it is deployed again."""

        code: str
        message: str

    class Undeployed(Event):
        """The model was undeployed and no longer serves requests."""

    @classmethod
    def request(cls, account_id: UUID, model: str, weights: Weights) -> Deployment:
        """Return the first deployment of a name."""
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
        """Deploy `weights`, whatever the current state is."""
        if not self.status.is_wanted or weights != self.weights:
            self.trigger_event(self.DeploymentRenewed, weights=weights)

    @event(DeploymentRenewed)
    def _deployment_renewed(self, weights: Weights) -> None:
        self.weights = weights
        self.status = DeploymentStatus.DEPLOYING

    def activate(self) -> None:
        """Record that the model serves requests, if the state is `deploying`."""
        if self.status is DeploymentStatus.DEPLOYING:
            self.trigger_event(self.DeploymentActivated)

    @event(DeploymentActivated)
    def _deployment_activated(self) -> None:
        self.status = DeploymentStatus.ACTIVE

    def fail(self, code: str, message: str) -> None:
        """Record that the model cannot be served, if the state is `deploying` or `active`."""
        if self.status.is_wanted:
            self.trigger_event(self.DeploymentFailed, code=code, message=message)

    @event(DeploymentFailed)
    def _deployment_failed(self) -> None:
        self.status = DeploymentStatus.FAILED

    def undeploy(self) -> None:
        """Stop serving the model."""
        if self.status is not DeploymentStatus.UNDEPLOYED:
            self.trigger_event(self.Undeployed)

    @event(Undeployed)
    def _undeployed(self) -> None:
        self.status = DeploymentStatus.UNDEPLOYED
