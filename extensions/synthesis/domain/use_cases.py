"""Use cases of syntheses: approve, pause, resume, stop, cancel and finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from domain.billing.account import Account
from domain.billing.spending import charged_key
from domain.core.actor import acting_key
from domain.core.aggregate import current_cause
from domain.core.errors import (
    CommandReused,
    InsufficientBalance,
    NotFound,
    SpendingLimitReached,
    WrongState,
)
from domain.core.event_log import EventLog, retrying
from domain.core.money import Toward, dollars, exact_dollars
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions
from extensions.synthesis.domain.plan import SynthesisPlan
from extensions.synthesis.domain.price import CostRange
from extensions.synthesis.domain.synthesis import Synthesis


@dataclass(frozen=True)
class Upload:
    """The stored file of a dataset, and the numbers of edited and removed examples."""

    ref: str
    sha256: str
    total_bytes: int
    edited: int
    removed: int


class Synthesizing:
    """Use cases of a synthesis's owner. Each command must run inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @retrying
    def approve(
        self,
        account_id: UUID,
        synthesis_id: UUID,
        plan: SynthesisPlan,
        estimate: CostRange,
        max_cost_micros: int | None,
    ) -> Synthesis:
        """Approve a synthesis, once for each ID.

        By default, it costs at most the upper bound of the estimate. Raise CommandReused if the ID
        was approved with other choices or another maximum cost, and Suspended for a suspended
        account. Raise InsufficientBalance if the balance is below the upper bound and the maximum
        cost, and SpendingLimitReached if a budget leaves nothing. Raise WrongState if the seed
        dataset was deleted since the plan was made.
        """
        existing = self.log.find(Synthesis, synthesis_id)
        if existing is not None:
            require_repetition(existing, plan, max_cost_micros)
            return existing
        most = estimate.high_micros if max_cost_micros is None else max_cost_micros
        account = self.log.load(Account, account_id)
        account.require_active()
        key_id = charged_key(self.log, account, acting_key(current_cause().actor))
        _require_funds(account, key_id, min(most, estimate.high_micros))
        self._require_seed(plan)
        synthesis = Synthesis.approve(synthesis_id, account_id, plan, estimate, most, key_id)
        self.log.commit(synthesis)
        return synthesis

    def pause(self, account_id: UUID, synthesis_id: UUID) -> Synthesis:
        """Pause the generation. Raise WrongState if it has ended."""
        return self._command(account_id, synthesis_id, lambda found: found.pause())

    def resume(
        self, account_id: UUID, synthesis_id: UUID, max_cost_micros: int | None
    ) -> Synthesis:
        """Continue a paused generation that the balance pays, maybe with a new maximum cost."""

        def command(found: Synthesis) -> None:
            account = self.log.load(Account, account_id)
            account.require_active()
            found.resume(max_cost_micros)
            rest = max(0, found.estimate.high_micros - found.charged_micros)
            _require_funds(account, found.key_id, min(rest, found.left_micros))

        return self._command(account_id, synthesis_id, command)

    def stop(self, account_id: UUID, synthesis_id: UUID) -> Synthesis:
        """End the generation early. Raise WrongState if too few examples are accepted."""
        return self._command(account_id, synthesis_id, lambda found: found.stop())

    def cancel(self, account_id: UUID, synthesis_id: UUID) -> Synthesis:
        """End the run without a dataset. Raise WrongState if it has ended."""
        return self._command(account_id, synthesis_id, lambda found: found.cancel())

    @retrying
    def create_dataset(
        self, account_id: UUID, synthesis_id: UUID, dataset_id: UUID, upload: Upload
    ) -> Synthesis:
        """Record the dataset of the reviewed examples, with its upload, once and at the same time.

        Raise WrongState before the review, and Suspended for a suspended account.
        """
        found = self.owned(account_id, synthesis_id)
        if found.dataset_id is None:
            self.log.load(Account, account_id).require_active()
            options = UploadOptions(keep_duplicates=True, synthesis_id=synthesis_id)
            dataset = Dataset.uploaded(
                dataset_id, account_id, upload.ref, upload.sha256, upload.total_bytes, options
            )
            found.create_dataset(dataset_id, upload.sha256, upload.edited, upload.removed)
            self.log.commit(dataset, found)
        return found

    def owned(self, account_id: UUID, synthesis_id: UUID) -> Synthesis:
        """Return a synthesis of an account. Raise NotFound."""
        found = self.log.find(Synthesis, synthesis_id)
        if found is None or found.account_id != account_id:
            raise NotFound(f"Unknown synthesis {synthesis_id}. See `ecolink syntheses list`.")
        return found

    def _require_seed(self, plan: SynthesisPlan) -> None:
        """Raise WrongState unless the examples of the plan's seed dataset, if any, are stored."""
        if plan.seed_dataset_id is None:
            return
        dataset = self.log.load(Dataset, plan.seed_dataset_id)
        is_ready = dataset.status is DatasetStatus.READY_FOR_TRAINING
        if not is_ready or dataset.sha256 != plan.seed_dataset_sha256:
            raise WrongState(
                f"The seed dataset is {dataset.status}. Choose one that is ready for training.",
                field="seed_dataset",
            )

    @retrying
    def _command(
        self, account_id: UUID, synthesis_id: UUID, command: Callable[[Synthesis], None]
    ) -> Synthesis:
        found = self.owned(account_id, synthesis_id)
        command(found)
        self.log.commit(found)
        return found


def require_repetition(
    existing: Synthesis, plan: SynthesisPlan, max_cost_micros: int | None
) -> None:
    """Raise CommandReused unless a synthesis was approved with these choices and maximum cost."""
    if existing.plan.choices != plan.choices:
        raise CommandReused(
            "You already used this idempotency key for another synthesis. Use a new key."
        )
    most = existing.estimate.high_micros if max_cost_micros is None else max_cost_micros
    if most != existing.approved_max_micros:
        raise CommandReused(
            "You already used this idempotency key for a synthesis with the maximum cost "
            f"{exact_dollars(existing.approved_max_micros)}, and not {exact_dollars(most)}. Use a "
            "new key, or repeat that maximum cost.",
            field="max_cost",
        )


def _require_funds(account: Account, key_id: UUID | None, needed_micros: int) -> None:
    """Raise InsufficientBalance or SpendingLimitReached if a synthesis must not start."""
    balance = account.balance_micros
    if not account.can_pay(needed_micros, released_micros=account.reserved_micros):
        missing = needed_micros - balance
        raise InsufficientBalance(
            f"The balance is {dollars(balance)}, but the synthesis can cost "
            f"{dollars(needed_micros, Toward.UP)}. Top up {dollars(missing, Toward.UP)} first, or "
            "lower the maximum cost.",
            figures={
                "balance_micros": balance,
                "needed_micros": needed_micros,
                "missing_micros": missing,
            },
        )
    today = current_cause().now.date()
    if needed_micros and any(each.left_micros <= 0 for each in account.budgets_of(key_id, today)):
        raise SpendingLimitReached(
            "A budget is used up. Raise or remove it, or wait until it renews."
        )
