"""The view of the models page and the playground."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from uuid import UUID

from domain.access.role import Role
from domain.core.durations import spoken
from domain.deployments.deployment import DeploymentStatus
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.jobs.names import JobNames, names_by_id
from gateway.models.deployments import list_deployments
from gateway.models.schemas import BaseModelResponse, DeploymentResponse, KeptAdapter, ModelResponse
from gateway.models.service import list_models
from gateway.schemas import job_name

LATE = timedelta(seconds=20)
"""Time after which a deployment counts as unusually slow."""


@dataclass(frozen=True)
class Named:
    """A model name that a request can use once it is deployed."""

    name: str
    kind: str
    base_model: str
    status: DeploymentStatus | None

    @property
    def active(self) -> bool:
        """True if it is deployed."""
        return self.status is DeploymentStatus.ACTIVE


@dataclass(frozen=True)
class ModelsView:
    """A snapshot of models, deployments and kept adapters."""

    own: list[ModelResponse]
    kept: list[KeptAdapter]
    bases: list[BaseModelResponse]
    deployments: dict[str, DeploymentResponse]
    jobs: dict[UUID, JobNames]
    operator: bool
    now: datetime

    @property
    def checkpoints(self) -> list[DeploymentResponse]:
        """Checkpoints whose deployment is active, in progress or failed."""
        own = {each.model for each in self.own}
        return [
            each
            for each in self.deployments.values()
            if each.job_id is not None
            and each.model not in own
            and each.status is not DeploymentStatus.UNDEPLOYED
        ]

    @property
    def deploying(self) -> bool:
        """True if a deployment is in progress, by the list of models, which is read first."""
        statuses = [each.status for each in (*self.deployments.values(), *self.named)]
        return DeploymentStatus.DEPLOYING in statuses

    @property
    def named(self) -> list[Named]:
        """All model names: fine-tuned models, then checkpoints, then base models."""
        names = [
            Named(each.model, "Your models", each.base_model, each.deployment) for each in self.own
        ]
        names += [
            Named(each.model, "Checkpoints", each.base_model, each.status)
            for each in self.checkpoints
        ]
        return names + [
            Named(each.name, "Base models", each.name, each.deployment) for each in self.bases
        ]

    def find(self, model: str | None) -> Named | None:
        """Return the model with this name, or None."""
        return next((each for each in self.named if each.name == model), None)

    def chosen(self, model: str | None) -> Named | None:
        """Return the named model, otherwise the first deployed one, otherwise the first."""
        deployed = (each for each in self.named if each.active)
        return self.find(model) or next(deployed, None) or next(iter(self.named), None)

    def is_base_active(self, base_model: str) -> bool:
        """Return True if adapters of a base model can be deployed."""
        base = self.deployments.get(base_model)
        return base is not None and base.status is DeploymentStatus.ACTIVE

    def title_of(self, job_id: UUID) -> str:
        """Return the heading of a job, or its ID if the read model lags behind."""
        return self.jobs[job_id].heading if job_id in self.jobs else job_name(job_id)

    def dataset_of(self, job_id: UUID) -> str:
        """Return the name of a job's dataset."""
        named = self.jobs.get(job_id)
        return (named and named.dataset) or "deleted"

    def late(self, deployment: DeploymentResponse) -> bool:
        """Return True if a deployment is unusually slow."""
        return self.now - deployment.requested_at > LATE

    def time_left(self, kept: KeptAdapter) -> str:
        """Return the remaining retention time of an adapter."""
        if kept.expires_at is None:
            return "kept"
        seconds = (kept.expires_at - self.now).total_seconds()
        days = ceil(seconds / 86400)
        return f"{days} days left" if days > 1 else f"{spoken(max(0, seconds))} left"


def models_view(backend: Backend, caller: Caller) -> ModelsView:
    """Return the models of an account."""
    models = list_models(backend, caller)
    deployments = list_deployments(backend, caller).data
    made = {each.job_id for each in (*models.models, *models.kept, *deployments)}
    return ModelsView(
        own=models.models,
        kept=models.kept,
        bases=models.base_models,
        deployments={each.model: each for each in deployments},
        jobs=names_by_id(backend, [each for each in made if each is not None]),
        operator=caller.role is Role.OPERATOR,
        now=backend.clock.now(),
    )
