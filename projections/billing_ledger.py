"""The double-entry ledger, with one posting for each event that moves money, balances and sums.

The ledger accounts are `cash` (payments), `test money` (test payments), `credits` (granted by
operators), `customer:<id>` (unreserved balance), `reserved:<id>` (reserved by leases), `revenue`
(at list prices), `guarantee` (revenue that the price guarantees of jobs cover, not the customers),
`returns` (refunds and disputes between a balance and a bank) and `losses` (returns that no balance
covered). A posting debits one ledger account and credits another with the same amount, so the trial
balance is always zero. Only a reversal corrects a wrong posting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date
from enum import StrEnum
from functools import partial
from typing import LiteralString, NamedTuple
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.payment import TEST_PROVIDER, Payment
from domain.billing.token_meter import TokenMeter
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from infrastructure.postgres.store import Connection, scalar
from projections.projection import Cursor, Projection, Row, insert_rows, json_text, select

DDL = """
CREATE TABLE IF NOT EXISTS billing_ledger (
    event_id text PRIMARY KEY,
    position bigint NOT NULL,
    posted_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros > 0),
    balance_micros bigint NOT NULL,
    reason text NOT NULL,
    reference text,
    job_id uuid,
    segment integer,
    minute integer,
    from_seconds integer,
    to_seconds integer,
    synthesis_id uuid,
    CHECK (debit <> credit),
    UNIQUE (account_id, position)
);
CREATE INDEX IF NOT EXISTS billing_ledger_job ON billing_ledger (job_id, segment, to_seconds);
CREATE INDEX IF NOT EXISTS billing_ledger_time ON billing_ledger (account_id, posted_at);
CREATE TABLE IF NOT EXISTS ledger_days (
    day date PRIMARY KEY,
    payments bigint NOT NULL,
    test_payments bigint NOT NULL,
    credits bigint NOT NULL,
    charges bigint NOT NULL,
    covered bigint NOT NULL,
    reversals bigint NOT NULL,
    returns bigint NOT NULL,
    losses bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS ledger_balances (
    account text PRIMARY KEY,
    micros bigint NOT NULL
)
"""
"""`balance_micros` is the balance of the account after a posting, including reserved money.

`ledger_days` has the sums of all accounts for each day in UTC, in micro-dollars. `ledger_balances`
has the credits minus the debits of each ledger account.
"""

LAST_POSTINGS = """
SELECT id, position, balance_micros FROM unnest(%s::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (SELECT position, balance_micros FROM billing_ledger
    WHERE account_id = id ORDER BY position DESC LIMIT 1) AS last
"""

ADD_TO_BALANCES = """
INSERT INTO ledger_balances
SELECT * FROM json_populate_recordset(NULL::ledger_balances, %s)
ON CONFLICT (account) DO UPDATE SET micros = ledger_balances.micros + excluded.micros
"""

DAY_SUMS: tuple[LiteralString, ...] = (
    *("payments", "test_payments", "credits", "charges", "covered", "reversals", "returns"),
    "losses",
)

ADD_TO_DAYS = f"""
INSERT INTO ledger_days SELECT * FROM json_populate_recordset(NULL::ledger_days, %s)
ON CONFLICT (day) DO UPDATE SET
    {", ".join(f"{each} = ledger_days.{each} + excluded.{each}" for each in DAY_SUMS)}
"""

OWN = ("customer:", "reserved:")
"""Starts of the ledger accounts that form the balance of an account."""

WORK = (
    *("reference", "job_id", "segment", "minute", "from_seconds", "to_seconds"),
    "synthesis_id",
)
"""Columns that have the fields of an event, if it has them."""


class Reason(StrEnum):
    """Reasons of postings."""

    TOPPED_UP = "topped up"
    CREDIT_GRANTED = "credit granted"
    LEASE_RESERVED = "lease reserved"
    LEASE_RELEASED = "lease released"
    MINUTE_METERED = "minute metered"
    MINUTE_COVERED = "minute covered by the price guarantee"
    TOKENS_METERED = "tokens metered"
    LOST_WORK_CREDITED = "lost work credited"
    TOP_UP_WITHHELD = "refunded or disputed"
    TOP_UP_RESTORED = "refund or dispute undone"
    PAYMENT_RETURNED = "payment returned"
    RETURN_REVERSED = "return reversed"
    RETURN_LOST = "return lost"
    LOSS_RECOVERED = "loss recovered"


SUMMED = {
    Reason.TOPPED_UP: ("payments", 1),
    Reason.CREDIT_GRANTED: ("credits", 1),
    Reason.MINUTE_METERED: ("charges", 1),
    Reason.MINUTE_COVERED: ("covered", 1),
    Reason.TOKENS_METERED: ("charges", 1),
    Reason.LOST_WORK_CREDITED: ("reversals", 1),
    Reason.PAYMENT_RETURNED: ("returns", 1),
    Reason.RETURN_REVERSED: ("returns", -1),
    Reason.RETURN_LOST: ("losses", 1),
    Reason.LOSS_RECOVERED: ("losses", -1),
}
"""Column of `ledger_days` to which a posting is added, and its sign. Leases only reserve money."""


class Posting(NamedTuple):
    """An amount that an event moves from one ledger account to another."""

    event: Event
    debit: str
    credit: str
    amount_micros: int
    reason: Reason

    @property
    def balance_change_micros(self) -> int:
        """Change of the balance of the account, which includes reserved money."""
        return self.amount_micros * (self.credit.startswith(OWN) - self.debit.startswith(OWN))


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Post events to the ledger."""
    postings = [found for each in batch if (found := _posting(each.event)) is not None]
    if not postings:
        return
    last = _last_postings(cursor, {posting.event.account_id for posting in postings})
    insert_rows(cursor, "billing_ledger", [_row(posting, last) for posting in postings])
    balances, days = Counter[str](), dict[date, Counter[str]]()
    for posting in postings:
        balances[posting.debit] -= posting.amount_micros
        balances[posting.credit] += posting.amount_micros
        if (summed := SUMMED.get(posting.reason)) is not None:
            column, sign = ("test_payments", 1) if posting.debit == "test money" else summed
            day = posting.event.timestamp.astimezone(UTC).date()
            sums = days.setdefault(day, Counter(dict.fromkeys(DAY_SUMS, 0)))
            sums[column] += sign * posting.amount_micros
    changed = [{"account": account, "micros": micros} for account, micros in balances.items()]
    cursor.execute(ADD_TO_BALANCES, [json_text(changed)])
    if days:
        cursor.execute(ADD_TO_DAYS, [json_text([{"day": day, **days[day]} for day in days])])


def _posting(event: Event) -> Posting | None:
    """Return the posting of an event, or None."""
    customer, reserved = f"customer:{event.account_id}", f"reserved:{event.account_id}"
    post = partial(Posting, event)
    match event:
        case Account.CreditGranted(amount_micros=amount):
            return post("credits", customer, amount, Reason.CREDIT_GRANTED)
        case Account.ToppedUp(amount_micros=amount):
            paid_in = "test money" if event.provider == TEST_PROVIDER else "cash"
            return post(paid_in, customer, amount, Reason.TOPPED_UP)
        case Account.UsageSettled(reserved_micros=amount) if amount > 0:
            return post(customer, reserved, amount, Reason.LEASE_RESERVED)
        case Account.UsageSettled(reserved_micros=amount) if amount < 0:
            return post(reserved, customer, -amount, Reason.LEASE_RELEASED)
        case Meter.MinuteMetered(amount_micros=amount) if amount > 0:
            return post(reserved, "revenue", amount, Reason.MINUTE_METERED)
        case Meter.MinuteMetered(covered_micros=int(amount)) if amount > 0:
            return post("guarantee", "revenue", amount, Reason.MINUTE_COVERED)
        case TokenMeter.TokensMetered(amount_micros=amount) if amount > 0:
            return post(reserved, "revenue", amount, Reason.TOKENS_METERED)
        case Account.ChargeReversed(amount_micros=amount):
            return post("revenue", customer, amount, Reason.LOST_WORK_CREDITED)
        case Account.TopUpWithheld(amount_micros=amount):
            return post(customer, "returns", amount, Reason.TOP_UP_WITHHELD)
        case Account.TopUpRestored(amount_micros=amount):
            return post("returns", customer, amount, Reason.TOP_UP_RESTORED)
        case Payment.PaymentReturned(amount_micros=amount):
            return post("returns", "cash", amount, Reason.PAYMENT_RETURNED)
        case Payment.ReturnReversed(amount_micros=amount):
            return post("cash", "returns", amount, Reason.RETURN_REVERSED)
        case Payment.ReturnClosed(lost_micros=lost) if lost > 0:
            return post("losses", "returns", lost, Reason.RETURN_LOST)
        case Payment.LossRecovered(recovered_micros=amount):
            return post("returns", "losses", amount, Reason.LOSS_RECOVERED)
        case _:
            return None


def _last_postings(cursor: Cursor, account_ids: Collection[UUID]) -> dict[UUID, tuple[int, int]]:
    """Return the position of the last posting of each account, and the balance after it."""
    rows = select(cursor, LAST_POSTINGS, list(account_ids))
    return {row["id"]: (row["position"], row["balance_micros"]) for row in rows}


def _row(posting: Posting, last: dict[UUID, tuple[int, int]]) -> Row:
    """Return the row of a posting. It becomes the last one of its account in `last`."""
    event, fields = posting.event, vars(posting.event)
    position, balance_micros = last.get(event.account_id, (0, 0))
    position, balance_micros = position + 1, balance_micros + posting.balance_change_micros
    last[event.account_id] = (position, balance_micros)
    return {
        "event_id": event.event_id,
        "position": position,
        "posted_at": event.timestamp,
        "account_id": event.account_id,
        "debit": posting.debit,
        "credit": posting.credit,
        "amount_micros": posting.amount_micros,
        "balance_micros": balance_micros,
        "reason": posting.reason,
        **{name: fields.get(name) for name in WORK},
    }


BILLING_LEDGER = Projection(
    "billing_ledger",
    ("billing_ledger", "ledger_days", "ledger_balances"),
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
        TokenMeter.TokensMetered,
    ),
    apply,
    fold=2,
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
        "SELECT position, balance_micros FROM billing_ledger "
        "WHERE account_id = %s AND position = ANY(%s)",
        [account_id, list(positions)],
    ).fetchall()
    return {row["position"]: row["balance_micros"] for row in rows}


def last_position(connection: Connection, account_id: UUID) -> int:
    """Return the position of an account's newest posting; 0 if there is none."""
    query = "SELECT coalesce(max(position), 0) FROM billing_ledger WHERE account_id = %s"
    return scalar(connection, query, [account_id])


def platform_days(connection: Connection, first: date, last: date) -> list[Row]:
    """Return one row for each day in UTC, in order, with the postings of all accounts.

    A row has the day and the micro-dollars of payments, test_payments, credits, charges, covered
    (what the price guarantees of jobs cover, at list prices), reversals (charges that EcoLink
    credited back), returns (refunds and disputed payments, less those that EcoLink got back) and
    losses (returns that no balance covered, less those that were recovered).
    """
    return connection.execute(
        "SELECT wanted.day::date AS day, coalesce(payments, 0) AS payments, "
        "coalesce(test_payments, 0) AS test_payments, coalesce(credits, 0) AS credits, "
        "coalesce(charges, 0) AS charges, coalesce(covered, 0) AS covered, "
        "coalesce(reversals, 0) AS reversals, "
        "coalesce(returns, 0) AS returns, coalesce(losses, 0) AS losses "
        "FROM generate_series(%s::timestamp, %s::timestamp, '1 day') AS wanted (day) "
        "LEFT JOIN ledger_days ON ledger_days.day = wanted.day::date ORDER BY 1",
        [first, last],
    ).fetchall()


def balances(connection: Connection) -> dict[str, int]:
    """Return credits minus debits of each ledger account. Their sum is the trial balance."""
    rows = connection.execute("SELECT * FROM ledger_balances ORDER BY account").fetchall()
    return {row["account"]: row["micros"] for row in rows}


def posted_balances(connection: Connection) -> dict[str, int]:
    """Return the result of `balances` from all postings, for an audit."""
    rows = connection.execute(
        "SELECT account, sum(amount)::bigint AS micros FROM ("
        "SELECT credit AS account, amount_micros AS amount FROM billing_ledger UNION ALL "
        "SELECT debit, -amount_micros FROM billing_ledger) AS sides "
        "GROUP BY account ORDER BY account"
    ).fetchall()
    return {row["account"]: row["micros"] for row in rows}
