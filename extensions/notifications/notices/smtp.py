"""Sending one mail through the operator's mail server.

smtplib reports the server's response to each command. Only these tell a mail that can be sent again
from one that the server may have taken.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage

from extensions.notifications.notices.tables import MailResult, Outcome
from extensions.notifications.settings import NotificationSettings

TIMEOUT_SECONDS = 10.0
"""Time to connect, and for each response of the server."""

MAX_ERROR = 300
PERMANENT = 500
"""Responses from this code on are permanent failures (RFC 5321, 4.2.1)."""

STATUS = re.compile(r"5\.\d{1,3}\.\d{1,3}(?!\S)")
"""The status code at the start of a permanent failure's text (RFC 3463)."""

NO_SUCH_ADDRESS = {"5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.2.1"}
"""Status codes of an address without mail. Others are about the sender or a policy."""

NO_MAILBOX = (550, 553)
"""Responses without a status code that refuse an address (RFC 5321, 4.2.2)."""


@dataclass(frozen=True)
class MailServer:
    """The operator's mail server, and the address of the sender."""

    host: str
    port: int
    security: str
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: NotificationSettings) -> MailServer | None:
        """Return the configured server, or None."""
        if settings.smtp_host is None:
            return None
        assert settings.smtp_from is not None
        return cls(
            settings.smtp_host,
            settings.smtp_port,
            settings.smtp_security,
            settings.smtp_from,
            settings.smtp_user,
            settings.smtp_password,
        )


class _Unsent(Exception):
    """The server did not take the mail."""

    def __init__(self, outcome: Outcome, said: str, code: int, reply: bytes) -> None:
        text = " ".join(reply.decode(errors="replace").split())
        super().__init__(f"{said} ({code} {text})"[:MAX_ERROR])
        self.outcome = outcome


def send(server: MailServer, mail: EmailMessage) -> MailResult:
    """Send a mail once, to the one address in its header `To`. Blocks."""
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        smtp = _connected(server)
        try:
            _transfer(smtp, server.sender, mail, begin)
        finally:
            _leave(smtp)
    except _Unsent as error:
        return MailResult(error.outcome, str(error))
    except (OSError, smtplib.SMTPException) as error:
        if begun:
            return MailResult(
                Outcome.FAILED,
                "The connection to the mail server broke during the transfer. EcoLink does not "
                "send this notice again, because the mail may have arrived.",
            )
        return MailResult(Outcome.POSTPONED, _unavailable(error))
    return MailResult(Outcome.SENT)


def _connected(server: MailServer) -> smtplib.SMTP:
    """Return an encrypted connection with a logged-in user, as configured."""
    context = ssl.create_default_context()
    if server.security == "tls":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=TIMEOUT_SECONDS, context=context
        )
    else:
        smtp = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS)
    try:
        if server.security == "starttls":
            smtp.starttls(context=context)
        if server.user is not None:
            smtp.login(server.user, server.password or "")
        smtp.ehlo_or_helo_if_needed()
    except BaseException:
        smtp.close()
        raise
    return smtp


def _transfer(
    smtp: smtplib.SMTP, sender: str, mail: EmailMessage, begin: Callable[[], None]
) -> None:
    """Transfer a mail. Call `begin` when the server may have taken it. Raise _Unsent."""
    code, reply = smtp.mail(sender)
    if code != 250:  # a fault of the configuration, which the operator can correct
        raise _Unsent(Outcome.POSTPONED, "The mail server refused the sender", code, reply)
    code, reply = smtp.rcpt(str(mail["To"]))
    if code not in (250, 251):
        outcome = Outcome.REFUSED if _refuses_address(code, reply) else Outcome.POSTPONED
        raise _Unsent(outcome, "The mail server refused the address", code, reply)
    begin()
    try:
        code, reply = smtp.data(mail.as_bytes(policy=policy.SMTP))
    except smtplib.SMTPDataError as error:  # it refused before the transfer
        code, reply = error.smtp_code, _as_bytes(error.smtp_error)
    if code != 250:
        outcome = Outcome.FAILED if code >= PERMANENT else Outcome.POSTPONED
        raise _Unsent(outcome, "The mail server refused the mail", code, reply)


def _refuses_address(code: int, reply: bytes) -> bool:
    """Return True if a response to a recipient is about the address itself.

    Servers also respond here to a wrong sender, a missing login or a relay that is not permitted.
    The operator can correct these. They would otherwise cost every account its confirmed address.
    """
    text = reply.decode(errors="replace")
    if (status := STATUS.match(text)) is not None:
        return code >= PERMANENT and status[0] in NO_SUCH_ADDRESS
    return code in NO_MAILBOX and "relay" not in text.lower()


def _leave(smtp: smtplib.SMTP) -> None:
    """Close the connection. The response to QUIT changes nothing, because the mail is decided."""
    with suppress(OSError, smtplib.SMTPException):
        smtp.quit()
    smtp.close()


def _unavailable(error: OSError | smtplib.SMTPException) -> str:
    """Return why there is no connection. The texts of some errors contain the user name."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "The mail server refused the user name or the password."
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "The mail server does not support STARTTLS or the login."
    if isinstance(error, ssl.SSLError):
        return "EcoLink cannot verify the mail server's certificate, or the handshake failed."
    return f"The mail server cannot be reached ({type(error).__name__})."


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
