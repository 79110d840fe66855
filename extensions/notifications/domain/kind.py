"""Kinds of notices, and the messages that cause them."""

from __future__ import annotations

from enum import StrEnum

from domain.jobs.lifecycle import PauseReason
from extensions.notifications.domain.message import Message, WebhookType


class NoticeKind(StrEnum):
    """Kinds of notices. They have the names of the events of webhooks."""

    JOB_SUCCEEDED = WebhookType.JOB_SUCCEEDED.value
    JOB_FAILED = WebhookType.JOB_FAILED.value
    JOB_PAUSED = WebhookType.JOB_PAUSED.value
    BALANCE_LOW = WebhookType.BALANCE_LOW.value
    BALANCE_DEPLETED = WebhookType.BALANCE_DEPLETED.value
    BUDGET_USED = WebhookType.BUDGET_USED.value
    AUTO_TOP_UP_DISABLED = WebhookType.AUTO_TOP_UP_DISABLED.value
    PAYMENT_REFUNDED = WebhookType.PAYMENT_REFUNDED.value
    PAYMENT_DISPUTED = WebhookType.PAYMENT_DISPUTED.value
    ACCOUNT_SUSPENDED = WebhookType.ACCOUNT_SUSPENDED.value
    ACCOUNT_REINSTATED = WebhookType.ACCOUNT_REINSTATED.value
    DEPLOYMENT_FAILED = WebhookType.DEPLOYMENT_FAILED.value
    WEBHOOK_DISABLED = WebhookType.WEBHOOK_DISABLED.value
    CONFIRMATION = "notice.confirmation"
    TEST = "notice.test"

    @property
    def is_direct(self) -> bool:
        """True for mails that a person requested. They are sent immediately and on their own."""
        return self in (NoticeKind.CONFIRMATION, NoticeKind.TEST)


TITLES: dict[NoticeKind, str] = {
    NoticeKind.JOB_SUCCEEDED: "A job finished",
    NoticeKind.JOB_FAILED: "A job failed",
    NoticeKind.JOB_PAUSED: "A job paused automatically",
    NoticeKind.BALANCE_LOW: "The balance is low",
    NoticeKind.BALANCE_DEPLETED: "The balance is used up",
    NoticeKind.BUDGET_USED: "A budget reached 50, 80 or 100%",
    NoticeKind.AUTO_TOP_UP_DISABLED: "An automatic top-up failed",
    NoticeKind.PAYMENT_REFUNDED: "A payment was refunded",
    NoticeKind.PAYMENT_DISPUTED: "A bank disputes a payment",
    NoticeKind.ACCOUNT_SUSPENDED: "The account was suspended",
    NoticeKind.ACCOUNT_REINSTATED: "The account was reinstated",
    NoticeKind.DEPLOYMENT_FAILED: "A model cannot be served",
    NoticeKind.WEBHOOK_DISABLED: "EcoLink disabled a webhook",
    NoticeKind.CONFIRMATION: "Link to confirm the address",
    NoticeKind.TEST: "Test",
}
"""The subject of each kind of notice."""

CHOSEN = tuple(each for each in NoticeKind if not each.is_direct)
"""Kinds that an account holder can choose."""


def kind_of(message: Message) -> NoticeKind | None:
    """Return the kind of notice that a message causes, or None."""
    if message.type not in CHOSEN:
        return None
    if message.data.get("reason") == PauseReason.OWNER:
        return None
    return NoticeKind(message.type)
