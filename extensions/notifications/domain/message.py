"""Messages of webhooks, and the events that cause them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from secrets import token_hex
from uuid import UUID

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd
from domain.billing.payment import Payment, ReturnKind
from domain.core.aggregate import Event, Notified
from domain.core.recorded import Recorded
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.public_id import job_name

PREFIX = "evt_"

Data = dict[str, str | int | None]


class WebhookType(StrEnum):
    """Types of messages. The first three have the names of OpenAI's webhooks."""

    JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    """The job finished, and its model is registered."""
    JOB_FAILED = "fine_tuning.job.failed"
    """The job failed and produced no model."""
    JOB_CANCELLED = "fine_tuning.job.cancelled"
    """The job was cancelled."""
    JOB_PAUSED = "fine_tuning.job.paused"
    """The job paused. `reason` is `owner`, `balance`, `max_cost`, `overrun`, `budget`,
    `capacity` or `suspended`. It costs nothing until you resume it."""
    CAPACITY_AVAILABLE = "capacity.available"
    """The job received GPUs, and leaves the queue. `segment` counts the launches of the job."""
    BALANCE_LOW = "balance.low"
    """At the current rate, the balance lasts for `runway_seconds`."""
    BALANCE_DEPLETED = "balance.depleted"
    """The balance is used up. Running jobs save a checkpoint and pause."""
    BUDGET_USED = "budget.used"
    """50, 80 or 100 percent of the budget of a `period` is used, for the first time in it. At 100,
    running jobs save a checkpoint and pause. `key_hint` is the end of the secret of the API key."""
    AUTO_TOP_UP_DISABLED = "auto_top_up.disabled"
    """A charge failed, or a payment was refunded or disputed. Automatic top-ups are off until you
    turn them on. `reason` is `declined`, `authentication_required` or `failed`."""
    PAYMENT_REFUNDED = "payment.refunded"
    """A payment by card, or a part of it, was refunded. `return_id` names the refund."""
    PAYMENT_DISPUTED = "payment.disputed"
    """The bank disputes a payment by card. EcoLink takes the amount from the available balance
    until the dispute ends. `return_id` names the dispute."""
    ACCOUNT_SUSPENDED = "account.suspended"
    """An operator suspended the account. `reason` is `payment`, `abuse`, `security`, `request` or
    `other`. Running jobs save a checkpoint and pause, and deployments stop responding."""
    ACCOUNT_REINSTATED = "account.reinstated"
    """An operator ended the suspension. Deployments respond again. Jobs stay paused."""
    DEPLOYMENT_ACTIVE = "deployment.active"
    """The model is loaded and serves requests."""
    DEPLOYMENT_FAILED = "deployment.failed"
    """The model cannot be served. `code` is the reason."""
    EXPORT_COMPLETED = "export.completed"
    """The files of an exported model are ready to download."""
    EXPORT_FAILED = "export.failed"
    """The model cannot be exported. `code` is the reason."""
    WEBHOOK_DISABLED = "webhook.disabled"
    """EcoLink disabled another webhook of the account. `reason` is `failing` if it accepted nothing
    for about a day, or `gone` if it responded with the status 410."""
    TEST = "webhook.test"
    """A test message that you requested. It ignores the filter of the endpoint."""

    @property
    def is_test(self) -> bool:
        """True for test messages, which EcoLink sends once and only on request."""
        return self is WebhookType.TEST


SUBSCRIBED = tuple(each for each in WebhookType if not each.is_test)
"""Types that an endpoint can choose."""


@dataclass(frozen=True)
class Message:
    """A message to all endpoints of an account that want its type.

    Messages with the same `order_key` arrive in order. The ID is the same for every endpoint and
    attempt.
    """

    id: str
    account_id: UUID
    type: WebhookType
    created_at: datetime
    data: Data
    order_key: str

    @property
    def data_text(self) -> str:
        """The data as JSON."""
        return json.dumps(self.data)

    @property
    def body(self) -> str:
        """Body of the request, as JSON in the form of OpenAI's webhooks."""
        return json.dumps(
            {
                "id": self.id,
                "object": "event",
                "created_at": int(self.created_at.timestamp()),
                "type": self.type,
                "data": self.data,
            },
            separators=(",", ":"),
        )


MESSAGES = (
    events.Registered,
    events.JobFailed,
    events.JobCancelled,
    events.JobPaused,
    events.SegmentAllocated,
    Account.BalanceLow,
    Account.BalanceDepleted,
    Account.BudgetUsed,
    AutoTopUp.AutoTopUpDisabled,
    Payment.PaymentReturned,
    Account.AccountSuspended,
    Account.AccountReinstated,
    Deployment.DeploymentActivated,
    Deployment.DeploymentFailed,
)
"""Events of the core that cause messages."""


def message_of(
    recorded: Recorded, model_of: Callable[[UUID], str], hint_of: Callable[[UUID], str]
) -> Message | None:
    """Return an event's message, or None. The functions find a model and a key's hint."""
    event = recorded.event
    match event:
        case events.Registered():
            return _message(recorded, WebhookType.JOB_SUCCEEDED, _job(event))
        case events.JobFailed():
            return _message(recorded, WebhookType.JOB_FAILED, _job(event))
        case events.JobCancelled():
            return _message(recorded, WebhookType.JOB_CANCELLED, _job(event))
        case events.JobPaused(reason=reason):
            data: Data = _job(event) | {"reason": reason.value}
            return _message(recorded, WebhookType.JOB_PAUSED, data)
        case events.SegmentAllocated(segment=segment):
            data = _job(event) | {"segment": segment}
            return _message(recorded, WebhookType.CAPACITY_AVAILABLE, data)
        case Account.BalanceLow(runway_seconds=seconds):
            data = {"id": str(event.account_id), "runway_seconds": seconds}
            return _message(recorded, WebhookType.BALANCE_LOW, data)
        case Account.BalanceDepleted(balance_micros=micros):
            data = {"id": str(event.account_id), "balance_micros": micros}
            return _message(recorded, WebhookType.BALANCE_DEPLETED, data)
        case Account.BudgetUsed():
            return _message(recorded, WebhookType.BUDGET_USED, _budget(event, hint_of))
        case AutoTopUp.AutoTopUpDisabled(reason=reason) if reason is not AutoTopUpEnd.OWNER:
            data = {"id": str(event.account_id), "reason": reason.value}
            return _message(recorded, WebhookType.AUTO_TOP_UP_DISABLED, data)
        case Payment.PaymentReturned(kind=ReturnKind.REFUND):
            return _message(recorded, WebhookType.PAYMENT_REFUNDED, _returned(event))
        case Payment.PaymentReturned(kind=ReturnKind.DISPUTE):
            return _message(recorded, WebhookType.PAYMENT_DISPUTED, _returned(event))
        case Account.AccountSuspended(reason=reason):
            data = {"id": str(event.account_id), "reason": reason.value}
            return _message(recorded, WebhookType.ACCOUNT_SUSPENDED, data)
        case Account.AccountReinstated():
            data = {"id": str(event.account_id)}
            return _message(recorded, WebhookType.ACCOUNT_REINSTATED, data)
        case Deployment.DeploymentActivated():
            data = _deployment(event, model_of)
            return _message(recorded, WebhookType.DEPLOYMENT_ACTIVE, data)
        case Deployment.DeploymentFailed(code=code):
            data = _deployment(event, model_of) | {"code": code}
            return _message(recorded, WebhookType.DEPLOYMENT_FAILED, data)
        case Notified():
            return _message(recorded, WebhookType(event.MESSAGE), {**event.message_data})
        case _:
            return None


def message_of_disabled(account_id: UUID, endpoint_id: UUID, reason: str, now: datetime) -> Message:
    """Return a new message to the other endpoints of an account."""
    id = f"{PREFIX}disabled_{token_hex(8)}"
    data: Data = {"id": str(endpoint_id), "reason": reason}
    return Message(id, account_id, WebhookType.WEBHOOK_DISABLED, now, data, id)


def message_of_test(account_id: UUID, endpoint_id: UUID, now: datetime) -> Message:
    """Return a new test message to one endpoint."""
    id = f"{PREFIX}test_{token_hex(8)}"
    return Message(id, account_id, WebhookType.TEST, now, {"id": str(endpoint_id)}, id)


def _budget(event: Account.BudgetUsed, hint_of: Callable[[UUID], str]) -> Data:
    return {
        "id": str(event.account_id),
        "period": event.period.value,
        "key_id": None if event.key_id is None else str(event.key_id),
        "key_hint": None if event.key_id is None else hint_of(event.key_id),
        "starts_on": None if event.starts_on is None else event.starts_on.isoformat(),
        "percent": event.percent,
        "spent_micros": event.spent_micros,
        "limit_micros": event.limit_micros,
    }


def _returned(event: Payment.PaymentReturned) -> Data:
    return {
        "id": str(event.account_id),
        "return_id": event.return_id,
        "amount_micros": event.amount_micros,
    }


def _message(recorded: Recorded, type: WebhookType, data: Data) -> Message:
    event = recorded.event
    key = event.originator_id.hex
    # After a restore to an earlier event, versions are used again, but notification IDs are not.
    id = f"{PREFIX}{key}_{recorded.id}"
    return Message(id, event.account_id, type, event.timestamp, data, key)


def _job(event: Event) -> Data:
    return {"id": job_name(event.originator_id)}


def _deployment(event: Event, model_of: Callable[[UUID], str]) -> Data:
    return {"id": str(event.originator_id), "model": model_of(event.originator_id)}
