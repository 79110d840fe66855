"""Use cases of accounts, API keys, datasets and base models."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from domain.access.api_key import ApiKey, new_secret, secret_sha256
from domain.access.rights import KeyRequest, Rights
from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.budget import BudgetName
from domain.billing.payment import Payment, Receipt
from domain.billing.spending import charged_since
from domain.billing.suspension import SuspensionReason
from domain.catalog.base_model import BaseModel, Revision
from domain.core.aggregate import current_cause
from domain.core.errors import CommandReused, NotFound, WrongState
from domain.core.event_log import EventLog, retrying
from domain.core.identity import api_key_id, base_model_id, payment_id
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions


class EcoLink:
    """Use cases of account owners and operators. Each must run inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def open_account(self, account_id: UUID, role: Role, time_zone: str = "UTC") -> Account:
        """Open an account with a balance of 0. If it exists, return it unchanged."""
        account = self.log.find(Account, account_id)
        if account is None:
            account = Account.open(account_id, role, time_zone)
            self.log.commit(account)
        return account

    @retrying
    def grant_credit(self, account_id: UUID, amount_micros: int, reference: str) -> Account:
        """Grant credit to an account, once for each reference."""
        account = self.log.load(Account, account_id)
        account.grant_credit(amount_micros, reference)
        self.log.commit(account)
        return account

    @retrying
    def top_up(self, account_id: UUID, receipt: Receipt) -> Account:
        """Add a confirmed payment to a balance, once. It must be of this account and amount."""
        account = self.log.load(Account, account_id)
        known = self.log.find(Payment, payment_id(receipt.provider, receipt.reference))
        if known is not None:
            known.require_same(account_id, receipt)
            return account
        payment = Payment.receive(account_id, receipt)
        account.top_up(payment)
        self.log.commit(payment, account)
        return account

    @retrying
    def set_budget(self, account_id: UUID, name: BudgetName, limit_micros: int) -> Account:
        """Limit the charges of an account, or of one of its API keys."""
        account = self.log.load(Account, account_id)
        self._require_key(account_id, name.key_id)
        account.set_budget(name, limit_micros, self._spent(account, name))
        self.log.commit(account)
        return account

    def _spent(self, account: Account, name: BudgetName) -> int:
        """Return the charges less credits of a budget's current period, in micro-dollars."""
        today = current_cause().now.date()
        if (known := account.budgets.get(name)) is not None:
            return known.at(today).spent_micros
        if (first := name.period.first_day(today)) is not None:
            return charged_since(self.log, account, first, name.key_id)
        use = account.key_uses.get(name.key_id) if name.key_id else None
        return use.charged_micros if use else 0

    @retrying
    def remove_budget(self, account_id: UUID, name: BudgetName) -> Account:
        """Remove a budget, if it is set. Raise NotFound if the account has no such key."""
        account = self.log.load(Account, account_id)
        self._require_key(account_id, name.key_id)
        account.remove_budget(name)
        self.log.commit(account)
        return account

    @retrying
    def suspend(self, account_id: UUID, reason: SuspensionReason) -> Account:
        """Suspend an owner. The scheduler pauses its jobs, and serving stops its deployments."""
        account = self.log.load(Account, account_id)
        account.suspend(reason)
        self.log.commit(account)
        return account

    @retrying
    def reinstate(self, account_id: UUID) -> Account:
        """End the suspension of an account. Its deployments serve again; its jobs stay paused."""
        account = self.log.load(Account, account_id)
        account.reinstate()
        self.log.commit(account)
        return account

    def _require_key(self, account_id: UUID, key_id: UUID | None) -> None:
        """Raise NotFound if an account does not have this API key. It may be revoked."""
        if key_id is not None:
            self._key_of(account_id, key_id)

    def _key_of(self, account_id: UUID, key_id: UUID) -> ApiKey:
        key = self.log.find(ApiKey, key_id)
        if key is None or key.account_id != account_id:
            raise NotFound(f"Unknown API key {key_id}. See `ecolink keys list`.")
        return key

    def issue_key(
        self, account_id: UUID, wanted: KeyRequest = KeyRequest(), issuer: Rights | None = None
    ) -> tuple[ApiKey, str]:
        """Return a new key and its secret. `issuer` has the rights of the issuing key, if any."""
        account = self.log.load(Account, account_id)
        account.require_active()
        rights = wanted.granted(account.role, issuer, current_cause().now)
        secret = new_secret()
        key = ApiKey.issue(account_id, rights, secret)
        self.log.commit(key)
        return key, secret

    @retrying
    def revoke_key(self, account_id: UUID, key_id: UUID) -> ApiKey:
        """Revoke a key. Raise NotFound if the account has no such key."""
        key = self._key_of(account_id, key_id)
        key.revoke()
        self.log.commit(key)
        return key

    def authenticate(self, secret: str) -> ApiKey | None:
        """Return the key with this secret, maybe expired, or None if unknown or revoked."""
        return self.unrevoked_key(api_key_id(secret_sha256(secret)))

    def unrevoked_key(self, key_id: UUID) -> ApiKey | None:
        """Return the key with this ID, or None if it does not exist or was revoked."""
        key = self.log.find(ApiKey, key_id)
        return key if key is not None and not key.revoked else None

    def valid_key(self, key_id: UUID, now: datetime) -> ApiKey | None:
        """Return the key with this ID, or None if it does not exist, was revoked or has expired."""
        key = self.unrevoked_key(key_id)
        return key if key is not None and not key.rights.expired(now) else None

    @retrying
    def upload_dataset(
        self,
        account_id: UUID,
        dataset_id: UUID,
        ref: str,
        sha256: str,
        total_bytes: int,
        options: UploadOptions = UploadOptions(),
    ) -> Dataset:
        """Record a file that is completely stored. This starts its validation.

        If the ID exists, return the existing dataset. Raise CommandReused if its content or options
        differ, and Suspended for a suspended account.
        """
        existing = self.log.find(Dataset, dataset_id)
        if existing is not None:
            if existing.upload_sha256 != sha256:
                raise CommandReused(
                    "You already used this idempotency key for another file. Use a new key."
                )
            if existing.options != options:
                raise CommandReused(
                    "You already used this idempotency key with other options. Use a new key."
                )
            if existing.status is DatasetStatus.DELETED:
                raise WrongState("You deleted the file of this idempotency key. Use a new key.")
            return existing
        self.log.load(Account, account_id).require_active()
        dataset = Dataset.uploaded(dataset_id, account_id, ref, sha256, total_bytes, options)
        self.log.commit(dataset)
        return dataset

    @retrying
    def ignore_tools(self, account_id: UUID, dataset_id: UUID) -> Dataset:
        """Confirm that jobs may ignore the tool definitions of a valid dataset."""
        dataset = self.log.find(Dataset, dataset_id)
        if dataset is None or dataset.account_id != account_id:
            raise _unknown_dataset(dataset_id)
        dataset.ignore_tools()
        self.log.commit(dataset)
        return dataset

    @retrying
    def delete_dataset(self, account_id: UUID, dataset_id: UUID, used_by: Collection[UUID]) -> None:
        """Delete a dataset.

        `used_by` contains the IDs of the unfinished jobs that use it. Raise NotFound if the account
        has no such dataset, and WrongState while any of them is unfinished. An approval refuses a
        deleted dataset. If it is saved between the look-up of these IDs and the deletion, its job
        fails, free of charge.
        """
        dataset = self.log.load(Dataset, dataset_id)
        if dataset.account_id != account_id:
            raise _unknown_dataset(dataset_id)
        dataset.delete(used_by)
        self.log.commit(dataset)

    @retrying
    def import_base_model(self, name: str, revision: Revision) -> BaseModel:
        """Record a base model whose files are all in the model store."""
        base = self.log.find(BaseModel, base_model_id(name))
        if base is None:
            base = BaseModel.imported(name, revision)
        else:
            base.revise(revision)
        self.log.commit(base)
        return base


def _unknown_dataset(dataset_id: UUID) -> NotFound:
    return NotFound(f"Unknown dataset {dataset_id}. See `ecolink datasets list`.")
