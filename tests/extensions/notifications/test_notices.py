"""Mails of notices: the events that cause them, and that each is sent at most once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from extensions.notifications.domain.kind import CHOSEN, NoticeKind
from extensions.notifications.domain.link import LinkPurpose
from extensions.notifications.domain.message import Message, WebhookType
from extensions.notifications.domain.retry_schedule import ATTEMPTS
from extensions.notifications.notices import tables as notices
from extensions.notifications.notices.mail import Letterhead
from extensions.notifications.notices.queue import NoticeQueue
from extensions.notifications.notices.smtp import MailServer, send
from extensions.notifications.notices.tables import (
    COLLECTING,
    HOUR,
    HOURLY_MAILS,
    INTERRUPTED,
    LATEST,
    TOO_LATE,
    MailResult,
    Notice,
    NoticeAddress,
    NoticeStatus,
    Outcome,
)
from extensions.notifications.recording import RecordingEffect
from extensions.notifications.webhooks.deliveries import Attempt, record_attempt
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.log_identity import set_held
from infrastructure.postgres.store import Connection, scalar
from infrastructure.settings import Settings
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.extensions.notifications.conftest import Hooks
from tests.extensions.notifications.mail_server import mail_server

ADA = "ada@example.com"
ORIGIN = "https://ecolink.example"
DAY = timedelta(days=1)
SENT = MailResult(Outcome.SENT)
AWAY = MailResult(Outcome.POSTPONED, "The mail server cannot be reached.")


@dataclass
class Notices:
    """The rows of notices, and a mail server whose next results a test chooses."""

    pool: ConnectionPool[Connection]
    clock: FixedClock = field(default_factory=FixedClock)
    result: MailResult = SENT
    mails: list[EmailMessage] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        letterhead = Letterhead("ecolink@example.org", ORIGIN)
        self.queue = NoticeQueue(self.pool, self.clock, letterhead, self._send)

    def _send(self, mail: EmailMessage) -> MailResult:
        if self.result.outcome is Outcome.SENT:
            self.mails.append(mail)
        return self.result

    def set(self, email: str = ADA, *, confirmed: bool = True) -> NoticeAddress:
        """Set the address of the account."""
        with self.pool.connection() as connection:
            notices.set_address(connection, ACCOUNT_ID, email, CHOSEN, self.clock.now())
            if confirmed:
                notices.confirm(connection, self.address.id, self.clock.now())
        return self.address

    @property
    def address(self) -> NoticeAddress:
        with self.pool.connection() as connection:
            found = notices.address_of(connection, ACCOUNT_ID)
        assert found is not None
        return found

    def add(
        self,
        name: str = "",
        type: WebhookType = WebhookType.JOB_FAILED,
        account_id: UUID = ACCOUNT_ID,
        position: int | None = None,
        age: timedelta = timedelta(0),
    ) -> None:
        """Add the notice of a message with this ID, whose event has an age."""
        self.count += 1
        now = self.clock.now()
        message = Message(
            *(name or f"evt_{self.count}", account_id, type, now - age), {"id": "x"}, "x"
        )
        with self.pool.connection() as connection:
            notices.add_notices(connection, [(position, message)], now)

    def work(self, *, collect: bool = True) -> int:
        """Send what is due, after the time of collecting. Return the number of attempts."""
        if collect:
            self.clock.time += COLLECTING
        attempts = 0
        for due in self.queue.due(Busy()):
            result = asyncio.run(self.queue.send(due))
            self.queue.record(due, result)
            attempts += result is not None
        return attempts

    def rows(self) -> list[Notice]:
        with self.pool.connection() as connection:
            return notices.newest_notices(connection, self.address.id, 100)[::-1]

    def statuses(self) -> list[str]:
        return [each.status.value for each in self.rows()]

    @property
    def subjects(self) -> list[str]:
        return [mail["Subject"] for mail in self.mails]


@pytest.fixture
def held(pool: ConnectionPool[Connection]) -> Notices:
    return Notices(pool)


def test_an_address_that_is_not_confirmed_receives_only_its_link(held: Notices) -> None:
    held.set(confirmed=False)
    held.add()
    held.work()
    (mail,) = held.mails
    assert mail["To"] == ADA
    assert mail["Subject"] == "EcoLink: Confirm your e-mail address"
    assert mail["List-Unsubscribe"] is None
    link = mail.get_content().split()[-1]
    token = link.removeprefix(f"{ORIGIN}/notices/confirm/")
    assert held.address.signer.is_signed(token, LinkPurpose.CONFIRM)
    assert held.work() == 0


def test_a_notice_has_a_text_and_a_signed_link_to_unsubscribe(held: Notices) -> None:
    held.set()
    held.add()
    held.work()
    (mail,) = held.mails
    assert mail["Subject"] == "EcoLink: Job x failed"
    assert mail.get_content_type() == "text/plain"
    assert f"{ORIGIN}/fine-tune/x\n" in mail.get_content()
    link = mail["List-Unsubscribe"].strip("<>")
    assert link in mail.get_content()
    token = link.removeprefix(f"{ORIGIN}/notices/unsubscribe/")
    assert held.address.signer.is_signed(token, LinkPurpose.UNSUBSCRIBE)
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert held.statuses() == ["sent"]


def test_notices_of_the_same_time_arrive_in_one_mail(held: Notices) -> None:
    held.set()
    held.add()
    held.add(type=WebhookType.BALANCE_DEPLETED)
    held.add(account_id=uuid4())
    assert held.work(collect=False) == 0
    assert held.work() == 1
    assert held.subjects == ["EcoLink: 2 notices"]
    assert "Your balance is used up" in held.mails[0].get_content()


def test_only_chosen_kinds_of_later_events_are_sent(held: Notices) -> None:
    address = held.set()
    with held.pool.connection() as connection:
        notices.set_kinds(connection, address.id, [NoticeKind.BALANCE_DEPLETED])
    held.add()
    held.add(type=WebhookType.CAPACITY_AVAILABLE)
    held.add(type=WebhookType.BALANCE_DEPLETED, position=address.after_position)
    held.add(type=WebhookType.BALANCE_DEPLETED, position=address.after_position + 1)
    assert held.work() == 1
    assert held.statuses() == ["sent"]


def test_turning_a_kind_off_also_drops_its_pending_notices(held: Notices) -> None:
    address = held.set()
    held.add()
    with held.pool.connection() as connection:
        notices.set_kinds(connection, address.id, [])
    assert held.work() == 0
    assert held.rows() == []


def test_a_repeated_event_adds_no_notice(held: Notices) -> None:
    held.set()
    held.add("evt_1")
    held.work()
    held.add("evt_1")
    assert held.work() == 0
    assert len(held.mails) == 1


def test_a_mail_that_was_interrupted_is_never_sent_again(held: Notices) -> None:
    held.set()
    held.add()
    held.clock.time += COLLECTING
    (due,) = held.queue.due(Busy())
    asyncio.run(held.queue.send(due))  # the process is killed before it stores the result
    assert held.statuses() == ["sending"]
    assert len(held.mails) == 1
    assert held.work() == 0
    assert held.statuses() == ["failed"]
    assert held.rows()[0].error == INTERRUPTED
    held.add()
    held.work()
    assert len(held.mails) == 2


def test_a_mail_is_repeated_for_a_day_and_then_fails(held: Notices) -> None:
    held.set()
    held.add()
    held.result, began = AWAY, held.clock.now()
    attempts = 0
    while "pending" in held.statuses():
        attempts += held.work()
        held.clock.time += timedelta(minutes=10)
    assert attempts == ATTEMPTS
    assert DAY * 0.85 < held.clock.now() - began < DAY * 1.2
    assert held.rows()[0].error == AWAY.error
    held.result = SENT
    held.add()
    assert held.work() == 1


def test_notices_during_an_outage_arrive_in_one_mail(held: Notices) -> None:
    held.set()
    held.result = AWAY
    for _ in range(5):
        held.add()
        held.work()
    held.result = SENT
    held.clock.time += DAY
    assert held.work() == 1
    assert held.subjects == ["EcoLink: 5 notices"]


def test_an_address_that_the_server_refuses_must_be_confirmed_again(held: Notices) -> None:
    held.set()
    held.add()
    held.result = MailResult(Outcome.REFUSED, "no such user")
    held.work()
    assert (held.address.confirmed_at, held.address.refusal) == (None, "no such user")
    held.result = SENT
    held.add()
    assert held.work() == 0
    with held.pool.connection() as connection:
        notices.request_confirmation(connection, held.address.id, held.clock.now())
    held.work()
    assert held.subjects == ["EcoLink: Confirm your e-mail address"]


def test_a_flapping_job_does_not_flood_an_address(held: Notices) -> None:
    held.set()
    ends = held.clock.now() + HOUR
    while held.clock.now() < ends - COLLECTING:
        held.add()
        held.work()
    assert len(held.mails) == HOURLY_MAILS
    assert set(held.statuses()) == {"pending"}
    held.clock.time = ends + COLLECTING
    held.work()
    assert held.subjects[-1] == f"EcoLink: {notices.MAIL_NOTICES} notices"


def test_a_test_is_sent_once_and_at_once(held: Notices) -> None:
    address = held.set()
    held.result = AWAY
    with held.pool.connection() as connection:
        notices.add_direct(connection, address.id, NoticeKind.TEST, held.clock.now())
    assert held.work(collect=False) == 1
    assert held.statuses() == ["failed"]
    held.result = SENT
    held.add()
    assert held.work() == 1, "the failed test delays no notice"


def test_a_new_address_gets_no_notice_of_the_previous_one(held: Notices) -> None:
    held.set()
    held.add()
    held.set("eve@example.com")
    assert held.work() == 0
    with held.pool.connection() as connection:
        notices.delete_address(connection, ACCOUNT_ID)
        assert notices.address_of(connection, ACCOUNT_ID) is None
        assert connection.execute("SELECT FROM notices").rowcount == 0


def test_an_address_that_is_deleted_during_a_mail_stays_deleted(held: Notices) -> None:
    held.set()
    held.add()
    held.clock.time += COLLECTING
    (due,) = held.queue.due(Busy())
    result = asyncio.run(held.queue.send(due))
    with held.pool.connection() as connection:
        notices.delete_address(connection, ACCOUNT_ID)
    held.queue.record(due, result)
    with held.pool.connection() as connection:
        assert notices.address_of(connection, ACCOUNT_ID) is None


def test_notices_from_before_email_was_turned_on_are_not_sent(held: Notices) -> None:
    held.set()
    held.add()
    held.clock.time += LATEST + COLLECTING
    held.add()
    assert held.work() == 1
    assert held.subjects == ["EcoLink: Job x failed"]
    assert held.statuses() == ["failed", "sent"]
    assert held.rows()[0].error == TOO_LATE


def test_looking_for_due_mails_reads_no_address_without_one(
    held: Notices, settings: Settings
) -> None:
    """EcoLink looks twice a second."""
    # given a due mail, and many addresses without one
    held.set()
    held.add()
    held.clock.time += COLLECTING
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute(
            "INSERT INTO notice_addresses (id, account_id, email, kinds, signing_key, "
            "requested_at, confirmed_at, next_mail_at, hour_began_at) SELECT gen_random_uuid(), "
            "gen_random_uuid(), 'x', '{}', '', now(), now(), now(), now() "
            "FROM generate_series(1, 2000)"
        )
        owner.execute("ANALYZE notice_addresses")
    # when EcoLink looks for due mails
    with held.pool.connection() as connection:
        due = notices.due_mails(connection, held.clock.now(), (), 8)
        read = scalar(
            connection,
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables "
            "WHERE relname = 'notice_addresses'",
        )
    # then it reads only the address with the mail
    assert [each.id for each in due] == [held.address.id]
    assert read < 10


def test_the_address_that_waits_longest_comes_first(held: Notices) -> None:
    for account_id in (ACCOUNT_ID, other := uuid4()):
        with held.pool.connection() as connection:
            notices.set_address(connection, account_id, ADA, CHOSEN, held.clock.now())
        held.clock.time += COLLECTING
    with held.pool.connection() as connection:
        first, second = notices.due_mails(connection, held.clock.now(), (), 8)
        assert (first.account_id, second.account_id) == (ACCOUNT_ID, other)
        assert notices.due_mails(connection, held.clock.now(), (), 1) == [first]


def test_an_event_that_is_recorded_late_causes_no_old_notice(held: Notices) -> None:
    """The process was down, or its position was lost."""
    held.set()
    held.add(age=LATEST + timedelta(seconds=1))
    assert held.rows() == []
    held.add(age=DAY)
    (notice,) = held.rows()
    assert notice.created_at == held.clock.now() - DAY


def test_old_notices_and_addresses_without_confirmation_are_deleted(held: Notices) -> None:
    held.set()
    held.add()
    held.work()
    with held.pool.connection() as connection:
        notices.delete_old_notices(connection, held.clock.now() + DAY)
    assert held.rows() == []
    held.set("eve@example.com", confirmed=False)
    with held.pool.connection() as connection:
        notices.delete_old_notices(connection, held.clock.now() + DAY)
        assert notices.address_of(connection, ACCOUNT_ID) is None


def test_an_address_that_was_refused_after_a_long_time_is_kept(held: Notices) -> None:
    """Its owner can then read why, and request another link."""
    held.set()
    held.clock.time += 90 * DAY
    held.add()
    held.result = MailResult(Outcome.REFUSED, "no such user")
    held.work()
    with held.pool.connection() as connection:
        notices.delete_old_notices(connection, held.clock.now() - 30 * DAY)
    assert held.address.refusal == "no such user"


def test_a_line_break_in_a_value_adds_no_header(held: Notices) -> None:
    """Names come from the log. If one had a line break, the mail would fail."""
    held.set()
    message = Message(
        *("evt_1", ACCOUNT_ID, WebhookType.JOB_FAILED, NOW),
        {"id": "x\r\nBcc: eve@example.com"},
        "x",
    )
    with held.pool.connection() as connection:
        notices.add_notices(connection, [(None, message)], held.clock.now())
    held.work()
    assert held.mails == []
    assert held.statuses() == ["failed"]


def test_events_become_notices_once_whatever_is_replayed(
    held: Notices, history: History, log: EventLog, settings: Settings
) -> None:
    held.set()
    history.run_until("training")
    history.start_evaluation(1)
    history.complete(1)
    for pause in (timedelta(0), timedelta(0), LATEST):
        held.clock.time += pause
        with held.pool.connection() as connection:
            notices.delete_old_notices(connection, held.clock.now() - LATEST)
        effect = RecordingEffect(log, held.clock, held.pool.connection)
        OrderedConsumer(effect, log).catch_up()
        assert settings.owner_database_url is not None
        with psycopg.connect(settings.owner_database_url) as owner:  # the position is lost
            owner.execute("DELETE FROM ecolink_tracking WHERE application_name = 'webhooks'")
        held.work()
    (mail,) = held.mails
    assert mail["Subject"].endswith("finished")


def test_a_disabled_webhook_is_a_notice(held: Notices, hooks: Hooks) -> None:
    held.set()
    endpoint, _ = hooks.endpoint()
    delivery = hooks.add(endpoint, "evt_1")
    with held.pool.connection() as connection:
        gone = Attempt(NOW, 12, 410, "Status 410.")
        record_attempt(connection, delivery.id, gone, held.clock.now())
    held.work()
    (mail,) = held.mails
    assert f"{ORIGIN}/webhooks/{endpoint.id}" in mail.get_content()


def test_a_real_server_receives_each_notice_once(
    held: Notices, pool: ConnectionPool[Connection]
) -> None:
    with mail_server() as server:
        used = MailServer("127.0.0.1", server.port, "none", "ecolink@example.org")
        letterhead = Letterhead("ecolink@example.org", ORIGIN)
        held.queue = NoticeQueue(pool, held.clock, letterhead, partial(send, used))
        held.set()
        held.add()
        server.responses["RCPT"] = "450 greylisted"
        held.work()
        del server.responses["RCPT"]
        held.clock.time += timedelta(minutes=1)
        held.work()
        held.work()
        (mail,) = server.mails
    assert mail["Subject"] == "EcoLink: Job x failed"
    assert server.recipients == [ADA]
    assert held.statuses() == [NoticeStatus.SENT.value]


def test_a_restored_copy_sends_its_mails_once_after_the_confirmation(held: Notices) -> None:
    held.set()
    held.add()
    with held.pool.connection() as connection:
        set_held(connection, True)
        assert held.work() == 0
        set_held(connection, False)
    assert [held.work(), held.work()] == [1, 0]
    assert len(held.mails) == 1
