"""Use cases that deploy and undeploy base models, fine-tuned models and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from domain.core.aggregate import because
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from domain.deployments.failures import advice_on
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.paging import LARGEST_PAGE
from gateway.http.read_your_writes import caught_up, found
from gateway.models.schemas import DeploymentFailure, DeploymentResponse
from gateway.models.service import own_model
from gateway.schemas import Page
from projections import BASE_MODELS, DEPLOYMENTS, JOB_DETAIL
from projections.base_uses import uses_of_base
from projections.deployments import adapter_names_on, deployment_named, deployments_of
from projections.projection import Row


def list_deployments(
    backend: Backend, caller: Caller, after: str | None = None, limit: int = LARGEST_PAGE
) -> Page[DeploymentResponse]:
    """Return the deployments of base models, then those of the account, by name."""
    if after is not None:
        show_deployment(backend, caller, after)
    with backend.pool.connection() as connection:
        read = partial(deployments_of, connection, caller.account_id, after)
        return Page[DeploymentResponse].of(read, limit, deployment_answer)


def show_deployment(backend: Backend, caller: Caller, model: str) -> DeploymentResponse:
    """Return the deployment with this model name. Raise NotFound if there is none."""
    row = found(
        backend,
        DEPLOYMENTS,
        lambda connection: deployment_named(connection, caller.account_id, model),
        f"{model} was never deployed. See `ecolink models list`.",
    )
    return deployment_answer(row)


def deploy_model(backend: Backend, caller: Caller, model: str) -> DeploymentResponse:
    """Deploy a fine-tuned model, or a checkpoint that was deployed before."""
    deploying, account_id = backend.deploying, caller.account_id
    if backend.log.find(Deployment, deployment_id(account_id, model)) is not None:
        return _run(backend, caller, lambda: deploying.redeploy(account_id, model))
    job_id = own_model(backend, caller, model)["job_id"]
    return _run(backend, caller, lambda: deploying.deploy_model(account_id, job_id))


def undeploy_model(backend: Backend, caller: Caller, model: str) -> DeploymentResponse:
    """Undeploy a fine-tuned model or a checkpoint. Raise NotFound if there is no deployment."""
    return _run(backend, caller, lambda: backend.deploying.undeploy(caller.account_id, model))


def deploy_checkpoint(
    backend: Backend, caller: Caller, job_id: UUID, step: int
) -> DeploymentResponse:
    """Deploy a checkpoint under its own name, if its base model is deployed."""
    account_id = caller.account_id
    return _run(
        backend, caller, lambda: backend.deploying.deploy_checkpoint(account_id, job_id, step)
    )


def deploy_base(backend: Backend, caller: Caller, name: str) -> DeploymentResponse:
    """Deploy a base model, so that jobs can fine-tune it. Raise NotFound if it is unknown."""
    return _run(backend, caller, lambda: backend.deploying.deploy_base(name))


def undeploy_base(backend: Backend, caller: Caller, name: str) -> DeploymentResponse:
    """Undeploy a base model that serves no adapters."""

    def adapters() -> int:
        caught_up(backend, DEPLOYMENTS)
        with backend.pool.connection() as connection:
            return len(adapter_names_on(connection, name))

    return _run(backend, caller, lambda: backend.deploying.undeploy_base(name, adapters))


def delete_base(backend: Backend, caller: Caller, name: str) -> None:
    """Delete a base model that nothing uses, and its files, for all accounts."""

    def uses() -> list[str]:
        caught_up(backend, JOB_DETAIL, DEPLOYMENTS)
        with backend.pool.connection() as connection:
            return uses_of_base(connection, name)

    with because(caller.cause(backend)):
        backend.deploying.delete_base(name, uses)
    caught_up(backend, BASE_MODELS, DEPLOYMENTS)


def _run(backend: Backend, caller: Caller, command: Callable[[], Deployment]) -> DeploymentResponse:
    with because(caller.cause(backend)):
        deployment = command()
    caught_up(backend, DEPLOYMENTS)
    return show_deployment(backend, caller, deployment.model)


def deployment_answer(row: Row) -> DeploymentResponse:
    """Return the schema of a deployment's row."""
    code, message = row["failure_code"], row["failure_message"]
    return DeploymentResponse(
        **{name: row[name] for name in DeploymentResponse.model_fields if name in row},
        id=row["deployment_id"],
        failure=None
        if code is None
        else DeploymentFailure(code=code, message=message, advice=advice_on(code)),
    )
