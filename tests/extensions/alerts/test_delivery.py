"""Alerts are sent once to each receiver, across failures and restarts, and without secrets."""

from __future__ import annotations

import logging
from email import message_from_string
from http import HTTPStatus
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from extensions.alerts import delivery as delivering
from extensions.alerts import tables
from extensions.alerts.domain.evaluation import NoticeKind, Silence
from extensions.alerts.domain.rule import Severity
from extensions.alerts.receivers import (
    SILENT,
    DeliveryFailed,
    Message,
    Receiver,
    check,
    read_receiver,
)
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from tests.builders.history import History
from tests.extensions.alerts.process import AlertsProcess, only
from tests.extensions.alerts.webhook import SECRET, Webhook, webhook

FIRED, RESOLVED = "[warning] Balance is empty (account=", "[resolved] Balance is empty (account="


@pytest.fixture
def process(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], ops: Webhook
) -> AlertsProcess:
    return AlertsProcess(settings, log, pool, only("balance-empty", receivers=f'ops = "{ops.url}"'))


def empty_account(history: History) -> None:
    """Use up a balance of $1."""
    history.open_account(1_000_000)
    with history.changing_account() as account:
        account.settle(captured_micros=0, reserved_micros=1_000_000)
        account.settle(captured_micros=1_000_000, reserved_micros=0, second_micros=5)


def starts(titles: list[str]) -> list[str]:
    return [title[: title.index("=") + 1] for title in titles]


async def test_an_alert_is_sent_once_when_it_fires_and_once_when_it_resolves(
    process: AlertsProcess, history: History, ops: Webhook
) -> None:
    empty_account(history)
    for _ in range(3):
        await process.step(after_seconds=10)
    history.top_up(5_000_000, "a")
    for _ in range(3):
        await process.step(after_seconds=10)
    assert starts(ops.titles) == [FIRED, RESOLVED]
    assert ops.attempts == 2
    assert [each["type"] for each in ops.messages] == ["warning", "success"]
    assert str(history.account_id) in ops.messages[0]["message"]
    assert "Resolved: 2026-11-24 12:00:40 UTC, after 40 s" in ops.messages[1]["message"]


async def test_a_restart_at_any_step_sends_nothing_twice(
    process: AlertsProcess, history: History, ops: Webhook
) -> None:
    empty_account(history)
    for _ in range(3):
        process.restart()
        await process.step()
    (firing,) = process.firing()
    assert firing.notified == ("ops",)
    history.top_up(5_000_000, "a")
    for _ in range(3):
        process.restart()
        await process.step()
    assert starts(ops.titles) == [FIRED, RESOLVED]
    assert process.firing() == []


async def test_a_receiver_that_fails_is_tried_again_and_does_not_delay_others(
    process: AlertsProcess, history: History, ops: Webhook
) -> None:
    with webhook() as other:
        process.write(only("balance-empty", receivers=f'ops = "{ops.url}"\nother = "{other.url}"'))
        ops.status = HTTPStatus.SERVICE_UNAVAILABLE
        empty_account(history)
        await process.step()
        assert starts(other.titles) == [FIRED]
        (firing,) = process.firing()
        assert firing.notified == ("other",)
        assert firing.problems == ("ops: The service returned HTTP status 503.",)

        await process.step(after_seconds=4)  # its first pause takes 5 s
        assert ops.attempts == 1
        process.restart()
        await process.step(after_seconds=1)
        assert ops.attempts == 2
        await process.step(after_seconds=9)  # the second takes 10 s
        assert ops.attempts == 2

        history.top_up(5_000_000, "a")
        await process.step()
        assert starts(other.titles) == [FIRED, RESOLVED]
        ops.status = HTTPStatus.OK
        await process.step(after_seconds=300)
        assert starts(ops.titles) == [FIRED, RESOLVED]
        assert len(other.messages) == 2


async def test_many_waiting_notices_of_one_receiver_do_not_delay_others(
    process: AlertsProcess, ops: Webhook, monkeypatch: pytest.MonkeyPatch, log: EventLog
) -> None:
    monkeypatch.setattr(delivering, "BATCH_NOTICES", 2)
    ops.status = HTTPStatus.SERVICE_UNAVAILABLE
    for _ in range(6):
        empty_account(History(log, account_id=uuid4()))
        await process.step()
    with webhook() as other:
        receivers = f'ops = "{ops.url}"\nother = "{other.url}"'
        process.write(only("balance-empty", receivers=receivers))
        empty_account(History(log, account_id=uuid4()))
        await process.step(after_seconds=600)
        assert len(other.messages) == 1


async def test_an_idle_process_writes_nothing(
    process: AlertsProcess, history: History, pool: ConnectionPool[Connection], ops: Webhook
) -> None:
    empty_account(history)
    await process.step()
    await process.step(after_seconds=60)

    def versions() -> list[object]:
        with pool.connection() as connection:
            return [
                connection.execute(f"SELECT xmin, xmax FROM {table}".encode()).fetchall()
                for table in (*(each.name for each in tables.TABLES), "leaderships")
            ]

    before = versions()
    await process.step(after_seconds=60)
    assert versions() == before


async def test_a_receiver_that_was_down_gets_the_notice_when_it_returns(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    with webhook() as gone:
        rules = only("balance-empty", receivers=f'ops = "{gone.url}"')
    process = AlertsProcess(settings, log, pool, rules)
    empty_account(history)
    await process.step()
    assert process.firing()[0].problems == ("ops: The service cannot be reached.",)
    with webhook(gone.port) as back:
        await process.step(after_seconds=5)
        assert starts(back.titles) == [FIRED]
    assert process.firing()[0].problems == ()


async def test_a_crash_between_delivery_and_commit_repeats_one_delivery(
    process: AlertsProcess,
    history: History,
    ops: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty_account(history)
    with monkeypatch.context() as crash:
        crash.setattr(delivering.Delivery, "_finish", lambda *_: 1 / 0)
        process.restart()
        await process.step()
    sent = ops.attempts
    process.restart()
    for _ in range(3):
        await process.step()
    assert ops.attempts == sent + 1
    assert set(starts(ops.titles)) == {FIRED}


async def test_a_database_that_refuses_writes_does_not_repeat_deliveries(
    process: AlertsProcess,
    history: History,
    ops: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty_account(history)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(delivering.Delivery, "_finish", lambda *_: 1 / 0)
        for _ in range(3):
            await process.step()
    await process.step()
    assert ops.attempts == 1
    assert process.firing()[0].notified == ("ops",)


async def test_a_notice_is_given_up_after_a_day(
    process: AlertsProcess, history: History, ops: Webhook
) -> None:
    ops.status = HTTPStatus.FORBIDDEN
    empty_account(history)
    await process.step()
    await process.step(after_seconds=24 * 3600 + 1)
    attempts = ops.attempts
    await process.step(after_seconds=3600)
    assert ops.attempts == attempts
    assert process.firing()[0].problems == ("ops: The service returned HTTP status 403.",)


async def test_notices_for_a_removed_receiver_are_given_up(
    process: AlertsProcess, history: History, ops: Webhook
) -> None:
    ops.status = HTTPStatus.FORBIDDEN
    empty_account(history)
    await process.step()
    process.write(only("balance-empty"))
    await process.step(after_seconds=60)
    assert ops.attempts == 1
    assert process.firing()[0].problems == ("ops: The receiver was removed.",)


async def test_without_receivers_alerts_are_stored_and_listed(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    process = AlertsProcess(settings, log, pool, "")
    empty_account(history)
    await process.step()
    assert "balance-empty" in process.names()
    history.top_up(5_000_000, "a")
    await process.step()
    assert "balance-empty" in [each.alert.rule for each in process.resolved()]


async def test_a_silenced_alert_is_stored_and_sent_when_the_silence_ends(
    process: AlertsProcess, history: History, ops: Webhook, pool: ConnectionPool[Connection]
) -> None:
    until = process.clock.time.replace(hour=13)
    with pool.connection() as connection:
        tables.silence(connection, Silence("balance-empty", None, until))
    empty_account(history)
    await process.step()
    assert process.firing()[0].silenced_until == until
    assert ops.messages == []
    await process.step(after_seconds=3600)
    assert process.firing()[0].silenced_until is None
    assert starts(ops.titles) == [FIRED]


async def test_an_invalid_change_of_the_file_keeps_the_last_valid_rules(
    process: AlertsProcess,
    history: History,
    ops: Webhook,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process.write("[rules.balance-empty]\nfor = 5")
    empty_account(history)
    await process.step()
    assert starts(ops.titles) == [FIRED]
    (record,) = [each for each in caplog.records if "stay in force" in each.message]
    assert "rules.balance-empty.for: 5: This is not a duration" in record.message


async def test_no_secret_of_a_url_is_logged_or_stored(
    process: AlertsProcess,
    history: History,
    ops: Webhook,
    pool: ConnectionPool[Connection],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in SILENT:  # as they are before the first message, and without the handlers of pytest
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    ops.status = HTTPStatus.UNAUTHORIZED
    empty_account(history)
    await process.step()
    ops.status = HTTPStatus.OK
    await process.step(after_seconds=60)
    assert starts(ops.titles) == [FIRED]
    assert SECRET not in caplog.text
    with pool.connection() as connection, connection.cursor(row_factory=tuple_row) as cursor:
        for table in (each.name for each in tables.TABLES):
            rows = cursor.execute(f"SELECT * FROM {table}".encode()).fetchall()  # type: ignore[arg-type]
            assert SECRET not in str(rows)
            assert "json://" not in str(rows)


async def test_a_plugin_that_raises_shows_only_the_type_of_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import apprise

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"cannot post to {SECRET}")

    monkeypatch.setattr(apprise.Apprise, "notify", fail)
    receiver = read_receiver("ops", f"json://127.0.0.1/{SECRET}")
    with pytest.raises(DeliveryFailed) as raised:
        delivering.send(receiver, message())
    assert str(raised.value) == "Apprise failed with ValueError."


def test_a_message_keeps_the_handlers_of_a_message_that_another_thread_sends() -> None:
    apprise_log, other = logging.getLogger("apprise"), logging.NullHandler()
    apprise_log.addHandler(other)
    try:
        check(read_receiver("ops", "json://127.0.0.1"))
        assert other in apprise_log.handlers
    finally:
        apprise_log.removeHandler(other)


@pytest.mark.parametrize(
    "url",
    [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
        "mailtos://user:password@smtp.example.org:465?to=ops@example.org",
        "pagerduty://A1BRTD4JD@TIiajkdnlazkcOXrIdevi7FQ",
        "jsons://user:password@hooks.example.org/alerts",
    ],
)
def test_apprise_accepts_the_services_of_the_documentation(url: str) -> None:
    assert check(read_receiver("ops", url)) is None


@pytest.mark.parametrize("url", ["slakc://a/b/c", "slack://a", "pagerduty://a"])
def test_a_url_that_apprise_does_not_accept_is_reported(url: str) -> None:
    assert url.partition(":")[0] in (check(read_receiver("ops", url)) or "")


def test_pagerduty_closes_the_incident_of_a_resolved_alert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import apprise
    from apprise.plugins.pagerduty import NotifyPagerDuty

    sent: list[NotifyPagerDuty] = []

    def keep(self: apprise.Apprise, **_: object) -> bool:
        sent.extend(each for each in self if isinstance(each, NotifyPagerDuty))
        return True

    monkeypatch.setattr(apprise.Apprise, "notify", keep)
    key = "TIiajkdnlazkcOXrIdevi7FQ"
    delivering.send(read_receiver("ops", f"pagerduty://A1BRTD4JD@{key}"), message())
    (target,) = sent
    assert (target.action, target.dedup) == ("map", "incident-1")


def test_an_email_has_the_title_as_subject_and_keeps_the_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = MagicMock()
    server.return_value.sendmail.return_value = {}  # no recipient was refused
    monkeypatch.setattr("smtplib.SMTP", server)
    url = "mailto://smtp.example.org?from=ecolink@example.org&to=ops@example.org"
    delivering.send(read_receiver("mail", url), message())
    sender, recipients, content = server.return_value.sendmail.call_args.args
    assert (sender, recipients) == ("ecolink@example.org", ["ops@example.org"])
    email = message_from_string(content)
    assert email["Subject"] == "title"
    assert str(email.get_payload()).splitlines() == ["first line", "second line"]


def message() -> Message:
    return Message(
        "title", "first line\nsecond line", NoticeKind.FIRED, Severity.CRITICAL, "incident-1"
    )


def test_a_receiver_hides_its_url() -> None:
    assert SECRET not in repr(Receiver("ops", "json", f"json://{SECRET}"))
