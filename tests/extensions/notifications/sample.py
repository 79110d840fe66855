"""Webhooks of the sample platform with deliveries in every state, and e-mail notices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.jobs.public_id import job_name
from extensions.notifications.domain.kind import CHOSEN, NoticeKind
from extensions.notifications.domain.link import LinkPurpose
from extensions.notifications.domain.message import Data, Message, WebhookType, message_of_test
from extensions.notifications.notices import tables as notices
from extensions.notifications.notices.tables import MailResult, Outcome
from extensions.notifications.webhooks.deliveries import (
    Attempt,
    Delivery,
    add_delivery,
    record_attempt,
)
from extensions.notifications.webhooks.endpoints import (
    DisabledReason,
    Endpoint,
    create_endpoint,
    disable_endpoint,
)
from infrastructure.postgres.store import Connection, scalar

JOB_ID = UUID("0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f")
REFUSED = "Status 503."
SLOW = "No response within 15 seconds."
JOB: Data = {"id": job_name(JOB_ID)}
MAIL_REFUSED = MailResult(Outcome.FAILED, "The mail server refused the mail (554 5.7.1 rejected)")
HISTORY = (
    (WebhookType.JOB_PAUSED, JOB | {"reason": "balance"}, MailResult(Outcome.SENT)),
    (WebhookType.BALANCE_DEPLETED, JOB, MailResult(Outcome.SENT)),
    (WebhookType.JOB_SUCCEEDED, JOB, MAIL_REFUSED),
    (WebhookType.JOB_FAILED, JOB, MailResult(Outcome.POSTPONED, "The mail server is unavailable.")),
)


def add(connection: Connection, ada: UUID, _job: UUID) -> dict[str, str]:
    """Add webhooks and notices. Return the paths of pages by name."""
    vera = scalar(connection, "SELECT account_id FROM profiles WHERE name = %s", ["vera"])
    return _add_webhooks(connection, ada) | _add_notices(connection, ada, vera)


def _add_webhooks(connection: Connection, ada: UUID) -> dict[str, str]:
    """Add an enabled webhook, one that EcoLink disabled, and one that its owner disabled.

    Return the paths of the first two by name.
    """
    now = datetime.now(UTC)
    day_ago = now - timedelta(days=1, hours=2)
    enabled = _endpoint(connection, ada, "https://ci.example.com/hooks/ecolink", "Nightly builds")
    failing = _endpoint(connection, ada, "https://old.example.com/receive", "")
    quiet = _endpoint(connection, ada, "https://chat.example.com/hook?room=42", "Team chat")
    for number in range(3):
        at = now - timedelta(hours=9 - number)
        sent = _delivery(connection, enabled, WebhookType.CAPACITY_AVAILABLE, at, number + 1)
        record_attempt(connection, sent.id, Attempt(at, 84 + number, 200, None, "ok"), at)
    at = now - timedelta(minutes=4)
    waiting = _delivery(connection, enabled, WebhookType.JOB_PAUSED, at, 5)
    for error, status in ((SLOW, None), (REFUSED, 503)):
        record_attempt(connection, waiting.id, Attempt(at, 15_002, status, error), at)
        at += timedelta(seconds=6)
    test = message_of_test(ada, enabled.id, now)
    tested = add_delivery(connection, enabled.id, test, now)
    failed = Attempt(now, 41, 404, "Status 404.", '{"error": "There is no such route."}')
    record_attempt(connection, tested.id, failed, now)
    lost = _delivery(connection, failing, WebhookType.JOB_SUCCEEDED, day_ago, 9)
    at = day_ago
    for hours in (0.0, 0.01, 0.03, 0.1, 0.6, 2.6, 8.6, 23.7):
        at = day_ago + timedelta(hours=hours)
        error = "The host name 'old.example.com' does not have only public addresses."
        record_attempt(connection, lost.id, Attempt(at, 12, None, error), at)
    disable_endpoint(connection, quiet.id, DisabledReason.OWNER, now - timedelta(days=3))
    shown = {"webhook": enabled, "webhook failing": failing}
    return {name: f"/webhooks/{each.id}" for name, each in shown.items()}


def _add_notices(connection: Connection, ada: UUID, vera: UUID) -> dict[str, str]:
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


def _endpoint(connection: Connection, account_id: UUID, url: str, description: str) -> Endpoint:
    types = (WebhookType.JOB_SUCCEEDED, WebhookType.JOB_FAILED) if description else ()
    at = datetime.now(UTC) - timedelta(days=5)
    return create_endpoint(connection, account_id, url, description, types, at)[0]


def _delivery(
    connection: Connection, endpoint: Endpoint, type: WebhookType, at: datetime, version: int
) -> Delivery:
    id = f"evt_{JOB_ID.hex}_{version}"
    message = Message(id, endpoint.account_id, type, at, {"id": job_name(JOB_ID)}, JOB_ID.hex)
    return add_delivery(connection, endpoint.id, message, at)
