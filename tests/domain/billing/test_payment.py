from __future__ import annotations

from uuid import UUID

import pytest

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.payment import Payment, Receipt
from domain.core.errors import CommandReused, Invalid, VersionConflict
from domain.core.event_log import EventLog
from domain.core.identity import payment_id
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.scenario import fact

OTHER_ACCOUNT_ID = UUID("44444444-4444-5444-8444-444444444444")


def receipt(amount_micros: int = 500, reference: str = "INV-7") -> Receipt:
    return Receipt(provider="manual", reference=reference, amount_micros=amount_micros)


def test_the_id_of_a_payment_is_derived_from_provider_and_reference() -> None:
    given = Payment.receive(ACCOUNT_ID, receipt())
    assert given.collect_events() == [
        fact("PaymentReceived", provider="manual", reference="INV-7", amount_micros=500)
    ]
    assert given.id == payment_id("manual", "INV-7")
    assert payment_id("a:b", "c") != payment_id("a", "b:c")


@pytest.mark.parametrize("amount_micros", [0, -1])
def test_a_payment_of_nothing_is_refused(amount_micros: int) -> None:
    with pytest.raises(Invalid):
        Payment.receive(ACCOUNT_ID, receipt(amount_micros))


@pytest.mark.parametrize(
    ("account_id", "amount_micros"), [(OTHER_ACCOUNT_ID, 500), (ACCOUNT_ID, 501)]
)
def test_a_reference_stands_for_one_account_and_amount(
    account_id: UUID, amount_micros: int
) -> None:
    given = Payment.receive(ACCOUNT_ID, receipt())
    given.require_same(ACCOUNT_ID, receipt())
    with pytest.raises(CommandReused) as refusal:
        given.require_same(account_id, receipt(amount_micros))
    assert refusal.value.field == "reference"


def test_two_accounts_that_use_a_reference_at_once_do_not_both_get_it() -> None:
    log = EventLog()
    with command("first"):
        log.commit(Payment.receive(ACCOUNT_ID, receipt()))
    with command("second"):
        payer = Account.open(OTHER_ACCOUNT_ID, Role.OWNER, "UTC")
        payment = Payment.receive(OTHER_ACCOUNT_ID, receipt())
        payer.top_up(payment)
        with pytest.raises(VersionConflict):
            log.commit(payment, payer)
    assert log.find(Account, OTHER_ACCOUNT_ID) is None
