"""Accounts with their balances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from domain.billing.account import Account
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, Projection, Row, json_text, update

DDL = """
CREATE TABLE IF NOT EXISTS accounts (
    account_id uuid PRIMARY KEY,
    role text NOT NULL CHECK (role IN ('owner', 'operator', 'auditor')),
    currency text NOT NULL,
    time_zone text NOT NULL,
    balance_micros bigint NOT NULL,
    reserved_micros bigint NOT NULL,
    depleted boolean NOT NULL,
    low boolean NOT NULL,
    runway_seconds bigint,
    opened_at timestamptz NOT NULL,
    suspension text,
    erased boolean NOT NULL
);
CREATE INDEX IF NOT EXISTS accounts_suspended ON accounts (account_id) WHERE suspension IS NOT NULL
"""


SETTLED = """
UPDATE accounts SET balance_micros = balance_micros - captured,
    reserved_micros = reserved_micros + reserved - captured
FROM json_to_recordset(%s) AS settled (id uuid, captured bigint, reserved bigint)
WHERE account_id = id
"""


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Apply events to the table. The order of settlements is irrelevant, because they are sums."""
    captured, reserved = Counter[UUID](), Counter[UUID]()
    for each in batch:
        match each.event:
            case Account.UsageSettled(captured_micros=spent, reserved_micros=set_aside) as event:
                captured[event.account_id] += spent
                reserved[event.account_id] += set_aside
            case event:
                _apply(cursor, event)
    if captured:
        sums = [{"id": id, "captured": captured[id], "reserved": reserved[id]} for id in captured]
        cursor.execute(SETTLED, [json_text(sums)], prepare=False)  # as in `select`


def _apply(cursor: Cursor, event: Event) -> None:
    key = {"account_id": event.account_id}
    match event:
        case Account.AccountOpened():
            cursor.execute(
                "INSERT INTO accounts "
                "VALUES (%s, %s, %s, %s, 0, 0, false, false, NULL, %s, NULL, false)",
                [event.account_id, event.role, event.currency, event.time_zone, event.timestamp],
            )
        case (
            Account.CreditGranted()
            | Account.ToppedUp()
            | Account.ChargeReversed()
            | Account.TopUpRestored()
        ):
            cursor.execute(
                "UPDATE accounts SET balance_micros = balance_micros + %s, depleted = false "
                "WHERE account_id = %s",
                [event.amount_micros, event.account_id],
            )
        case Account.TopUpWithheld():
            cursor.execute(
                "UPDATE accounts SET balance_micros = balance_micros - %s WHERE account_id = %s",
                [event.amount_micros, event.account_id],
            )
        case Account.BalanceDepleted():
            update(cursor, "accounts", key, depleted=True)
        case Account.BalanceLow():
            update(cursor, "accounts", key, low=True, runway_seconds=event.runway_seconds)
        case Account.BalanceRecovered():
            update(cursor, "accounts", key, low=False, runway_seconds=None)
        case Account.AccountSuspended():
            update(cursor, "accounts", key, suspension=event.reason)
        case Account.AccountReinstated():
            update(cursor, "accounts", key, suspension=None)
        case Account.AccountErased():
            update(cursor, "accounts", key, erased=True)
        case _:
            pass


ACCOUNTS = Projection(
    "accounts",
    ("accounts",),
    DDL,
    (
        Account.AccountOpened,
        Account.CreditGranted,
        Account.ToppedUp,
        Account.ChargeReversed,
        Account.TopUpRestored,
        Account.TopUpWithheld,
        Account.UsageSettled,
        Account.BalanceDepleted,
        Account.BalanceLow,
        Account.BalanceRecovered,
        Account.AccountSuspended,
        Account.AccountReinstated,
        Account.AccountErased,
    ),
    apply,
)


def account(connection: Connection, account_id: UUID) -> Row | None:
    """Return the row of an account, or None if it does not exist."""
    return accounts_of(connection, [account_id]).get(account_id)


def accounts_of(connection: Connection, account_ids: Collection[UUID]) -> dict[UUID, Row]:
    """Return the rows of the given accounts, by account ID. The result omits unknown IDs."""
    rows = connection.execute(
        "SELECT * FROM accounts WHERE account_id = ANY(%s)", [list(account_ids)]
    ).fetchall()
    return {row["account_id"]: row for row in rows}


@dataclass(frozen=True)
class AccountFilter:
    """A filter of accounts. The default matches all."""

    name_part: str = ""
    """Part of the name, in upper or lower case."""
    suspended: bool = False
    """True for suspended accounts only."""


def accounts_after(
    connection: Connection, only: AccountFilter, after: UUID | None, limit: int
) -> list[Row]:
    """Return the oldest accounts that pass a filter, or those after an account, with their names.

    An account without a name has None.
    """
    return connection.execute(
        "SELECT accounts.*, name FROM accounts LEFT JOIN profiles USING (account_id) "
        "WHERE (%(after)s::uuid IS NULL OR (opened_at, account_id) > "
        "(SELECT opened_at, account_id FROM accounts WHERE account_id = %(after)s)) "
        "AND (%(name_part)s = '' OR strpos(lower(name), lower(%(name_part)s)) > 0) "
        "AND (NOT %(suspended)s OR suspension IS NOT NULL) "
        "ORDER BY opened_at, account_id LIMIT %(limit)s",
        {**vars(only), "after": after, "limit": limit},
    ).fetchall()


def all_accounts(connection: Connection) -> list[Row]:
    """Return the rows of all accounts, oldest first."""
    return connection.execute("SELECT * FROM accounts ORDER BY opened_at, account_id").fetchall()
