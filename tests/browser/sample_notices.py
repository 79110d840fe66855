"""E-mail notices of the sample platform: sent, failed and pending ones, and a link."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.jobs.public_id import job_name
from domain.notices.kind import CHOSEN, NoticeKind
from domain.notices.link import LinkPurpose
from domain.webhooks.message import Data, Message, WebhookType
from infrastructure import notices
from infrastructure.notices import MailResult, Outcome
from infrastructure.postgres.store import Connection

JOB: Data = {"id": job_name(UUID("0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f"))}
REFUSED = MailResult(Outcome.FAILED, "The mail server refused the mail (554 5.7.1 rejected)")
HISTORY = (
    (WebhookType.JOB_PAUSED, JOB | {"reason": "balance"}, MailResult(Outcome.SENT)),
    (WebhookType.BALANCE_DEPLETED, JOB, MailResult(Outcome.SENT)),
    (WebhookType.JOB_SUCCEEDED, JOB, REFUSED),
    (WebhookType.JOB_FAILED, JOB, MailResult(Outcome.POSTPONED, "The mail server is unavailable.")),
)


def add_notices(connection: Connection, ada: UUID, vera: UUID) -> dict[str, str]:
    """Add an address with notices for ada, and one to confirm for vera. Return the paths."""
    at = datetime.now(UTC) - timedelta(hours=9)
    chosen = [each for each in CHOSEN if each is not NoticeKind.BUDGET_USED]
    notices.set_address(connection, ada, "ada@example.com", chosen, at)
    address = notices.address_of(connection, ada)
    assert address is not None
    notices.confirm(connection, address.id, at)
    for number, (type, data, result) in enumerate(HISTORY):
        at += timedelta(hours=2)
        message = Message(f"evt_sample_{number}", ada, type, at, data, "x")
        notices.add_notices(connection, [(None, message)], at)
        mail = notices.begin_mail(connection, address.id, at)
        assert mail is not None
        notices.end_mail(connection, mail, result, at)
    notices.set_address(connection, vera, "vera@example.com", CHOSEN, datetime.now(UTC))
    own = notices.address_of(connection, vera)
    assert own is not None
    token = own.signer.token(LinkPurpose.CONFIRM)
    return {"notices link": f"/notices/confirm/{token}"}
