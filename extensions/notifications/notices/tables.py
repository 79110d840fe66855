"""Notices of account holders: the e-mail address of an account, and the notices to it.

The address is personal data. It is in this table alone, never in an event or a log. Deleting it
also deletes its notices.

A notice is sent at most once. It is marked as being sent before the mail server gets it. If the
process ends before it stores the result, the notice fails, because the mail may have arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID, uuid4

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from extensions.notifications.domain.kind import CHOSEN, NoticeKind, kind_of
from extensions.notifications.domain.link import LinkSigner, new_signing_key
from extensions.notifications.domain.message import Data, Message
from extensions.notifications.domain.retry_schedule import delay_after
from infrastructure.extensions import Table
from infrastructure.postgres.store import EVENTS_TABLE, Connection

EVENT: LiteralString = r"substring(message_id FROM '_(\d{1,18})$')::bigint"
"""The notification ID of a message's event, which ends the message's ID, or NULL."""

TABLES = (
    Table(
        name="notice_addresses",
        owner="account_id",
        time="requested_at",
        ddl="""
CREATE TABLE IF NOT EXISTS notice_addresses (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL UNIQUE,
    email text NOT NULL,
    kinds text[] NOT NULL,
    signing_key text NOT NULL,
    requested_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    refusal text,
    after_position bigint NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    next_mail_at timestamptz NOT NULL,
    hour_began_at timestamptz NOT NULL,
    hour_mails integer NOT NULL DEFAULT 0
)
""",
    ),
    Table(
        name="notices",
        cascades=True,
        event=EVENT,
        ddl="""
CREATE TABLE IF NOT EXISTS notices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address_id uuid NOT NULL REFERENCES notice_addresses ON DELETE CASCADE,
    message_id text NOT NULL,
    kind text NOT NULL,
    data jsonb NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    error text,
    UNIQUE (address_id, message_id)
);
CREATE INDEX IF NOT EXISTS notices_open ON notices (address_id, id)
    WHERE status IN ('pending', 'sending');
CREATE INDEX IF NOT EXISTS notices_finished ON notices (finished_at)
""",
    ),
)

PACED = "confirmed_at, requested_at, refusal, failures, next_mail_at, hour_began_at, hour_mails"
"""Columns of an address that the result of a mail changes."""

RENEWAL: LiteralString = (
    "UPDATE notice_addresses SET signing_key = "
    "replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')"
)
"""Statement that replaces the keys of links in mails."""

LINK_LIFETIME = timedelta(hours=24)
"""Time in which an address can be confirmed."""

COLLECTING = timedelta(seconds=15)
"""Time for which a notice waits for others: an empty balance pauses all jobs."""

HOUR, HOURLY_MAILS = timedelta(hours=1), 10
"""Maximum mails to an address in an hour. Further notices share the next mail."""

MAIL_NOTICES = 50
"""Most notices in a mail."""

LATEST = timedelta(days=2)
"""Age from which no notice is sent, as after a pause of e-mail. Attempts take about a day."""

TOO_LATE = "EcoLink could not send this notice within two days."

INTERRUPTED = (
    "EcoLink stopped while it sent this notice. It does not send it again, because the mail may "
    "have arrived."
)


class NoticeStatus(StrEnum):
    """States of a notice."""

    PENDING = "pending"
    SENDING = "sending"
    """The mail server may have it. It is never sent again."""
    SENT = "sent"
    FAILED = "failed"


class Outcome(StrEnum):
    """Results of an attempt to send a mail."""

    SENT = "sent"
    POSTPONED = "postponed"
    """The mail server did not take it. EcoLink tries again."""
    FAILED = "failed"
    """The mail server refused it, or may have taken it. EcoLink does not try again."""
    REFUSED = "refused"
    """The mail server refused the address. EcoLink no longer uses it."""


@dataclass(frozen=True)
class MailResult:
    """The result of an attempt, with the reason of a failure for the account holder."""

    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True)
class NoticeAddress:
    """The address of an account, confirmed or not. `refusal` is the mail server's reason."""

    id: UUID
    account_id: UUID
    email: str
    kinds: tuple[NoticeKind, ...]
    signing_key: str
    requested_at: datetime
    confirmed_at: datetime | None
    refusal: str | None
    after_position: int
    failures: int
    next_mail_at: datetime
    hour_began_at: datetime
    hour_mails: int

    def __post_init__(self) -> None:  # PostgreSQL returns texts
        object.__setattr__(self, "kinds", tuple(map(NoticeKind, self.kinds)))

    @property
    def confirm_until(self) -> datetime:
        """The time until which the newest link confirms the address."""
        return self.requested_at + LINK_LIFETIME

    @property
    def signer(self) -> LinkSigner:
        """The signer of its links."""
        return LinkSigner(self.id, self.signing_key, self.requested_at)


@dataclass(frozen=True)
class Notice:
    """A notice to an address. `created_at` is the time of its event or request."""

    id: int
    address_id: UUID
    message_id: str
    kind: NoticeKind
    data: Data
    status: NoticeStatus
    created_at: datetime
    finished_at: datetime | None
    error: str | None

    def __post_init__(self) -> None:  # PostgreSQL returns texts
        object.__setattr__(self, "kind", NoticeKind(self.kind))
        object.__setattr__(self, "status", NoticeStatus(self.status))


@dataclass(frozen=True)
class DueMail:
    """An address to which a mail is due."""

    id: UUID
    account_id: UUID

    @property
    def receiver_id(self) -> UUID:
        """The address."""
        return self.id


@dataclass(frozen=True)
class Mail:
    """Notices that are sent together."""

    address: NoticeAddress
    notices: tuple[Notice, ...]

    @property
    def is_direct(self) -> bool:
        """True if a person requested it."""
        return self.notices[0].kind.is_direct


# The settings of an account.


def address_of(connection: Connection, account_id: UUID) -> NoticeAddress | None:
    """Return the address of an account, or None."""
    return _address(connection, "account_id = %s", account_id)


def address_with_id(connection: Connection, address_id: UUID) -> NoticeAddress | None:
    """Return an address, or None."""
    return _address(connection, "id = %s", address_id)


def _address(connection: Connection, where: Any, value: UUID) -> NoticeAddress | None:
    with connection.cursor(row_factory=class_row(NoticeAddress)) as cursor:
        query = f"SELECT * FROM notice_addresses WHERE {where}"
        return cursor.execute(query, [value]).fetchone()  # type: ignore[arg-type]


def set_address(
    connection: Connection, account_id: UUID, email: str, kinds: Sequence[NoticeKind], now: datetime
) -> None:
    """Replace an address and its notices by an unconfirmed one, and request its mail."""
    with connection.transaction():
        delete_address(connection, account_id)
        id = uuid4()
        connection.execute(
            "INSERT INTO notice_addresses (id, account_id, email, kinds, signing_key, "
            "requested_at, next_mail_at, hour_began_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [id, account_id, email, list(kinds), new_signing_key(), now, now, now],
        )
        add_direct(connection, id, NoticeKind.CONFIRMATION, now)


def request_confirmation(connection: Connection, address_id: UUID, now: datetime) -> None:
    """Send the link that confirms an address again, for another 24 hours."""
    with connection.transaction():
        connection.execute(
            "UPDATE notice_addresses SET requested_at = %s, next_mail_at = %s, failures = 0, "
            "refusal = NULL WHERE id = %s",
            [now, now, address_id],
        )
        _drop_pending(connection, address_id)
        add_direct(connection, address_id, NoticeKind.CONFIRMATION, now)


def confirm(connection: Connection, address_id: UUID, now: datetime) -> None:
    """Confirm an address. It receives notices of later events."""
    with connection.transaction():
        _drop_pending(connection, address_id)
        connection.execute(
            "UPDATE notice_addresses SET confirmed_at = %s, after_position = "
            f"(SELECT coalesce(max(notification_id), 0) FROM {EVENTS_TABLE}) "
            "WHERE id = %s AND confirmed_at IS NULL",
            [now, address_id],
        )


def set_kinds(connection: Connection, address_id: UUID, kinds: Sequence[NoticeKind]) -> None:
    """Choose the kinds of notices. Pending notices of other kinds are deleted."""
    with connection.transaction():
        connection.execute(
            "UPDATE notice_addresses SET kinds = %s WHERE id = %s", [list(kinds), address_id]
        )
        connection.execute(
            "DELETE FROM notices WHERE address_id = %s AND status = 'pending' "
            "AND kind = ANY(%s) AND kind <> ALL(%s)",
            [address_id, list(CHOSEN), list(kinds)],
        )


def delete_address(connection: Connection, account_id: UUID) -> None:
    """Delete the address of an account with its notices."""
    connection.execute("DELETE FROM notice_addresses WHERE account_id = %s", [account_id])


def add_direct(connection: Connection, address_id: UUID, kind: NoticeKind, now: datetime) -> Notice:
    """Add a test or the link that confirms an address."""
    with connection.cursor(row_factory=class_row(Notice)) as cursor:
        added = cursor.execute(
            "INSERT INTO notices (address_id, message_id, kind, data, status, created_at) "
            "VALUES (%s, %s, %s, %s, %s, %s) RETURNING *",
            [address_id, uuid4().hex, kind, Jsonb({}), NoticeStatus.PENDING, now],
        ).fetchone()
    assert added is not None
    return added


def newest_notices(connection: Connection, address_id: UUID, limit: int) -> list[Notice]:
    """Return up to `limit` notices to an address, newest first."""
    with connection.cursor(row_factory=class_row(Notice)) as cursor:
        return cursor.execute(
            "SELECT * FROM notices WHERE address_id = %s ORDER BY id DESC LIMIT %s",
            [address_id, limit],
        ).fetchall()


def _drop_pending(connection: Connection, address_id: UUID) -> None:
    connection.execute(
        "DELETE FROM notices WHERE address_id = %s AND status = 'pending'", [address_id]
    )


# The queue.


def add_notices(
    connection: Connection, messages: Sequence[tuple[int | None, Message]], now: datetime
) -> None:
    """Add a notice of each message to the address that wants it.

    Each message comes with the notification ID of its event, if an event caused it. A repeated
    message adds nothing. An old one adds nothing either, because `delete_old_notices` may have
    deleted the notice that shows that it is repeated.
    """
    found = [
        (id, message, kind)
        for id, message in messages
        if message.created_at >= now - LATEST and (kind := kind_of(message))
    ]
    if not found:
        return
    connection.execute(
        "INSERT INTO notices (address_id, message_id, kind, data, status, created_at) "
        "SELECT address.id, message_id, kind, data::jsonb, %(pending)s, happened_at "
        "FROM unnest(%(positions)s::bigint[], %(accounts)s::uuid[], %(ids)s::text[], "
        "%(kinds)s::text[], %(data)s::text[], %(times)s::timestamptz[]) AS message (position, "
        "account, message_id, kind, data, happened_at) "
        "JOIN notice_addresses AS address ON account_id = account "
        "AND confirmed_at IS NOT NULL AND coalesce(position > after_position, true) "
        "AND kind = ANY(address.kinds) "
        "ORDER BY position ON CONFLICT DO NOTHING",
        {
            "pending": NoticeStatus.PENDING,
            "positions": [id for id, _, _ in found],
            "accounts": [message.account_id for _, message, _ in found],
            "ids": [message.id for _, message, _ in found],
            "kinds": [kind for _, _, kind in found],
            "data": [message.data_text for _, message, _ in found],
            "times": [message.created_at for _, message, _ in found],
        },
    )


_DIRECT = [each for each in NoticeKind if each.is_direct]

_SENDABLE = """
notice.address_id = address.id AND status = 'pending'
AND (kind = 'notice.confirmation') = (confirmed_at IS NULL)
AND (kind = 'notice.test' OR next_mail_at <= %(now)s)
"""
"""Notices that may be sent now. An address that is not confirmed receives only its link."""


def due_mails(
    connection: Connection, now: datetime, busy: Collection[UUID], limit: int
) -> list[DueMail]:
    """Return up to `limit` addresses to which a mail is due, except busy ones, earliest first.

    It also returns those with an interrupted mail, whose notices `begin_mail` ends.
    """
    with connection.cursor(row_factory=class_row(DueMail)) as cursor:
        return cursor.execute(
            "SELECT address.id, account_id FROM notices AS notice "
            "JOIN notice_addresses AS address ON notice.address_id = address.id "
            # Most addresses have no open notice. An index has the open ones.
            "WHERE status IN ('pending', 'sending') AND address.id <> ALL(%(busy)s) "
            f"AND (status = 'sending' OR {_SENDABLE} "
            "AND (kind = ANY(%(direct)s) OR created_at <= %(collected)s)) "
            "GROUP BY address.id ORDER BY next_mail_at, address.id LIMIT %(limit)s",
            {
                "busy": list(busy),
                "now": now,
                "direct": _DIRECT,
                "collected": now - COLLECTING,
                "limit": limit,
            },
        ).fetchall()


def begin_mail(connection: Connection, address_id: UUID, now: datetime) -> Mail | None:
    """Mark the notices of the next mail as being sent. Return the mail, or None without one.

    The caller sends no other mail to the address, so notices that are marked already belong to an
    interrupted mail. They fail, and so do notices that are too old.
    """
    with connection.transaction(), connection.cursor(row_factory=class_row(Notice)) as cursor:
        connection.execute("SELECT FROM notice_addresses WHERE id = %s FOR UPDATE", [address_id])
        connection.execute(
            "UPDATE notices SET status = 'failed', finished_at = %s, error = %s "
            "WHERE address_id = %s AND status = 'sending'",
            [now, INTERRUPTED, address_id],
        )
        connection.execute(
            "UPDATE notices SET status = 'failed', finished_at = %s, error = %s "
            "WHERE address_id = %s AND status = 'pending' AND created_at < %s",
            [now, TOO_LATE, address_id, now - LATEST],
        )
        address = address_with_id(connection, address_id)
        if address is None:
            return None
        pending = cursor.execute(
            "SELECT notice.* FROM notices AS notice JOIN notice_addresses AS address "
            f"ON {_SENDABLE} WHERE address.id = %(id)s "
            "ORDER BY (kind = ANY(%(direct)s)) DESC, notice.id LIMIT %(limit)s",
            {"id": address_id, "now": now, "direct": _DIRECT, "limit": MAIL_NOTICES},
        ).fetchall()
        chosen = pending[:1] if pending and pending[0].kind.is_direct else pending
        if not chosen:
            return None
        _finish(connection, chosen, NoticeStatus.SENDING, None, None)
        return Mail(address, tuple(chosen))


def end_mail(connection: Connection, mail: Mail, result: MailResult, now: datetime) -> None:
    """Store the result of a mail: on its notices, and on the time of the next mail."""
    with connection.transaction():
        address = address_with_id(connection, mail.address.id)
        if address is None:
            return
        is_test = mail.notices[0].kind is NoticeKind.TEST
        delay = None if is_test else delay_after(address.failures + 1)
        match result.outcome:
            case Outcome.SENT:
                _finish(connection, mail.notices, NoticeStatus.SENT, now, None)
            case Outcome.POSTPONED if delay is not None:
                _finish(connection, mail.notices, NoticeStatus.PENDING, None, result.error)
                _set_pace(connection, address, address.failures + 1, now + delay)
                return
            case _:
                _finish(connection, mail.notices, NoticeStatus.FAILED, now, result.error)
        if result.outcome is Outcome.REFUSED:
            _stop_using(connection, address.id, result.error, now)
        if not mail.is_direct:
            _count_mail(connection, address, now)
        elif not is_test:
            _set_pace(connection, address, 0, now)


def _finish(
    connection: Connection,
    notices: Sequence[Notice],
    status: NoticeStatus,
    finished_at: datetime | None,
    error: str | None,
) -> None:
    connection.execute(
        "UPDATE notices SET status = %s, finished_at = %s, error = %s WHERE id = ANY(%s)",
        [status, finished_at, error, [each.id for each in notices]],
    )


def _stop_using(
    connection: Connection, address_id: UUID, refusal: str | None, now: datetime
) -> None:
    """Require another confirmation. The new time ends the links of the last one."""
    connection.execute(
        "UPDATE notice_addresses SET confirmed_at = NULL, requested_at = %s, refusal = %s "
        "WHERE id = %s",
        [now, refusal, address_id],
    )
    _drop_pending(connection, address_id)


def _count_mail(connection: Connection, address: NoticeAddress, now: datetime) -> None:
    """Count a mail in its hour. After the last one, the next mail waits for the next hour."""
    new_hour = now - address.hour_began_at >= HOUR
    began = now if new_hour else address.hour_began_at
    mails = 1 if new_hour else address.hour_mails + 1
    connection.execute(
        "UPDATE notice_addresses SET hour_began_at = %s, hour_mails = %s WHERE id = %s",
        [began, mails, address.id],
    )
    _set_pace(connection, address, 0, began + HOUR if mails >= HOURLY_MAILS else now)


def _set_pace(
    connection: Connection, address: NoticeAddress, failures: int, next_mail_at: datetime
) -> None:
    connection.execute(
        "UPDATE notice_addresses SET failures = %s, next_mail_at = %s WHERE id = %s",
        [failures, next_mail_at, address.id],
    )


def delete_old_notices(connection: Connection, before: datetime) -> None:
    """Delete old notices, even waiting ones (e-mail is off), and unconfirmed addresses."""
    connection.execute("DELETE FROM notices WHERE finished_at < %s", [before])
    connection.execute("DELETE FROM notices WHERE status = 'pending' AND created_at < %s", [before])
    connection.execute(
        "DELETE FROM notice_addresses WHERE confirmed_at IS NULL AND requested_at < %s", [before]
    )
