"""Mails that a server accepts, refuses or may have taken."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from pydantic import ValidationError

from extensions.notifications.notices.smtp import MailServer as Configured
from extensions.notifications.notices.smtp import send
from extensions.notifications.notices.tables import Outcome
from extensions.notifications.settings import NotificationSettings
from tests.extensions.notifications.mail_server import (
    DROP,
    PASSWORD,
    USER,
    MailServer,
    mail_server,
    make_certificate,
)

ADA = "ada@example.com"


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as running:
        yield running


def plain(server: MailServer) -> Configured:
    return Configured("127.0.0.1", server.port, "none", "ecolink@example.org")


def mail() -> EmailMessage:
    written = EmailMessage()
    written["To"], written["Subject"] = ADA, "Test"
    written.set_content("A line\n.\nA line after a line with only a period\n")
    return written


def test_a_mail_arrives_unchanged(server: MailServer) -> None:
    assert send(plain(server), mail()).outcome is Outcome.SENT
    (received,) = server.mails
    assert server.recipients == [ADA]
    assert received["Subject"] == "Test"
    assert received.get_content() == mail().get_content()


@pytest.mark.parametrize(
    ("command", "response", "outcome"),
    [
        ("MAIL", "550 unknown sender", Outcome.POSTPONED),
        ("RCPT", "450 try later", Outcome.POSTPONED),
        ("RCPT", "550 no such user", Outcome.REFUSED),
        ("RCPT", "553 no such user", Outcome.REFUSED),
        ("RCPT", "550 5.1.1 no such user", Outcome.REFUSED),
        ("RCPT", "550 5.2.1 mailbox disabled", Outcome.REFUSED),
        ("RCPT", "554 5.1.1 unknown in relay recipient table", Outcome.REFUSED),
        ("RCPT", "550 5.1.10 the domain accepts no mail", Outcome.REFUSED),
        ("RCPT", "550 5.7.1 relaying denied", Outcome.POSTPONED),
        ("RCPT", "550 Relay not permitted", Outcome.POSTPONED),
        ("RCPT", "550 5.1.0 sender address rejected", Outcome.POSTPONED),
        ("RCPT", "553 5.1.8 domain of the sender not found", Outcome.POSTPONED),
        ("RCPT", "552 5.2.2 mailbox full", Outcome.POSTPONED),
        ("RCPT", "530 log in first", Outcome.POSTPONED),
        ("RCPT", "554 policy", Outcome.POSTPONED),
        ("DATA", "451 try later", Outcome.POSTPONED),
        ("DATA", "554 no", Outcome.FAILED),
        (".", "452 disk full", Outcome.POSTPONED),
        (".", "554 spam", Outcome.FAILED),
        (".", DROP, Outcome.FAILED),
        ("RCPT", DROP, Outcome.POSTPONED),
        ("QUIT", DROP, Outcome.SENT),
        ("QUIT", "500 unknown command", Outcome.SENT),
    ],
)
def test_a_response_decides_whether_the_mail_is_sent_again(
    server: MailServer, command: str, response: str, outcome: Outcome
) -> None:
    server.responses[command] = response
    result = send(plain(server), mail())
    assert result.outcome is outcome
    if outcome is not Outcome.SENT:
        assert result.error is not None
        assert response in result.error or response == DROP


def test_a_refusal_counts_whatever_the_server_says_to_quit(server: MailServer) -> None:
    server.responses |= {"RCPT": "550 no such user", "QUIT": "500 unknown command"}
    assert send(plain(server), mail()).outcome is Outcome.REFUSED


def test_a_server_that_is_away_gets_the_mail_later() -> None:
    away = Configured("127.0.0.1", 1, "none", "ecolink@example.org")
    result = send(away, mail())
    assert result.outcome is Outcome.POSTPONED
    assert "cannot be reached" in (result.error or "")


@pytest.mark.parametrize(
    ("password", "trusted", "outcome", "reason"),
    [
        (PASSWORD, True, Outcome.SENT, ""),
        ("wrong", True, Outcome.POSTPONED, "user name or the password"),
        (PASSWORD, False, Outcome.POSTPONED, "certificate"),
    ],
)
def test_the_password_is_sent_only_to_the_server_of_the_certificate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
    trusted: bool,
    outcome: Outcome,
    reason: str,
) -> None:
    certificate = make_certificate(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_server(certificate) as server:
        used = Configured(
            "localhost", server.port, "starttls", "ecolink@example.org", USER, password
        )
        result = send(used, mail())
    assert result.outcome is outcome
    assert reason in (result.error or "")
    assert len(server.mails) == (outcome is Outcome.SENT)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"public_url": "https://ecolink.example"}, "ECOLINK_SMTP_FROM"),
        ({"smtp_from": "ecolink@example.org"}, "ECOLINK_PUBLIC_URL"),
    ],
)
def test_a_mail_server_needs_a_sender_and_the_public_url(
    given: dict[str, str], missing: str
) -> None:
    with pytest.raises(ValidationError, match=f"ECOLINK_SMTP_HOST is set without {missing}") as why:
        NotificationSettings(smtp_host="mail.example.org", smtp_password=PASSWORD, **given)  # type: ignore[arg-type]
    assert PASSWORD not in str(why.value)


def test_a_server_without_starttls_gets_no_password(server: MailServer) -> None:
    used = Configured("127.0.0.1", server.port, "starttls", "a@example.org", USER, PASSWORD)
    result = send(used, mail())
    assert result.outcome is Outcome.POSTPONED
    assert "does not support STARTTLS" in (result.error or "")
