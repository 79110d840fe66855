"""The use cases of account holders and operators: load aggregates, act, save once."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from domain.access.api_key import ApiKey, new_secret, secret_sha256
from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.payment import Payment, Receipt
from domain.catalog.base_model import BaseModel
from domain.catalog.model_shape import ModelShape
from domain.core.errors import CommandReused, NotFound, WrongState
from domain.core.event_log import EventLog
from domain.core.identity import api_key_id, base_model_id, payment_id
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions


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

    def top_up(self, account_id: UUID, receipt: Receipt) -> Account:
        """Add a confirmed payment to a balance; the same payment again adds nothing.

        Raises CommandReused when the payment is another account's, or was of another amount.
        """

        def attempt() -> Account:
            account = self.log.load(Account, account_id)
            known = self.log.find(Payment, payment_id(receipt.provider, receipt.reference))
            if known is not None:
                known.require_same(account_id, receipt)
                return account
            payment = Payment.receive(account_id, receipt)
            account.top_up(payment)
            self.log.commit(payment, account)
            return account

        return self.log.retrying(attempt)

    def issue_key(self, account_id: UUID) -> tuple[ApiKey, str]:
        """Make an API key; returns it and its secret, which nobody can read again."""
        account = self.log.load(Account, account_id)
        secret = new_secret()
        key = ApiKey.issue(account_id, account.role, secret)
        self.log.commit(key)
        return key, secret

    def revoke_key(self, account_id: UUID, key_id: UUID) -> ApiKey:
        """End a key; it is refused from the next call on. Raises NotFound, also for another's."""

        def attempt() -> ApiKey:
            key = self.log.find(ApiKey, key_id)
            if key is None or key.account_id != account_id:
                raise NotFound(f"no key {key_id}")
            key.revoke()
            self.log.commit(key)
            return key

        return self.log.retrying(attempt)

    def authenticate(self, secret: str) -> ApiKey | None:
        """The key with this secret, if it was issued and not revoked."""
        return self.valid_key(api_key_id(secret_sha256(secret)))

    def valid_key(self, key_id: UUID) -> ApiKey | None:
        """The key with this id, if it was issued and not revoked."""
        key = self.log.find(ApiKey, key_id)
        return key if key is not None and not key.revoked else None

    def upload_dataset(
        self,
        account_id: UUID,
        dataset_id: UUID,
        ref: str,
        sha256: str,
        total_bytes: int,
        options: UploadOptions = UploadOptions(),
    ) -> Dataset:
        """Record a file that is whole in the artifact store; its validation begins.

        The same id again makes nothing new: the first file counts, and other content is refused.
        """

        def attempt() -> Dataset:
            existing = self.log.find(Dataset, dataset_id)
            if existing is not None:
                if existing.upload_sha256 != sha256:
                    raise CommandReused("this idempotency key was used for a different file")
                if existing.options != options:
                    raise CommandReused("this idempotency key was used with different options")
                if existing.status is DatasetStatus.DELETED:
                    raise WrongState("the file of this idempotency key was deleted; use another")
                return existing
            dataset = Dataset.uploaded(dataset_id, account_id, ref, sha256, total_bytes, options)
            self.log.commit(dataset)
            return dataset

        return self.log.retrying(attempt)

    def ignore_tools(self, account_id: UUID, dataset_id: UUID) -> Dataset:
        """Confirm that jobs train on a dataset without the tools that its lines define.

        Raises NotFound, also for another's, and WrongState unless it is ready.
        """

        def attempt() -> Dataset:
            dataset = self.log.find(Dataset, dataset_id)
            if dataset is None or dataset.account_id != account_id:
                raise NotFound(f"no dataset {dataset_id}")
            dataset.ignore_tools()
            self.log.commit(dataset)
            return dataset

        return self.log.retrying(attempt)

    def delete_dataset(self, account_id: UUID, dataset_id: UUID, used_by: Collection[UUID]) -> None:
        """Give a file up; `used_by` are the jobs on it that are not over. Twice is once.

        A job approved at this very moment does not see it, and fails, at no cost, when it would be
        launched.
        """

        def attempt() -> None:
            dataset = self.log.load(Dataset, dataset_id)
            if dataset.account_id != account_id:
                raise NotFound(f"no dataset {dataset_id}")
            dataset.delete(used_by)
            self.log.commit(dataset)

        self.log.retrying(attempt)

    def import_base_model(
        self,
        name: str,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
        shape: ModelShape,
    ) -> BaseModel:
        """Offer a base model that is complete in the model store."""
        content = (ref, manifest_sha256, architecture, parameters, context_length, shape)
        base = self.log.find(BaseModel, base_model_id(name))
        if base is None:
            base = BaseModel.imported(name, *content)
        else:
            base.revise(*content)
        self.log.commit(base)
        return base
