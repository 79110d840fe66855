"""The queue of notices by e-mail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

from prometheus_client import Counter
from psycopg_pool import ConnectionPool

from extensions.notifications.notices.mail import Letterhead
from extensions.notifications.notices.tables import (
    DueMail,
    Mail,
    MailResult,
    Outcome,
    begin_mail,
    due_mails,
    end_mail,
)
from infrastructure.http.dispatcher import UNAVAILABLE, Busy, Concurrency
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock

NOTICE_MAILS = Counter(
    "ecolink_notice_mails",
    "Attempts to send a notice by e-mail, by outcome: sent, postponed, failed or refused.",
    ["outcome"],
)

log = logging.getLogger("webhooks")

MOST = Concurrency(receiver=1, account=1, process=8)
"""Mails that are sent at the same time."""

Attempted = tuple[Mail, MailResult] | None


class NoticeQueue:
    """Notices by e-mail, sent by a function that blocks."""

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        clock: Clock,
        letterhead: Letterhead,
        send: Callable[[EmailMessage], MailResult],
    ) -> None:
        self._pool, self._clock, self._letterhead, self._send = pool, clock, letterhead, send
        self._threads = ThreadPoolExecutor(MOST.process, "mail")

    def due(self, busy: Busy) -> list[DueMail]:
        """Return the addresses to which a mail is due, except busy ones."""
        with self._pool.connection() as connection:
            if is_held(connection):
                return []
            return due_mails(connection, self._clock.now(), busy.messages, MOST.process)

    async def send(self, due: DueMail) -> Attempted:
        """Send the next mail to an address once. Return None if there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._attempt, due)

    def record(self, due: DueMail, result: Attempted) -> None:
        """Store the result of a mail."""
        if result is not None:
            mail, sent = result
            with self._pool.connection() as connection:
                end_mail(connection, mail, sent, self._clock.now())

    def close(self) -> None:
        """End the threads once their attempts have ended. Nothing can be sent afterwards."""
        self._threads.shutdown(wait=False)

    def _attempt(self, due: DueMail) -> Attempted:
        try:
            with self._pool.connection() as connection:
                mail = begin_mail(connection, due.id, self._clock.now())
        except UNAVAILABLE as error:
            log.warning("cannot begin a mail, retrying: %s", error)
            return None
        if mail is None:
            return None
        try:
            result = self._send(self._letterhead.write(mail))
        except Exception as error:  # noqa: BLE001 - its text may contain the address
            log.error("a mail failed unexpectedly with %s", type(error).__name__)
            result = MailResult(
                Outcome.FAILED, f"EcoLink could not send the mail ({type(error).__name__})."
            )
        NOTICE_MAILS.labels(result.outcome).inc()
        # The reason can contain the address, so the log has only the outcome.
        log.info("a mail with %d notices was %s", len(mail.notices), result.outcome)
        return mail, result
