"""Deployments: what answers requests, and the commands that have it do so or end it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from domain.core.aggregate import because
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment, DeploymentStatus
from domain.deployments.failures import advice_on
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf, OperatorOf
from gateway.http.errors import refusals
from gateway.http.paging import LARGEST_PAGE, Limit, Page
from gateway.http.read_your_writes import caught_up, found
from gateway.schemas import Answer, JobId
from projections import DEPLOYMENTS, MODELS
from projections.deployments import adapters_on, deployment_named, deployments_of
from projections.models import model_of
from projections.projection import Row

router = APIRouter(tags=["deployments"])


class DeploymentFailure(Answer):
    """Why a model cannot be served."""

    code: str = Field(examples=["weights_missing"])
    message: str
    advice: str = Field(description="What to do about it.")


class DeploymentAnswer(Answer):
    """A base, a model or a checkpoint that was asked to answer requests."""

    id: UUID
    model: str = Field(
        description="Its name in requests.",
        examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"],
    )
    status: DeploymentStatus
    base_model: str
    job_id: JobId | None = Field(description="Whose adapter it is; null: a base itself.")
    step: int | None = Field(description="Of a checkpoint; null: a job's model, or a base.")
    requested_at: datetime
    changed_at: datetime
    failure: DeploymentFailure | None

    @classmethod
    def of(cls, row: Row) -> DeploymentAnswer:
        """The answer for a row of the projection."""
        code, message = row["failure_code"], row["failure_message"]
        return cls(
            **{name: row[name] for name in cls.model_fields if name in row},
            id=row["deployment_id"],
            failure=None
            if code is None
            else DeploymentFailure(code=code, message=message, advice=advice_on(code)),
        )


@router.get("/deployments", responses=refusals(404))
def list_deployments(
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[
        str | None, Query(description="Only those that come after this model.")
    ] = None,
    limit: Limit = LARGEST_PAGE,
) -> Page[DeploymentAnswer]:
    """The bases' deployments, which everyone may use, then the caller's own, by name."""
    if after is not None:
        _shown(backend, caller, after)
    with backend.pool.connection() as connection:
        read = partial(deployments_of, connection, caller.account_id, after)
        return Page[DeploymentAnswer].of(read, limit, DeploymentAnswer.of)


@router.get("/models/{model}/deployment", responses=refusals(404))
def show_deployment(model: str, caller: CallerOf, backend: BackendOf) -> DeploymentAnswer:
    """Whether a base, or a model or checkpoint of the caller, answers requests."""
    return _shown(backend, caller, model)


@router.post("/models/{model}/deploy", responses=refusals(404, 409))
def deploy_model(model: str, caller: CallerOf, backend: BackendOf) -> DeploymentAnswer:
    """Attach a model of the caller to the deployment of its base; it is active within seconds.

    A checkpoint that was deployed before is deployed again by its name, if its job still holds it:
    undeploying it may have deleted it, which is a 404. 409 when the base has no active deployment.
    """
    deploying, account_id = backend.deploying, caller.account_id
    if backend.log.find(Deployment, deployment_id(account_id, model)) is not None:
        return _give(backend, caller, lambda: deploying.redeploy(account_id, model))
    row = found(
        backend,
        MODELS,
        lambda connection: model_of(connection, account_id, model),
        f"no model {model}",
    )
    return _give(backend, caller, lambda: deploying.deploy_model(account_id, row["job_id"]))


@router.post("/models/{model}/undeploy", responses=refusals(404))
def undeploy_model(model: str, caller: CallerOf, backend: BackendOf) -> DeploymentAnswer:
    """Have a model or checkpoint of the caller answer no more.

    A model can be deployed again. A checkpoint may be deleted at once, unless it is one that its
    job keeps anyway, such as the newest or the best: then it cannot be deployed again.
    """
    return _give(backend, caller, lambda: backend.deploying.undeploy(caller.account_id, model))


@router.post("/jobs/{job_id}/checkpoints/{step}/deploy", responses=refusals(404, 409))
def deploy_checkpoint(
    job_id: JobId, step: int, caller: CallerOf, backend: BackendOf
) -> DeploymentAnswer:
    """Have a checkpoint that exists answer, under a name of its own.

    It is kept until it is undeployed, and may be deleted then.
    """
    return _give(
        backend,
        caller,
        lambda: backend.deploying.deploy_checkpoint(caller.account_id, job_id, step),
    )


@router.post("/operator/bases/{name}/deploy", responses=refusals(403, 404))
def deploy_base(name: str, caller: OperatorOf, backend: BackendOf) -> DeploymentAnswer:
    """Have a base answer requests, as it is in the model store; jobs may then fine-tune it."""
    return _give(backend, caller, lambda: backend.deploying.deploy_base(name))


@router.post("/operator/bases/{name}/undeploy", responses=refusals(403, 404, 409))
def undeploy_base(name: str, caller: OperatorOf, backend: BackendOf) -> DeploymentAnswer:
    """Have a base answer no more, nor be fine-tuned; 409 while adapters are served from it."""

    def adapters() -> int:
        caught_up(backend, DEPLOYMENTS)
        with backend.pool.connection() as connection:
            return adapters_on(connection, name)

    return _give(backend, caller, lambda: backend.deploying.undeploy_base(name, adapters))


def _give(backend: Backend, caller: Caller, command: Callable[[], Deployment]) -> DeploymentAnswer:
    """Give a command, and answer the deployment as it is then."""
    with because(caller.cause(backend)):
        deployment = command()
    caught_up(backend, DEPLOYMENTS)
    return _shown(backend, caller, deployment.model)


def _shown(backend: Backend, caller: Caller, model: str) -> DeploymentAnswer:
    row = found(
        backend,
        DEPLOYMENTS,
        lambda connection: deployment_named(connection, caller.account_id, model),
        f"{model} was never deployed",
    )
    return DeploymentAnswer.of(row)
