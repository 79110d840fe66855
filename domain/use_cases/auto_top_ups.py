"""Use cases of saved cards and automatic top-ups. Each must run inside `because(cause)`."""

from __future__ import annotations

from uuid import UUID

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd, AutoTopUpRule, SavedCard, no_card
from domain.billing.card_payment import CardPayment
from domain.core.event_log import EventLog, retrying
from domain.core.identity import auto_top_up_id


class AutoToppingUp:
    """Saved cards and automatic top-ups of accounts."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def find(self, account_id: UUID) -> AutoTopUp | None:
        """Return the automatic top-ups of an account, or None if it never had a card."""
        return self.log.find(AutoTopUp, auto_top_up_id(account_id))

    @retrying
    def save_card(self, account_id: UUID, card: SavedCard) -> None:
        """Save a card, or replace the saved one."""
        known = self.find(account_id)
        if known is None:
            known = AutoTopUp.save_first_card(account_id, card)
        else:
            known.save_card(card)
        self.log.commit(known)

    @retrying
    def set_rule(self, account_id: UUID, rule: AutoTopUpRule) -> AutoTopUp:
        """Turn automatic top-ups on. Raise WrongState without a card, and Invalid."""
        known = self.find(account_id)
        if known is None:
            raise no_card()
        known.set_rule(rule)
        self.log.commit(known)
        return known

    @retrying
    def disable(self, account_id: UUID) -> None:
        """Turn automatic top-ups off, at the account holder's request."""
        known = self.find(account_id)
        if known is not None:
            known.disable(AutoTopUpEnd.OWNER)
            self.log.commit(known)

    @retrying
    def remove_card(self, account_id: UUID) -> None:
        """Forget the saved card, and turn automatic top-ups off."""
        known = self.find(account_id)
        if known is not None:
            known.remove_card()
            self.log.commit(known)

    @retrying
    def start_due(self, account_id: UUID) -> CardPayment | None:
        """Start the charge of an account whose balance is below the threshold, or return None.

        EcoLink never charges the card of a suspended account.
        The version of the automatic top-ups decides between two processes, so only one charge
        starts.
        """
        known, account = self.find(account_id), self.log.load(Account, account_id)
        if known is None or account.suspension is not None:
            return None
        if not known.due(account.balance_micros):
            return None
        assert known.rule is not None
        payment = CardPayment.start(
            known.start(), account_id, known.rule.amount_micros, automatic=True
        )
        self.log.commit(payment, known)
        return payment
