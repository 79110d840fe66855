"""The prepaid balance of a customer, and the part of the balance that leases reserve."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import event
from eventsourcing.utils import register_topic
from pydantic import BaseModel, ConfigDict

from domain.access.role import Role, require_account_role
from domain.billing.budget import Budget, BudgetName, BudgetPeriod
from domain.billing.key_use import KeyShare, KeyUse, Share
from domain.billing.payment import TEST_DAY_MICROS, TEST_PROVIDER, Payment
from domain.billing.reference import reference_of
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import Aggregate, Created, current_cause
from domain.core.aggregate_snapshot import AggregateSnapshot
from domain.core.errors import CommandReused, InsufficientBalance, Invalid, Suspended, WrongState
from domain.core.money import Toward, dollars


class AccountState(BaseModel):
    """State of an account in a snapshot."""

    model_config = ConfigDict(frozen=True)

    account_id: UUID
    created_on: datetime
    modified_on: datetime
    role: Role
    currency: str
    time_zone: str
    balance_micros: int
    reserved_micros: int
    depleted: bool
    low: bool
    references: dict[str, int]
    test_day: date | None  # date of the last test payment, in UTC
    test_day_micros: int  # micro-dollars of test payments on that day
    budgets: tuple[Budget, ...]
    key_uses: dict[UUID, KeyUse]
    suspension: SuspensionReason | None
    erased: bool

    @classmethod
    def of(cls, account: Account) -> Self:
        """Return the state of an account."""
        fields = {name: getattr(account, name) for name in cls.model_fields}
        return cls.model_validate(fields | {"budgets": tuple(account.budgets.values())})


class Account(Aggregate):
    """A customer's account, in micro-dollars. `reserved_micros` is the part that leases reserve."""

    TOPIC: ClassVar[str] = "Account"

    class Event(Aggregate.Event):
        """Base class of the events of an account."""

    class AccountOpened(Event, Created):
        """An account was opened for a customer."""

        role: Role
        currency: str
        time_zone: str

    class CreditGranted(Event):
        """An operator granted credit to the account. The account counts each reference once."""

        amount_micros: int
        reference: str

    class ToppedUp(Event):
        """A confirmed payment was added to the balance."""

        amount_micros: int
        provider: str
        reference: str

    class TopUpWithheld(Event):
        """A refunded or disputed part of a payment was taken from the available balance."""

        amount_micros: int
        provider: str
        reference: str
        return_id: str

    class TopUpRestored(Event):
        """A withheld part is in the balance again, because it was not returned."""

        amount_micros: int
        provider: str
        reference: str
        return_id: str

    class UsageSettled(Event):
        """Charges were deducted from the reserve, and leases changed the reserved amount."""

        captured_micros: int
        reserved_micros: int
        keys: tuple[KeyShare, ...]  # the parts that count against API keys

    class BalanceDepleted(Event):
        """The balance is below the price of one second of the running segments."""

        balance_micros: int

    class BalanceLow(Event):
        """At the current rate, the balance lasts for less than the warning period."""

        runway_seconds: int

    class BalanceRecovered(Event):
        """The balance lasts for the warning period again, or no running segment costs money."""

        runway_seconds: int | None  # None: no running segment costs money

    class BudgetSet(Event):
        """The account holder set a budget, or changed its limit."""

        period: BudgetPeriod
        key_id: UUID | None  # None: the budget limits the charges of all jobs
        limit_micros: int
        spent_micros: int  # charges less credits of the current period so far

    class BudgetRemoved(Event):
        """The account holder removed a budget."""

        period: BudgetPeriod
        key_id: UUID | None

    class BudgetUsed(Event):
        """50, 80 or 100 percent of a budget are used, for the first time in its period.

        At 100 percent, the rest pays for less than one second of the running segments.
        """

        period: BudgetPeriod
        key_id: UUID | None
        starts_on: date | None  # first day of the period; None: all time
        percent: int
        spent_micros: int
        limit_micros: int

    class ChargeReversed(Event):
        """EcoLink credited a charge back to the account. The event names the charged segment."""

        amount_micros: int
        job_id: UUID
        segment: int
        from_seconds: int
        to_seconds: int
        key_id: UUID | None  # API key against which the charge counted

    class AccountSuspended(Event):
        """An operator suspended the account. It is read-only, and its jobs pause."""

        reason: SuspensionReason

    class AccountReinstated(Event):
        """An operator ended the suspension of the account. Paused jobs stay paused."""

    class AccountErased(Event):
        """An operator erased the personal data of the account. Its files are deleted."""

    class Snapshot(AggregateSnapshot):
        """A snapshot of an account's state."""

        TOPIC: ClassVar[str] = "AccountSnapshot"

        state: AccountState

        @classmethod
        def take(cls, aggregate: Any) -> Self:
            """Return a snapshot of an account."""
            return cls(**cls.header(aggregate), state=AccountState.of(aggregate))

        def mutate(self, _: None) -> Account:
            """Return the account as of the snapshot."""
            account = self.blank(Account)
            for name, value in self.state.model_dump(
                exclude={"created_on", "modified_on", "budgets", "key_uses"}
            ).items():
                setattr(account, name, value)
            account.budgets = {each.name: each for each in self.state.budgets}
            account.key_uses = dict(self.state.key_uses)
            return account

    def snapshot_events(self) -> int:
        """Return the number of events between two snapshots."""
        return 1000

    @classmethod
    def open(cls, account_id: UUID, role: Role, time_zone: str) -> Account:
        """Open an account with a balance of 0 US dollars. Only keys have the role `member`."""
        require_account_role(role)
        return cls._create(
            cls.AccountOpened,
            id=account_id,
            account_id=account_id,
            role=role,
            currency="USD",
            time_zone=time_zone,
        )

    @event(AccountOpened)
    def __init__(self, account_id: UUID, role: Role, currency: str, time_zone: str) -> None:
        self.account_id = account_id
        self.role = role
        self.currency = currency
        self.time_zone = time_zone
        self.balance_micros = 0
        self.reserved_micros = 0
        self.depleted = False
        self.low = False
        self.references: dict[str, int] = {}
        self.test_day: date | None = None
        self.test_day_micros = 0
        self.budgets: dict[BudgetName, Budget] = {}
        self.key_uses: dict[UUID, KeyUse] = {}
        self.suspension: SuspensionReason | None = None
        self.erased = False

    @property
    def available_micros(self) -> int:
        """Balance that no lease reserves, in micro-dollars."""
        return self.balance_micros - self.reserved_micros

    def budgets_of(self, key_id: UUID | None, day: date) -> list[Budget]:
        """Return the budgets for all jobs and, with a key, its own, as of a UTC day."""
        return [each.at(day) for each in self.budgets.values() if each.key_id in (None, key_id)]

    def reserved_for(self, key_id: UUID | None) -> int:
        """Return the micro-dollars that leases reserve: those of a key, or with None all."""
        if key_id is None:
            return self.reserved_micros
        return self.key_uses.get(key_id, KeyUse()).reserved_micros

    def budget_left_micros(self, key_id: UUID | None) -> int | None:
        """Return what the tightest budget leaves; negative after a budget was lowered."""
        budgets = [each for each in self.budgets.values() if each.key_id == key_id]
        if not budgets:
            return None
        day = current_cause().now.date()
        tightest = min(each.limit_micros - each.at(day).spent_micros for each in budgets)
        return tightest - self.reserved_for(key_id)

    @property
    def leasable_micros(self) -> int:
        """Micro-dollars that new leases may reserve: the available balance within the budgets."""
        if self.suspension is not None:
            return 0
        return self._within_budget(self.available_micros, None)

    def leasable_micros_for(self, key_id: UUID | None) -> int:
        """Return the micro-dollars that new leases of an API key's segments may reserve."""
        leasable = self.leasable_micros
        return leasable if key_id is None else self._within_budget(leasable, key_id)

    def _within_budget(self, micros: int, key_id: UUID | None) -> int:
        left = self.budget_left_micros(key_id)
        return micros if left is None else max(0, min(micros, left))

    def can_pay(self, amount_micros: int, *, released_micros: int = 0) -> bool:
        """Return True if the balance, with at most `released_micros` of the reserve, pays it."""
        return self.available_micros + released_micros >= amount_micros

    def grant_credit(self, amount_micros: int, reference: str) -> None:
        """Grant credit, once for each reference. Raise CommandReused for another amount."""
        if amount_micros <= 0:
            raise Invalid(
                f"The credit is {dollars(amount_micros)}. Enter an amount above 0.", field="amount"
            )
        reference = reference_of(reference)
        known = self.references.get(reference)
        if known is not None and known != amount_micros:
            raise CommandReused(
                f"The reference {reference!r} already belongs to a credit of {dollars(known)}. "
                "Use another reference.",
                field="reference",
            )
        if known is None:
            self.trigger_event(self.CreditGranted, amount_micros=amount_micros, reference=reference)

    @event(CreditGranted)
    def _credit_granted(self, amount_micros: int, reference: str) -> None:
        self.balance_micros += amount_micros
        self.references[reference] = amount_micros
        self.depleted = False

    def top_up(self, payment: Payment) -> None:
        """Add a payment to the balance.

        The caller must save the account and the payment in one transaction, so that the payment
        counts once. Raise Invalid if test payments would exceed their daily limit.
        """
        assert payment.account_id == self.id
        assert payment.pending_events, "a stored payment is already in a balance"
        if payment.provider == TEST_PROVIDER:
            self._require_test_allowance(payment.amount_micros)
        self.trigger_event(
            self.ToppedUp,
            amount_micros=payment.amount_micros,
            provider=payment.provider,
            reference=payment.reference,
        )

    @event(ToppedUp)
    def _topped_up(self, timestamp: datetime, amount_micros: int, provider: str) -> None:
        self.balance_micros += amount_micros
        self.depleted = False
        if provider == TEST_PROVIDER:
            day = timestamp.date()  # `modified_on` is still the time of the previous event
            self.test_day_micros = self._test_micros_on(day) + amount_micros
            self.test_day = day

    def withhold(self, amount_micros: int, payment: Payment, return_id: str) -> None:
        """Take a returned part of a payment from the balance. Save both in one transaction."""
        if amount_micros == 0:
            return
        if not self.can_pay(amount_micros):
            raise InsufficientBalance(
                f"The amount {dollars(amount_micros)} is more than the available balance of "
                f"{dollars(self.available_micros, Toward.DOWN)}. Enter a lower amount.",
                field="amount",
            )
        self.trigger_event(self.TopUpWithheld, **self._returned(amount_micros, payment, return_id))

    @event(TopUpWithheld)
    def _top_up_withheld(self, amount_micros: int) -> None:
        self.balance_micros -= amount_micros

    def restore(self, amount_micros: int, payment: Payment, return_id: str) -> None:
        """Add a part of a payment to the balance again. Save both in one transaction."""
        if amount_micros:
            returned = self._returned(amount_micros, payment, return_id)
            self.trigger_event(self.TopUpRestored, **returned)

    @event(TopUpRestored)
    def _top_up_restored(self, amount_micros: int) -> None:
        self.balance_micros += amount_micros
        self.depleted = False

    def _returned(self, amount_micros: int, payment: Payment, return_id: str) -> dict[str, object]:
        assert payment.account_id == self.id
        return {
            "amount_micros": amount_micros,
            "provider": payment.provider,
            "reference": payment.reference,
            "return_id": return_id,
        }

    def _require_test_allowance(self, amount_micros: int) -> None:
        left = TEST_DAY_MICROS - self._test_micros_on(current_cause().now.date())
        if amount_micros > left:
            raise Invalid(
                f"Test payments are limited to {dollars(TEST_DAY_MICROS)} a day (UTC). You can "
                f"pay {dollars(left)} more today.",
                field="amount",
            )

    def _test_micros_on(self, day: date) -> int:
        return self.test_day_micros if self.test_day == day else 0

    def settle(
        self,
        *,
        captured_micros: int,
        reserved_micros: int,
        second_micros: int = 0,
        keys: Mapping[UUID, Share] = MappingProxyType({}),
    ) -> None:
        """Deduct charges from the reserve, and reserve more for leases.

        `second_micros` is the highest price of one second among the running segments. If the
        balance is below it, the account is depleted. `keys` has the parts that count against API
        keys. Raise InsufficientBalance if the leases would exceed the balance.
        """
        assert 0 <= captured_micros <= self.reserved_micros + reserved_micros
        for key_id, share in keys.items():
            assert 0 <= share.captured_micros <= self.reserved_for(key_id) + share.reserved_micros
        if not self.can_pay(reserved_micros):
            raise InsufficientBalance(
                f"The leases need {dollars(reserved_micros)} more, but only "
                f"{dollars(self.available_micros)} is available. Top up the account."
            )
        if captured_micros or reserved_micros:
            self.trigger_event(
                self.UsageSettled,
                captured_micros=captured_micros,
                reserved_micros=reserved_micros,
                keys=tuple(
                    KeyShare(
                        key_id=key_id,
                        captured_micros=share.captured_micros,
                        reserved_micros=share.reserved_micros,
                    )
                    for key_id, share in keys.items()
                    if share.captured_micros or share.reserved_micros
                ),
            )
        if not self.depleted and self.balance_micros < second_micros:
            self.trigger_event(self.BalanceDepleted, balance_micros=self.balance_micros)
        whole = Share(captured_micros, reserved_micros, second_micros)
        self._warn_of_budgets({None: whole, **keys})

    @event(UsageSettled)
    def _usage_settled(
        self,
        timestamp: datetime,
        captured_micros: int,
        reserved_micros: int,
        keys: tuple[KeyShare, ...],
    ) -> None:
        self.balance_micros -= captured_micros
        self.reserved_micros += reserved_micros - captured_micros
        self._charge_budgets(None, captured_micros, timestamp.date())
        for each in keys:
            use = self.key_uses.get(each.key_id, KeyUse())
            self.key_uses[each.key_id] = use.settled(each)
            self._charge_budgets(each.key_id, each.captured_micros, timestamp.date())

    @event(BalanceDepleted)
    def _balance_depleted(self) -> None:
        self.depleted = True

    def set_budget(self, name: BudgetName, limit_micros: int, spent_micros: int) -> None:
        """Limit the charges of each day or month, or of all time. The same limit changes nothing.

        The budget is for all jobs of the account, or for those of an API key. `spent_micros` are
        the charges less credits of the current period so far. Leases that EcoLink already granted
        stay valid. Raise Invalid unless the limit is above 0, or for an account's budget of all
        time.
        """
        if limit_micros <= 0:
            raise Invalid(
                f"The budget is {dollars(limit_micros)}. Enter an amount above 0, or remove the "
                "budget.",
                field="limit",
            )
        if name == BudgetName(BudgetPeriod.TOTAL):
            raise Invalid(
                "Only an API key can have a budget in total. The balance already limits all jobs "
                "of the account. Choose day or month, or an API key.",
                field="period",
            )
        known = self.budgets.get(name)
        if known is None or known.limit_micros != limit_micros:
            self.trigger_event(
                self.BudgetSet,
                **name._asdict(),
                limit_micros=limit_micros,
                spent_micros=max(0, spent_micros),
            )

    @event(BudgetSet)
    def _budget_set(
        self,
        timestamp: datetime,
        period: BudgetPeriod,
        key_id: UUID | None,
        limit_micros: int,
        spent_micros: int,
    ) -> None:
        self.budgets[BudgetName(period, key_id)] = Budget(
            period=period,
            key_id=key_id,
            limit_micros=limit_micros,
            starts_on=period.first_day(timestamp.date()),
            spent_micros=spent_micros,
        )

    def remove_budget(self, name: BudgetName) -> None:
        """Remove a budget, if it is set."""
        if name in self.budgets:
            self.trigger_event(self.BudgetRemoved, **name._asdict())

    @event(BudgetRemoved)
    def _budget_removed(self, period: BudgetPeriod, key_id: UUID | None) -> None:
        del self.budgets[BudgetName(period, key_id)]

    def _charge_budgets(self, key_id: UUID | None, micros: int, day: date) -> None:
        for name, budget in self.budgets.items():
            if name.key_id == key_id:
                self.budgets[name] = budget.charged(micros, day)

    def _warn_of_budgets(self, shares: Mapping[UUID | None, Share]) -> None:
        for budget in list(self.budgets.values()):
            share = shares.get(budget.key_id)
            if share is None or share.captured_micros == 0:
                continue
            for percent in budget.due_warnings(share.second_micros):
                self.trigger_event(
                    self.BudgetUsed,
                    **budget.name._asdict(),
                    starts_on=budget.starts_on,
                    percent=percent,
                    spent_micros=budget.spent_micros,
                    limit_micros=budget.limit_micros,
                )

    @event(BudgetUsed)
    def _budget_used(self, period: BudgetPeriod, key_id: UUID | None, percent: int) -> None:
        name = BudgetName(period, key_id)
        self.budgets[name] = self.budgets[name].model_copy(update={"warned_percent": percent})

    def watch_runway(self, runway_seconds: int | None, low_seconds: int) -> None:
        """Record once when the runway falls below `low_seconds`, and once when it recovers."""
        is_low = runway_seconds is not None and runway_seconds < low_seconds
        if is_low and not self.low:
            self.trigger_event(self.BalanceLow, runway_seconds=runway_seconds)
        elif self.low and not is_low:
            self.trigger_event(self.BalanceRecovered, runway_seconds=runway_seconds)

    @event(BalanceLow)
    def _balance_low(self) -> None:
        self.low = True

    @event(BalanceRecovered)
    def _balance_recovered(self) -> None:
        self.low = False

    def suspend(self, reason: SuspensionReason) -> None:
        """Suspend an account with the role `owner`, or change the reason of its suspension."""
        self._require_data()
        if self.role is not Role.OWNER:
            raise WrongState(
                f"This account has the role {self.role}. Only an account with the role "
                f"{Role.OWNER} can be suspended. Revoke its keys instead."
            )
        if self.suspension is not reason:
            self.trigger_event(self.AccountSuspended, reason=reason)

    @event(AccountSuspended)
    def _account_suspended(self, reason: SuspensionReason) -> None:
        self.suspension = reason

    def reinstate(self) -> None:
        """End the suspension, if the account is suspended. Raise WrongState if it is erased."""
        self._require_data()
        if self.suspension is not None:
            self.trigger_event(self.AccountReinstated)

    @event(AccountReinstated)
    def _account_reinstated(self) -> None:
        self.suspension = None

    def require_suspended(self) -> None:
        """Raise WrongState unless the account is suspended."""
        if self.suspension is None:
            raise WrongState(
                "The account is active. Suspend it first, so that its jobs pause and its keys "
                "cannot write during the erasure."
            )

    def erase(self) -> None:
        """Record once that a suspended account's data is erased. It stays suspended forever."""
        self.require_suspended()
        if not self.erased:
            self.trigger_event(self.AccountErased)

    @event(AccountErased)
    def _account_erased(self) -> None:
        self.erased = True

    def _require_data(self) -> None:
        if self.erased:
            raise WrongState(
                "The personal data of the account is erased, so its suspension is permanent. "
                "Create another account."
            )

    def require_active(self) -> None:
        """Raise Suspended if the account is suspended."""
        if self.suspension is not None:
            raise Suspended(
                f"The account is suspended. {self.suspension.sentence} It can only read and "
                "download until an operator reinstates it.",
                figures={"reason": self.suspension.value},
            )

    def reverse_charge(
        self,
        amount_micros: int,
        job_id: UUID,
        segment: int,
        from_seconds: int,
        to_seconds: int,
        key_id: UUID | None = None,
    ) -> None:
        """Credit back the charge for a period of a segment's time.

        The period is from `from_seconds` to `to_seconds`, both measured from the segment's start.
        `key_id` is the API key against which the charge counted.
        """
        assert amount_micros > 0
        self.trigger_event(
            self.ChargeReversed,
            amount_micros=amount_micros,
            job_id=job_id,
            segment=segment,
            from_seconds=from_seconds,
            to_seconds=to_seconds,
            key_id=key_id,
        )

    @event(ChargeReversed)
    def _charge_reversed(
        self, timestamp: datetime, amount_micros: int, key_id: UUID | None
    ) -> None:
        self.balance_micros += amount_micros
        self.depleted = False
        self._charge_budgets(None, -amount_micros, timestamp.date())
        if key_id is not None:
            use = self.key_uses.get(key_id, KeyUse())
            self.key_uses[key_id] = use.credited(amount_micros)
            self._charge_budgets(key_id, -amount_micros, timestamp.date())


# The library registers the topics of events, but not those of snapshots.
register_topic(Account.Snapshot.TOPIC, Account.Snapshot)
