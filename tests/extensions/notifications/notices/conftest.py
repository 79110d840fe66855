"""A gateway with a mail server, and the work of the webhooks process."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage

import pytest

from extensions.notifications.notices.mail import Letterhead
from extensions.notifications.notices.queue import NoticeQueue
from extensions.notifications.notices.tables import MailResult, Outcome
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import open_pool
from infrastructure.process.clock import SystemClock
from infrastructure.settings import Settings

ORIGIN, SENDER = "http://testserver", "ecolink@example.org"


class MailProcess:
    """The webhooks process, which transfers nothing: each mail has the chosen result."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.result = MailResult(Outcome.SENT)
        self.mails: list[EmailMessage] = []

    def work(self) -> int:
        """Send the due mails. Return their number."""
        before = len(self.mails)
        with open_pool(self.settings) as pool:
            queue = NoticeQueue(pool, SystemClock(), Letterhead(SENDER, ORIGIN), self._send)
            for due in queue.due(Busy()):
                queue.record(due, asyncio.run(queue.send(due)))
        return len(self.mails) - before

    def _send(self, mail: EmailMessage) -> MailResult:
        self.mails.append(mail)
        return self.result

    def link(self, purpose: str) -> str:
        """Return the path of a link in the last mail."""
        words = self.mails[-1].get_content().split()
        (link,) = [each for each in words if f"/notices/{purpose}/" in each]
        return link.removeprefix(ORIGIN)


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a mail server."""
    monkeypatch.setenv("ECOLINK_SMTP_HOST", "mail.example.org")
    monkeypatch.setenv("ECOLINK_SMTP_FROM", SENDER)
    monkeypatch.setenv("ECOLINK_PUBLIC_URL", ORIGIN)
    return settings.model_copy(update={"public_url": ORIGIN})


@pytest.fixture
def mail(settings: Settings) -> MailProcess:
    return MailProcess(settings)
