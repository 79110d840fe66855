"""The page of models: what jobs made, whether it answers, what could become a model, the bases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from domain.access.role import Role
from domain.core.durations import spoken
from domain.deployments.deployment import DeploymentStatus
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf, OperatorOf
from gateway.jobs import service as jobs
from gateway.jobs.names import JobNames, names_by_id
from gateway.keys.api import list_keys
from gateway.models.api.deployments import (
    DeploymentAnswer,
    deploy_base,
    deploy_model,
    list_deployments,
    undeploy_base,
    undeploy_model,
)
from gateway.models.api.models import BaseModelAnswer, KeptAdapter, ModelAnswer, list_models
from gateway.models.pages.snippets import snippets_for
from gateway.schemas import JobId, job_name
from gateway.web.rendering import fragment, page

LATE = timedelta(seconds=20)
"""After which a deployment that is not active yet takes longer than one does."""

router = APIRouter(prefix="/models")


@dataclass(frozen=True)
class Named:
    """Something that answers under its name, or could."""

    name: str
    kind: str
    base_model: str
    status: DeploymentStatus | None

    @property
    def active(self) -> bool:
        """Whether it answers now."""
        return self.status is DeploymentStatus.ACTIVE


@dataclass(frozen=True)
class Shown:
    """What the page shows, as it is at one moment."""

    own: list[ModelAnswer]
    kept: list[KeptAdapter]
    bases: list[BaseModelAnswer]
    deployments: dict[str, DeploymentAnswer]
    jobs: dict[UUID, JobNames]
    operator: bool
    now: datetime

    @property
    def checkpoints(self) -> list[DeploymentAnswer]:
        """Deployed checkpoints, and those that could not be."""
        own = {each.model for each in self.own}
        return [
            each
            for each in self.deployments.values()
            if each.job_id is not None
            and each.model not in own
            and each.status is not DeploymentStatus.UNDEPLOYED
        ]

    @property
    def moving(self) -> bool:
        """Whether something will be otherwise in a moment."""
        return any(each.status is DeploymentStatus.DEPLOYING for each in self.deployments.values())

    @property
    def named(self) -> list[Named]:
        """All names that a chat can be asked of, the caller's own first."""
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
        """What has a name, if anything has."""
        return next((each for each in self.named if each.name == model), None)

    def chosen(self, model: str | None) -> Named | None:
        """What was asked for; else the first that answers, or that could."""
        answering = (each for each in self.named if each.active)
        return self.find(model) or next(answering, None) or next(iter(self.named), None)

    def base_answers(self, base_model: str) -> bool:
        """Whether adapters of a base can be deployed now."""
        base = self.deployments.get(base_model)
        return base is not None and base.status is DeploymentStatus.ACTIVE

    def title_of(self, job_id: UUID) -> str:
        """What a job is called; the read model may not know it yet."""
        return self.jobs[job_id].heading if job_id in self.jobs else job_name(job_id)

    def dataset_of(self, job_id: UUID) -> str:
        """What the dataset of a job is called."""
        named = self.jobs.get(job_id)
        return (named and named.dataset) or "deleted"

    def late(self, deployment: DeploymentAnswer) -> bool:
        """Whether a deployment takes longer than one does."""
        return self.now - deployment.requested_at > LATE

    def time_left(self, kept: KeptAdapter) -> str:
        """How long something is still kept."""
        if kept.expires_at is None:
            return "kept"
        seconds = (kept.expires_at - self.now).total_seconds()
        days = ceil(seconds / 86400)
        return f"{days} days left" if days > 1 else f"{spoken(max(0, seconds))} left"


def shown(backend: Backend, caller: Caller) -> Shown:
    """What there is of models for a caller."""
    models = list_models(caller, backend)
    deployments = list_deployments(caller, backend).data
    made = {each.job_id for each in (*models.models, *models.kept, *deployments)}
    return Shown(
        own=models.models,
        kept=models.kept,
        bases=models.base_models,
        deployments={each.model: each for each in deployments},
        jobs=names_by_id(backend, [each for each in made if each is not None]),
        operator=caller.role is Role.OPERATOR,
        now=backend.clock.now(),
    )


@router.get("")
def show_models(
    request: Request, caller: CallerOf, backend: BackendOf, model: str | None = None
) -> Response:
    """The whole page; `model` is the one that the snippets call."""
    there = shown(backend, caller)
    chosen = there.chosen(model)
    return page(
        request,
        backend,
        caller,
        "models/page.html",
        shown=there,
        keys=list_keys(caller, backend).data,
        chosen=chosen,
        snippets=snippets_for(request, chosen.name if chosen else None),
    )


@router.get("/list")
def show_list(caller: CallerOf, backend: BackendOf) -> Response:
    """The lists alone, which ask for themselves while something is being deployed."""
    return _lists(backend, caller)


@router.post("/{model}/deploy")
def deploy(model: str, caller: CallerOf, backend: BackendOf) -> Response:
    """Deploy a model or a checkpoint."""
    deploy_model(model, caller, backend)
    return _lists(backend, caller)


@router.post("/{model}/undeploy")
def undeploy(model: str, caller: CallerOf, backend: BackendOf) -> Response:
    """Have a model or a checkpoint answer no more."""
    undeploy_model(model, caller, backend)
    return _lists(backend, caller)


@router.post("/jobs/{job_id}/promote")
def promote(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """Make a model of what a stopped job had saved."""
    jobs.promote(backend, caller, job_id)
    return _lists(backend, caller)


@router.post("/bases/{name}/deploy")
def deploy_a_base(name: str, caller: OperatorOf, backend: BackendOf) -> Response:
    """Have a base answer."""
    deploy_base(name, caller, backend)
    return _lists(backend, caller)


@router.post("/bases/{name}/undeploy")
def undeploy_a_base(name: str, caller: OperatorOf, backend: BackendOf) -> Response:
    """Have a base answer no more."""
    undeploy_base(name, caller, backend)
    return _lists(backend, caller)


def _lists(backend: Backend, caller: Caller) -> Response:
    return fragment("models/lists.html", shown=shown(backend, caller))
