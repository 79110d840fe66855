"""Use cases that deploy, undeploy and delete base models, models and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from domain.billing.account import Account
from domain.catalog.base_model import BaseModel
from domain.core.errors import NotFound, WrongState
from domain.core.event_log import EventLog, retrying
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id, deployment_id
from domain.deployments.deployment import AdapterWeights, Deployment, DeploymentStatus, Weights
from domain.jobs.job import MODEL_DELETED, Job
from domain.training.checkpoint import SavedCheckpoint, checkpoint_model

Adapters = Callable[[], int]
"""A function that returns the number of deployed adapters of a base model."""

Uses = Callable[[], Sequence[str]]
"""A function that describes what uses a base model: unfinished jobs and deployed adapters."""


class Deploying:
    """Use cases of model owners and operators. Each must run inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @retrying
    def deploy_base(self, name: str) -> Deployment:
        """Deploy a base model from the model store, so that jobs can fine-tune it."""
        base = self.log.find(BaseModel, base_model_id(name))
        if base is None or base.deleted:
            raise NotFound(f"Unknown base model {name!r}. Import it first.")
        deployment = base_deployment(self.log, base)
        self.log.commit(deployment)
        return deployment

    def undeploy_base(self, name: str, adapters: Adapters) -> Deployment:
        """Undeploy a base model. Raise WrongState while adapters of it are deployed."""

        def refuse_in_use() -> None:
            if (count := adapters()) > 0:
                raise WrongState(
                    f"{name} serves {count} adapter{'s' if count > 1 else ''}. Undeploy "
                    f"{'them' if count > 1 else 'it'} first.",
                    figures={"adapters": count},
                )

        return self._undeploy(PLATFORM_ACCOUNT_ID, name, refuse_in_use)

    @retrying
    def delete_base(self, name: str, uses: Uses) -> None:
        """Undeploy and delete a base model that is in the model store and not in use."""
        base = self.log.find(BaseModel, base_model_id(name))
        if base is None or base.deleted:
            raise NotFound(f"Unknown base model {name!r}. See `ecolink models list`.")
        if found := uses():
            raise WrongState(
                f"{name} is in use: {'; '.join(found)}. Cancel these jobs and undeploy these "
                "models first.",
                figures={"uses": list(found)},
            )
        base.delete()
        served = self.log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, name))
        if served is not None:
            served.undeploy()
        self.log.commit(base, *([served] if served else []))

    @retrying
    def deploy_model(self, account_id: UUID, job_id: UUID) -> Deployment:
        """Deploy the model of a job, if it has one and its base model is served."""
        self.log.load(Account, account_id).require_active()
        job = self._own_job(account_id, job_id)
        require_base(self.log, job)
        deployment = model_deployment(self.log, job)
        self.log.commit(deployment)
        return deployment

    @retrying
    def deploy_checkpoint(self, account_id: UUID, job_id: UUID, step: int) -> Deployment:
        """Deploy a checkpoint of a job under its own name.

        Raise NotFound if the job has no checkpoint at `step`, and WrongState if the retention time
        has ended or the base model is not served. Raise Suspended for a suspended account.
        """
        self.log.load(Account, account_id).require_active()
        job = self._own_job(account_id, job_id)
        saved = checkpoint_of(job, step)
        require_base(self.log, job)
        deployment = _wanted(
            self.log,
            account_id,
            checkpoint_model(job.model_name, step),
            _weights(job, saved.ref, saved.manifest_sha256, step),
        )
        self.log.commit(deployment)
        return deployment

    @retrying
    def delete_model(
        self, account_id: UUID, job_id: UUID, continued_by: Collection[UUID] = ()
    ) -> None:
        """Undeploy and delete the model and all checkpoints of a job.

        `continued_by` has the IDs of the unfinished jobs that continue the model. Raise WrongState
        if there are any.
        """
        job = self._own_job(account_id, job_id)
        if continued_by:
            one = len(continued_by) == 1
            raise WrongState(
                f"{len(continued_by):,} unfinished {'job continues' if one else 'jobs continue'} "
                f"this model. Wait for {'it' if one else 'them'} to finish, or cancel "
                f"{'it' if one else 'them'}.",
                figures={"jobs": [str(each) for each in continued_by]},
            )
        names = [job.model_name, *_checkpoint_names(job)]
        job.delete_model()
        known = [self.log.find(Deployment, deployment_id(account_id, each)) for each in names]
        served = [each for each in known if each is not None]
        for each in served:
            each.undeploy()
        self.log.commit(job, *served)

    def redeploy(self, account_id: UUID, model: str) -> Deployment:
        """Deploy a model or checkpoint again. Raise NotFound if it was never deployed."""
        adapter = self._own(account_id, model).weights.adapter
        assert adapter is not None, "an account deploys adapters only"
        if adapter.step is None:
            return self.deploy_model(account_id, adapter.job_id)
        return self.deploy_checkpoint(account_id, adapter.job_id, adapter.step)

    def undeploy(self, account_id: UUID, model: str) -> Deployment:
        """Undeploy a model or checkpoint of an account."""
        return self._undeploy(account_id, model, lambda: None)

    @retrying
    def _undeploy(self, account_id: UUID, model: str, require: Callable[[], None]) -> Deployment:
        deployment = self._own(account_id, model)
        if deployment.status is not DeploymentStatus.UNDEPLOYED:
            require()
        deployment.undeploy()
        self.log.commit(deployment)
        return deployment

    def _own(self, account_id: UUID, model: str) -> Deployment:
        deployment = self.log.find(Deployment, deployment_id(account_id, model))
        if deployment is None:
            raise NotFound(f"{model} was never deployed. See `ecolink models list`.")
        return deployment

    def _own_job(self, account_id: UUID, job_id: UUID) -> Job:
        job = self.log.find(Job, job_id)
        if job is None or job.account_id != account_id:
            raise NotFound(f"Unknown job {job_id}. See `ecolink jobs list`.")
        return job


def base_deployment(log: EventLog, base: BaseModel) -> Deployment:
    """Return an unsaved deployment of a base model that is in the model store."""
    weights = Weights(
        base_model=base.name,
        base_ref=base.revision.ref,
        base_manifest_sha256=base.manifest_sha256,
        adapter=None,
    )
    return _wanted(log, PLATFORM_ACCOUNT_ID, base.name, weights)


def model_deployment(log: EventLog, job: Job) -> Deployment:
    """Return an unsaved deployment of a job's model. Raise WrongState if it has no model."""
    if job.model_deleted:
        raise WrongState(MODEL_DELETED)
    if (model := job.model) is None:
        raise WrongState(
            f"The job is {job.status} and has no model. Wait until the model is registered, or "
            "promote the checkpoint of a cancelled or failed job."
        )
    weights = _weights(job, model.adapter_ref, model.manifest_sha256, step=None)
    return _wanted(log, job.account_id, model.name, weights)


def require_base(log: EventLog, job: Job) -> None:
    """Raise WrongState unless the job's base model is served with the same content."""
    name = job.plan.base_model
    if (reason := why_not_served(log, name, job.plan.base_manifest_sha256)) is not None:
        raise WrongState(f"The adapter needs its base model. {reason}")


def why_not_served(log: EventLog, name: str, manifest_sha256: str) -> str | None:
    """Return why the base model with this content is not served; None if it is."""
    deployment = log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, name))
    if deployment is None or deployment.status is DeploymentStatus.UNDEPLOYED:
        return f"{name} is not deployed. Ask your operator to deploy it."
    if deployment.status is DeploymentStatus.FAILED:
        return f"The deployment of {name} failed. Ask your operator to deploy it again."
    if deployment.weights.base_manifest_sha256 != manifest_sha256:
        return f"{name} is deployed from another import than the job used. Ask your operator."
    if deployment.status is DeploymentStatus.DEPLOYING:
        return f"{name} is still being deployed. Try again in a moment."
    return None


def deployed_refs(log: EventLog, job: Job) -> frozenset[str]:
    """Return the artifacts of deployed checkpoints, and of failed ones, which can be retried."""
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
    return sorted({checkpoint_model(job.model_name, each.step) for each in job.checkpoints})


def _wanted(log: EventLog, account_id: UUID, model: str, weights: Weights) -> Deployment:
    known = log.find(Deployment, deployment_id(account_id, model))
    if known is None:
        return Deployment.request(account_id, model, weights)
    known.renew(weights)
    return known


def _weights(job: Job, ref: str, manifest_sha256: str, step: int | None) -> Weights:
    return Weights(
        base_model=job.plan.base_model,
        base_ref=job.plan.base_ref,
        base_manifest_sha256=job.plan.base_manifest_sha256,
        adapter=AdapterWeights(ref=ref, manifest_sha256=manifest_sha256, job_id=job.id, step=step),
    )


def checkpoint_of(job: Job, step: int) -> SavedCheckpoint:
    """Return the newest checkpoint at a step. Raise NotFound, or WrongState after its retention."""
    if job.model is None and job.retention_ended:
        raise WrongState(
            f"EcoLink kept the job's checkpoints until {job.expires_at:%Y-%m-%d %H:%M} UTC. "
            "Start a new job."
        )
    found = next((each for each in reversed(job.checkpoints) if each.step == step), None)
    if found is None:
        steps = ", ".join(str(each.step) for each in job.checkpoints) or "none"
        raise NotFound(f"The job has no checkpoint of step {step:,}. Available steps: {steps}.")
    return found
