"""Deploying: the use cases that have bases, models and checkpoints served, and that end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from domain.catalog.base_model import BaseModel
from domain.core.errors import NotFound, WrongState
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id, deployment_id
from domain.deployments.deployment import AdapterWeights, Deployment, DeploymentStatus, Weights
from domain.jobs.job import MODEL_DELETED, Job
from domain.training.checkpoint import SavedCheckpoint, checkpoint_model

Adapters = Callable[[], int]
"""How many adapters are served from a base."""

Uses = Callable[[], Sequence[str]]
"""What uses a base, each as a phrase for its operator: unfinished jobs, and adapters served."""


class Deploying:
    """The use cases of a model's owner, and of the operator. Each runs inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def deploy_base(self, name: str) -> Deployment:
        """Have a base answer requests, as it is in the model store; jobs may then fine-tune it."""

        def attempt() -> Deployment:
            base = self._log.find(BaseModel, base_model_id(name))
            if base is None or base.deleted:
                raise NotFound(f"no base model {name!r}; it has to be imported first")
            deployment = base_deployment(self._log, base)
            self._log.commit(deployment)
            return deployment

        return self._log.retrying(attempt)

    def undeploy_base(self, name: str, adapters: Adapters) -> Deployment:
        """Have a base answer no more; refused while adapters are served from it."""

        def refuse_in_use() -> None:
            if (count := adapters()) > 0:
                raise WrongState(
                    f"{name} serves {count} adapter{'s' if count > 1 else ''}; undeploy "
                    f"{'them' if count > 1 else 'it'} first",
                    figures={"adapters": count},
                )

        return self._undeploy(PLATFORM_ACCOUNT_ID, name, refuse_in_use)

    def delete_base(self, name: str, uses: Uses) -> None:
        """Delete a base, and have it answer no more; refused while anything uses it. Once.

        Raises NotFound, and WrongState with the list of what uses it.
        """

        def attempt() -> None:
            base = self._log.find(BaseModel, base_model_id(name))
            if base is None or base.deleted:
                raise NotFound(f"no base model {name!r}")
            if found := uses():
                raise WrongState(
                    f"{name} is in use: {'; '.join(found)}. Cancel these jobs and undeploy these "
                    "models first",
                    figures={"uses": list(found)},
                )
            base.delete()
            served = self._log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, name))
            if served is not None:
                served.undeploy()
            self._log.commit(base, *([served] if served else []))

        self._log.retrying(attempt)

    def deploy_model(self, account_id: UUID, job_id: UUID) -> Deployment:
        """Have the model that a job registered, or was promoted to, answer requests."""

        def attempt() -> Deployment:
            job = self._own_job(account_id, job_id)
            require_base(self._log, job)
            deployment = model_deployment(self._log, job)
            self._log.commit(deployment)
            return deployment

        return self._log.retrying(attempt)

    def deploy_checkpoint(self, account_id: UUID, job_id: UUID, step: int) -> Deployment:
        """Have a checkpoint that a job holds answer requests, under a name of its own."""

        def attempt() -> Deployment:
            job = self._own_job(account_id, job_id)
            saved = _checkpoint(job, step)
            require_base(self._log, job)
            deployment = _wanted(
                self._log,
                account_id,
                checkpoint_model(job.model_name, step),
                _weights(job, saved.ref, saved.manifest_sha256, step),
            )
            self._log.commit(deployment)
            return deployment

        return self._log.retrying(attempt)

    def delete_model(self, account_id: UUID, job_id: UUID) -> None:
        """Delete a job's model and checkpoints; what of it is deployed answers no more. Once."""

        def attempt() -> None:
            job = self._own_job(account_id, job_id)
            names = [job.model_name, *_checkpoint_names(job)]
            job.delete_model()
            known = [self._log.find(Deployment, deployment_id(account_id, each)) for each in names]
            served = [each for each in known if each is not None]
            for each in served:
                each.undeploy()
            self._log.commit(job, *served)

        self._log.retrying(attempt)

    def redeploy(self, account_id: UUID, model: str) -> Deployment:
        """Have a name answer again that did before; raises NotFound if it never did."""
        adapter = self._own(account_id, model).weights.adapter
        assert adapter is not None, "an account deploys adapters only"
        if adapter.step is None:
            return self.deploy_model(account_id, adapter.job_id)
        return self.deploy_checkpoint(account_id, adapter.job_id, adapter.step)

    def undeploy(self, account_id: UUID, model: str) -> Deployment:
        """Have one's model or checkpoint answer no more."""
        return self._undeploy(account_id, model, lambda: None)

    def _undeploy(self, account_id: UUID, model: str, require: Callable[[], None]) -> Deployment:
        def attempt() -> Deployment:
            deployment = self._own(account_id, model)
            if deployment.status is not DeploymentStatus.UNDEPLOYED:
                require()
            deployment.undeploy()
            self._log.commit(deployment)
            return deployment

        return self._log.retrying(attempt)

    def _own(self, account_id: UUID, model: str) -> Deployment:
        deployment = self._log.find(Deployment, deployment_id(account_id, model))
        if deployment is None:
            raise NotFound(f"{model} was never deployed")
        return deployment

    def _own_job(self, account_id: UUID, job_id: UUID) -> Job:
        job = self._log.find(Job, job_id)
        if job is None or job.account_id != account_id:
            raise NotFound(f"no job {job_id}")
        return job


def base_deployment(log: EventLog, base: BaseModel) -> Deployment:
    """The deployment of a base as it is in the model store, wanted and not saved yet."""
    weights = Weights(
        base_model=base.name,
        base_ref=base.ref,
        base_manifest_sha256=base.manifest_sha256,
        adapter=None,
    )
    return _wanted(log, PLATFORM_ACCOUNT_ID, base.name, weights)


def model_deployment(log: EventLog, job: Job) -> Deployment:
    """The deployment of a job's model, wanted and not saved yet; raises WrongState without one."""
    if job.model_deleted:
        raise WrongState(MODEL_DELETED)
    if (model := job.model) is None:
        raise WrongState(
            f"the job is {job.status} and has no model yet; it has one when it is registered, and "
            "what a cancelled or failed job had saved can be promoted to one"
        )
    weights = _weights(job, model.adapter_ref, model.manifest_sha256, step=None)
    return _wanted(log, job.account_id, model.name, weights)


def require_base(log: EventLog, job: Job) -> None:
    """Raise WrongState unless the base that a job trained on has an active deployment."""
    name = job.plan.base_model
    if (reason := why_not_served(log, name, job.plan.base_manifest_sha256)) is not None:
        raise WrongState(f"an adapter needs its base, and {name} {reason}")


def why_not_served(log: EventLog, name: str, manifest_sha256: str) -> str | None:
    """What keeps a base, with this content, from being served; None if it has an active deployment.

    It reads on from the base's name.
    """
    deployment = log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, name))
    if deployment is None or deployment.status is DeploymentStatus.UNDEPLOYED:
        return "is not deployed; an operator can deploy it"
    if deployment.status is DeploymentStatus.FAILED:
        return "could not be deployed; an operator can see why, and deploy it again"
    if deployment.weights.base_manifest_sha256 != manifest_sha256:
        return "is deployed with other content, which was imported under its name at another time"
    if deployment.status is DeploymentStatus.DEPLOYING:
        return "is still being deployed; try again in a moment"
    return None


def deployed_refs(log: EventLog, job: Job) -> frozenset[str]:
    """Refs of a job's checkpoints that must be kept: from being deployed until being undeployed.

    One that could not be served is kept as well, so that it can be deployed again.
    """
    ids = [deployment_id(job.account_id, name) for name in _checkpoint_names(job)]
    deployments = [log.find(Deployment, each) for each in ids]
    return frozenset(
        each.weights.adapter.ref
        for each in deployments
        if each is not None
        and each.status is not DeploymentStatus.UNDEPLOYED
        and each.weights.adapter is not None
    )


def _checkpoint_names(job: Job) -> list[str]:
    """Names under which what a job holds may be deployed; a step may have been saved twice."""
    return sorted({checkpoint_model(job.model_name, each.step) for each in job.checkpoints})


def _wanted(log: EventLog, account_id: UUID, model: str, weights: Weights) -> Deployment:
    known = log.find(Deployment, deployment_id(account_id, model))
    if known is None:
        return Deployment.request(account_id, model, weights)
    known.renew(weights)
    return known


def _weights(job: Job, ref: str, manifest_sha256: str, step: int | None) -> Weights:
    """An adapter of a job, on the base that it was trained on."""
    return Weights(
        base_model=job.plan.base_model,
        base_ref=job.plan.base_ref,
        base_manifest_sha256=job.plan.base_manifest_sha256,
        adapter=AdapterWeights(ref=ref, manifest_sha256=manifest_sha256, job_id=job.id, step=step),
    )


def _checkpoint(job: Job, step: int) -> SavedCheckpoint:
    """The newest checkpoint of a step; raises NotFound, or WrongState when all are deleted."""
    if job.model is None and job.retention_ended:
        raise WrongState(
            f"The job's checkpoints were kept until {job.expires_at:%Y-%m-%d %H:%M} UTC and are "
            "deleted."
        )
    found = next((each for each in reversed(job.checkpoints) if each.step == step), None)
    if found is None:
        steps = ", ".join(str(each.step) for each in job.checkpoints) or "none"
        raise NotFound(f"the job holds no checkpoint of step {step}; it holds: {steps}")
    return found
