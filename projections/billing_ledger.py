"""The double-entry ledger, with one posting for each event that moves money, and sums by day.

The ledger accounts are `cash` (payments), `test money` (test payments), `credits` (granted by
operators), `customer:<id>` (unreserved balance), `reserved:<id>` (reserved by leases), `revenue`,
`returns` (refunds and disputes between a balance and a bank) and `losses` (returns that no balance
covered). A posting debits one ledger account and credits another with the same amount, so the trial
balance is always zero. Only a reversal corrects a wrong posting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import LiteralString
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.payment import TEST_PROVIDER, Payment
from domain.core.aggregate import Event
from infrastructure.store import Connection, scalar
from projections.projection import Cursor, Projection, Row, one_by_one

DDL = """
CREATE TABLE IF NOT EXISTS billing_ledger (
    event_id text PRIMARY KEY,
    position bigint NOT NULL,
    posted_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros > 0),
    reason text NOT NULL,
    reference text,
    job_id uuid,
    segment integer,
    minute integer,
    from_seconds integer,
    to_seconds integer,
    CHECK (debit <> credit),
    UNIQUE (account_id, position)
);
CREATE INDEX IF NOT EXISTS billing_ledger_job ON billing_ledger (job_id);
CREATE INDEX IF NOT EXISTS billing_ledger_time ON billing_ledger (account_id, posted_at);
CREATE TABLE IF NOT EXISTS ledger_days (
    day date PRIMARY KEY,
    payments bigint NOT NULL,
    test_payments bigint NOT NULL,
    credits bigint NOT NULL,
    charges bigint NOT NULL,
    reversals bigint NOT NULL,
    returns bigint NOT NULL,
    losses bigint NOT NULL
)
"""
"""`ledger_days` has the sums of all accounts for each day in UTC, in micro-dollars."""


class Reason(StrEnum):
    """Reasons of postings."""

    TOPPED_UP = "topped up"
    CREDIT_GRANTED = "credit granted"
    LEASE_RESERVED = "lease reserved"
    LEASE_RELEASED = "lease released"
    MINUTE_METERED = "minute metered"
    LOST_WORK_CREDITED = "lost work credited"
    TOP_UP_WITHHELD = "refunded or disputed"
    TOP_UP_RESTORED = "refund or dispute undone"
    PAYMENT_RETURNED = "payment returned"
    RETURN_REVERSED = "return reversed"
    RETURN_LOST = "return lost"
    LOSS_RECOVERED = "loss recovered"


def apply(cursor: Cursor, event: Event) -> None:
    """Post one event to the ledger."""
    customer, reserved = f"customer:{event.account_id}", f"reserved:{event.account_id}"
    match event:
        case Account.CreditGranted():
            _post(cursor, event, "credits", customer, event.amount_micros, Reason.CREDIT_GRANTED)
        case Account.ToppedUp():
            paid_in = "test money" if event.provider == TEST_PROVIDER else "cash"
            _post(cursor, event, paid_in, customer, event.amount_micros, Reason.TOPPED_UP)
        case Account.UsageSettled(reserved_micros=amount) if amount > 0:
            _post(cursor, event, customer, reserved, amount, Reason.LEASE_RESERVED)
        case Account.UsageSettled(reserved_micros=amount) if amount < 0:
            _post(cursor, event, reserved, customer, -amount, Reason.LEASE_RELEASED)
        case Meter.MinuteMetered(amount_micros=amount) if amount > 0:
            _post(cursor, event, reserved, "revenue", amount, Reason.MINUTE_METERED)
        case Account.ChargeReversed():
            _post(
                cursor, event, "revenue", customer, event.amount_micros, Reason.LOST_WORK_CREDITED
            )
        case Account.TopUpWithheld(amount_micros=amount):
            _post(cursor, event, customer, "returns", amount, Reason.TOP_UP_WITHHELD)
        case Account.TopUpRestored(amount_micros=amount):
            _post(cursor, event, "returns", customer, amount, Reason.TOP_UP_RESTORED)
        case Payment.PaymentReturned(amount_micros=amount):
            _post(cursor, event, "returns", "cash", amount, Reason.PAYMENT_RETURNED)
        case Payment.ReturnReversed(amount_micros=amount):
            _post(cursor, event, "cash", "returns", amount, Reason.RETURN_REVERSED)
        case Payment.ReturnClosed(lost_micros=lost) if lost > 0:
            _post(cursor, event, "losses", "returns", lost, Reason.RETURN_LOST)
        case Payment.LossRecovered(recovered_micros=amount):
            _post(cursor, event, "returns", "losses", amount, Reason.LOSS_RECOVERED)
        case _:
            pass


def _post(
    cursor: Cursor, event: Event, debit: str, credit: str, amount_micros: int, reason: Reason
) -> None:
    _add_to_day(cursor, event, (debit, credit), amount_micros, reason)
    named = ("reference", "job_id", "segment", "minute", "from_seconds", "to_seconds")
    work = [getattr(event, name, None) for name in named]
    cursor.execute(
        "INSERT INTO billing_ledger SELECT %s, coalesce(max(position), 0) + 1, "
        "%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM billing_ledger WHERE account_id = %s",
        [
            event.event_id,
            event.timestamp,
            event.account_id,
            debit,
            credit,
            amount_micros,
            reason,
            *work,
            event.account_id,
        ],
    )


def _add_to_day(
    cursor: Cursor, event: Event, sides: tuple[str, str], amount_micros: int, reason: Reason
) -> None:
    """Add a posting to the sums of its day, which omit leases: they only reserve money."""
    debit, credit = sides
    sums = (
        debit == "cash" and reason is Reason.TOPPED_UP,  # payments
        debit == "test money",
        debit == "credits",
        credit == "revenue",  # charges
        debit == "revenue",  # reversals
        (reason is Reason.PAYMENT_RETURNED) - (reason is Reason.RETURN_REVERSED),  # returns
        (debit == "losses") - (credit == "losses"),
    )
    if not any(sums):
        return
    cursor.execute(
        "INSERT INTO ledger_days VALUES ((%s::timestamptz AT TIME ZONE 'UTC')::date, "
        "%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (day) DO UPDATE SET "
        "payments = ledger_days.payments + excluded.payments, "
        "test_payments = ledger_days.test_payments + excluded.test_payments, "
        "credits = ledger_days.credits + excluded.credits, "
        "charges = ledger_days.charges + excluded.charges, "
        "reversals = ledger_days.reversals + excluded.reversals, "
        "returns = ledger_days.returns + excluded.returns, "
        "losses = ledger_days.losses + excluded.losses",
        [event.timestamp, *(amount_micros * each for each in sums)],
    )


BILLING_LEDGER = Projection(
    "billing_ledger",
    ("billing_ledger", "ledger_days"),
    DDL,
    (
        Account.CreditGranted,
        Account.ToppedUp,
        Account.UsageSettled,
        Account.ChargeReversed,
        Account.TopUpWithheld,
        Account.TopUpRestored,
        Meter.MinuteMetered,
        Payment.PaymentReturned,
        Payment.ReturnReversed,
        Payment.ReturnClosed,
        Payment.LossRecovered,
    ),
    one_by_one(apply),
)


@dataclass(frozen=True)
class PostingFilter:
    """A filter of postings. A field that is None matches all."""

    job_id: UUID | None = None
    reasons: Sequence[Reason] | None = None
    first: date | None = None
    last: date | None = None
    time_zone: str = "UTC"
    """Time zone of the account, in which its days begin and end."""

    @property
    def condition(self) -> LiteralString:
        """Conditions for a WHERE clause.

        Days are in the account's time zone. Redundant, wider bounds in UTC let PostgreSQL use the
        index.
        """
        parts: list[LiteralString] = ["account_id = %(account)s"]
        if self.job_id is not None:
            parts.append("job_id = %(job_id)s")
        if self.reasons is not None:
            parts.append("reason = ANY(%(reasons)s)")
        if self.first is not None:
            parts.append("(posted_at AT TIME ZONE %(time_zone)s)::date >= %(first)s")
            parts.append("posted_at >= (%(first)s::date - 1)::timestamp AT TIME ZONE 'UTC'")
        if self.last is not None:
            parts.append("(posted_at AT TIME ZONE %(time_zone)s)::date <= %(last)s")
            parts.append("posted_at < (%(last)s::date + 2)::timestamp AT TIME ZONE 'UTC'")
        return " AND ".join(parts)

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters of the condition."""
        reasons = None if self.reasons is None else list(self.reasons)
        return {**vars(self), "reasons": reasons}


ALL = PostingFilter()


def postings_of(
    connection: Connection,
    account_id: UUID,
    only: PostingFilter = ALL,
    after: int = 0,
    limit: int | None = None,
) -> list[Row]:
    """Return an account's postings that pass a filter, in order.

    A page has up to `limit` postings after the position `after`. EcoLink never changes or removes
    postings, so pages neither omit nor repeat any.
    """
    return connection.execute(
        f"SELECT * FROM billing_ledger WHERE {only.condition} AND position > %(after)s "
        "ORDER BY position LIMIT %(limit)s",
        only.parameters | {"account": account_id, "after": after, "limit": limit},
    ).fetchall()


def newest_postings(
    connection: Connection,
    account_id: UUID,
    only: PostingFilter,
    before: int | None,
    limit: int | None,
) -> list[Row]:
    """Return up to `limit` postings before a position that pass a filter, newest first.

    If `before` is None, start with the newest posting.
    """
    return connection.execute(
        f"SELECT * FROM billing_ledger WHERE {only.condition} "
        "AND (%(before)s::bigint IS NULL OR position < %(before)s) "
        "ORDER BY position DESC LIMIT %(limit)s",
        only.parameters | {"account": account_id, "before": before, "limit": limit},
    ).fetchall()


def balances_after(
    connection: Connection, account_id: UUID, positions: Sequence[int]
) -> dict[int, int]:
    """Return the balance after each of the given postings, in micro-dollars, by position.

    The balance includes reserved money.
    """
    rows = connection.execute(
        "SELECT position, micros FROM (SELECT position, sum(amount_micros * ("
        "(credit ~ '^(customer|reserved):')::int - (debit ~ '^(customer|reserved):')::int)) "
        "OVER (ORDER BY position)::bigint AS micros FROM billing_ledger "
        "WHERE account_id = %s AND position <= %s) AS running WHERE position = ANY(%s)",
        [account_id, max(positions, default=0), list(positions)],
    ).fetchall()
    return {row["position"]: row["micros"] for row in rows}


def last_position(connection: Connection, account_id: UUID) -> int:
    """Return the position of an account's newest posting; 0 if there is none."""
    query = "SELECT coalesce(max(position), 0) FROM billing_ledger WHERE account_id = %s"
    return scalar(connection, query, [account_id])


def platform_days(connection: Connection, first: date, last: date) -> list[Row]:
    """Return one row for each day in UTC, in order, with the postings of all accounts.

    A row has the day and the micro-dollars of payments, test_payments, credits, charges,
    reversals (charges that EcoLink credited back), returns (refunds and disputed payments, less
    those that EcoLink got back) and losses (returns that no balance covered, less those that were
    recovered).
    """
    return connection.execute(
        "SELECT wanted.day::date AS day, coalesce(payments, 0) AS payments, "
        "coalesce(test_payments, 0) AS test_payments, coalesce(credits, 0) AS credits, "
        "coalesce(charges, 0) AS charges, coalesce(reversals, 0) AS reversals, "
        "coalesce(returns, 0) AS returns, coalesce(losses, 0) AS losses "
        "FROM generate_series(%s::timestamp, %s::timestamp, '1 day') AS wanted (day) "
        "LEFT JOIN ledger_days ON ledger_days.day = wanted.day::date ORDER BY 1",
        [first, last],
    ).fetchall()


def balances(connection: Connection) -> dict[str, int]:
    """Return credits minus debits of each ledger account. Their sum is the trial balance."""
    rows = connection.execute(
        "SELECT account, sum(amount)::bigint AS micros FROM ("
        "SELECT credit AS account, amount_micros AS amount FROM billing_ledger UNION ALL "
        "SELECT debit, -amount_micros FROM billing_ledger) AS sides "
        "GROUP BY account ORDER BY account"
    ).fetchall()
    return {row["account"]: row["micros"] for row in rows}
