"""The use cases of account holders and operators: load aggregates, act, save once."""

from __future__ import annotations

from uuid import UUID

from domain.account import Account, Role
from domain.api_key import ApiKey, new_secret, secret_sha256
from domain.base_model import BaseModel
from domain.catalog import catalog
from domain.dataset import Dataset, DatasetStatus
from domain.errors import CommandReused, InsufficientBalance, Invalid, NotFound, WrongState
from domain.event_log import EventLog
from domain.hyperparameters import Hyperparameters
from domain.identity import api_key_id, base_model_id, created_id
from domain.job import Job, TrainingPlan
from domain.money import dollars


class EcoLink:
    """Every command that a person can give. Each runs inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def open_account(self, account_id: UUID, role: Role, time_zone: str = "UTC") -> Account:
        """Open an account; one that is open already stays as it is."""
        account = self.log.find(Account, account_id)
        if account is None:
            account = Account.open(account_id, role, time_zone)
            self.log.commit(account)
        return account

    def grant_credit(self, account_id: UUID, amount_micros: int, reference: str) -> Account:
        """Give an account credit, once for each reference."""

        def attempt() -> Account:
            account = self.log.load(Account, account_id)
            account.grant_credit(amount_micros, reference)
            self.log.commit(account)
            return account

        return self.log.retrying(attempt)

    def issue_key(self, account_id: UUID) -> tuple[ApiKey, str]:
        """Make an API key; returns it and its secret, which nobody can read again."""
        account = self.log.load(Account, account_id)
        secret = new_secret()
        key = ApiKey.issue(account_id, account.role, secret)
        self.log.commit(key)
        return key, secret

    def revoke_key(self, account_id: UUID, key_id: UUID) -> None:
        """End a key; it is refused from the next call on."""
        key = self.log.load(ApiKey, key_id)
        if key.account_id != account_id:
            raise NotFound(f"no apikey {key_id}")
        key.revoke()
        self.log.commit(key)

    def authenticate(self, secret: str) -> ApiKey | None:
        """The key with this secret, if it was issued and not revoked."""
        key = self.log.find(ApiKey, api_key_id(secret_sha256(secret)))
        return key if key is not None and not key.revoked else None

    def upload_dataset(
        self, account_id: UUID, dataset_id: UUID, ref: str, sha256: str, total_bytes: int
    ) -> Dataset:
        """Record a file that is whole in the artifact store; its validation begins.

        The same id again makes nothing new: the first file counts, and other content is refused.
        """

        def attempt() -> Dataset:
            existing = self.log.find(Dataset, dataset_id)
            if existing is not None:
                if existing.upload_sha256 != sha256:
                    raise CommandReused("this idempotency key was used for a different file")
                return existing
            dataset = Dataset.uploaded(dataset_id, account_id, ref, sha256, total_bytes)
            self.log.commit(dataset)
            return dataset

        return self.log.retrying(attempt)

    def import_base_model(
        self,
        name: str,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
    ) -> BaseModel:
        """Offer a base model that is complete in the model store."""
        content = (ref, manifest_sha256, architecture, parameters, context_length)
        base = self.log.find(BaseModel, base_model_id(name))
        if base is None:
            base = BaseModel.imported(name, *content)
        else:
            base.revise(*content)
        self.log.commit(base)
        return base

    def plan_job(
        self,
        account_id: UUID,
        dataset_id: UUID,
        base_model: str,
        region: str,
        gpu_type: str,
        gpu_count: int,
        hyperparameters: Hyperparameters,
    ) -> TrainingPlan:
        """Check what a user chose and freeze it; raises Invalid, NotFound or WrongState."""
        dataset = self.log.find(Dataset, dataset_id)
        if dataset is None or dataset.account_id != account_id:
            raise NotFound(f"no dataset {dataset_id}", field="dataset")
        if dataset.status is not DatasetStatus.READY_FOR_TRAINING:
            raise WrongState(
                f"the dataset is {dataset.status}; it must be ready_for_training", field="dataset"
            )
        base = self.log.find(BaseModel, base_model_id(base_model))
        if base is None:
            raise Invalid(
                f"no base model {base_model!r}; GET /api/models lists them", field="base_model"
            )
        rate = catalog().rate_micros_per_hour(region, gpu_type, gpu_count)
        return TrainingPlan(
            dataset_id=dataset.id,
            dataset_ref=dataset.ref,
            dataset_sha256=dataset.sha256,
            base_model=base.name,
            base_ref=base.ref,
            base_manifest_sha256=base.manifest_sha256,
            region=region,
            gpu_type=gpu_type,
            gpu_count=gpu_count,
            rate_micros_per_hour=rate,
            catalog_version=catalog().version,
            hyperparameters=hyperparameters.model_dump(mode="json"),
        )

    def approve_job(self, account_id: UUID, command_key: str, plan: TrainingPlan) -> Job:
        """Start a job; the same command key makes the same job, with other choices it is refused.

        Raises InsufficientBalance when the account cannot pay for a second of it.
        """
        job_id = created_id(account_id, "job", command_key)

        def attempt() -> Job:
            existing = self.log.find(Job, job_id)
            if existing is not None:
                if existing.plan.choices != plan.choices:
                    raise CommandReused("this idempotency key was used for a different job")
                return existing
            account = self.log.load(Account, account_id)
            if not account.affords(plan.rate_micros_per_hour):
                raise InsufficientBalance(
                    f"the balance is {dollars(account.available_micros)}; "
                    f"this job costs {dollars(plan.rate_micros_per_hour)} an hour"
                )
            job = Job.approve(job_id, account_id, plan)
            self.log.commit(job)
            return job

        return self.log.retrying(attempt)
