"""Events that raise the condition of a rule, or take it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.billing.account import Account
from domain.billing.card_payment import CardFailure, CardPayment
from domain.billing.payment import Payment, ReturnKind
from domain.core.aggregate import Event
from domain.core.durations import spoken
from domain.core.money import dollars
from domain.jobs import events
from domain.jobs.failures import FAILURES
from domain.jobs.lifecycle import PauseReason
from domain.training.checkpoint import RejectionReason
from extensions.alerts.domain.cause import Cause, Finding, cause_of
from extensions.alerts.domain.parameters import JobFailedParameters, JobPausedParameters
from extensions.alerts.domain.rule import Rule

MAX_EVENT_AGE = timedelta(days=1)
"""Age of an event that no longer raises a condition, for example at the first start."""

PAUSES: Mapping[PauseReason, str] = {
    PauseReason.BALANCE: "The balance of its account does not pay for it.",
    PauseReason.OWNER: "Its owner requested it.",
    PauseReason.CAPACITY: "The region has too few usable GPUs.",
    PauseReason.MAX_COST: "It reached its maximum cost.",
    PauseReason.OVERRUN: "It took far longer than estimated, and its price guarantee ended.",
    PauseReason.BUDGET: "A budget of its account or API key is used up.",
    PauseReason.SUSPENDED: "An operator suspended its account.",
}

REJECTIONS: Mapping[RejectionReason, str] = {
    RejectionReason.MISSING: "The checkpoint is missing.",
    RejectionReason.CORRUPT: "The hash of a file differs.",
    RejectionReason.UNREADABLE: "The trainer could not read the checkpoint.",
    RejectionReason.STATE_DIFFERS: "The restored state differs from the saved state.",
}


SIGNALS = (
    Account.BalanceLow,
    Account.BalanceRecovered,
    Account.BalanceDepleted,
    Account.CreditGranted,
    Account.ToppedUp,
    Account.ChargeReversed,
    Account.TopUpRestored,
    events.JobFailed,
    events.JobPaused,
    events.JobResumed,
    events.JobCancelled,
    events.CheckpointRejected,
    CardPayment.CardPaymentFailed,
    Payment.PaymentReturned,
    Payment.RefundFailed,
    Payment.ReturnReversed,
    Payment.ReturnClosed,
)
"""Events that raise or take back a condition of a rule."""


@dataclass(frozen=True)
class Cleared:
    """The condition of a rule no longer holds for a subject."""

    rule: str
    subject: str


Signal = Cause | Cleared


def signals(rules: Sequence[Rule], event: Event, now: datetime) -> list[Signal]:
    """Return the causes that an event raises or clears at the time `now`."""
    found: list[Signal] = []
    for rule in rules:
        if (subject := _cleared(rule, event)) is not None:
            found.append(Cleared(rule.name, subject))
        elif (finding := _raised(rule, event)) is not None:
            if now - event.timestamp > MAX_EVENT_AGE:
                continue
            until = now + rule.resolve_after if rule.kind.momentary else None
            found.append(cause_of(rule, finding, event.timestamp, until))
    return found


def _raised(rule: Rule, event: Event) -> Finding | None:
    account = str(event.account_id)
    match rule.condition, rule.parameters, event:
        case "balance_low", _, Account.BalanceLow(runway_seconds=seconds):
            text = f"The balance of account {account} lasts for {spoken(seconds)} more."
            return Finding({"account": account}, text)
        case "balance_empty", _, Account.BalanceDepleted(balance_micros=micros):
            text = f"Account {account} has {dollars(micros)} left, less than a second costs."
            return Finding({"account": account}, text)
        case "job_failed", JobFailedParameters(failures=failures), events.JobFailed() if (
            event.failure in failures
        ):
            labels = {"job": str(event.originator_id), "account": account}
            text = f"Job {event.originator_id} failed. {FAILURES[event.failure].sentence}"
            return Finding(labels | {"failure": event.failure}, text)
        case "job_paused", JobPausedParameters(reasons=reasons), events.JobPaused() if (
            event.reason in reasons
        ):
            labels = {"job": str(event.originator_id), "account": account}
            paused = f"Job {event.originator_id} is paused at step {event.step}."
            text = f"{paused} {PAUSES[event.reason]}"
            return Finding(labels | {"reason": event.reason}, text)
        case "checkpoint_rejected", _, events.CheckpointRejected():
            text = (
                f"Job {event.originator_id} could not resume from its checkpoint of step "
                f"{event.step}. {REJECTIONS[event.reason]}"
            )
            return Finding({"job": str(event.originator_id), "account": account}, text)
        case _:
            return _raised_by_payment(rule, event)


def _raised_by_payment(rule: Rule, event: Event) -> Finding | None:
    account = str(event.account_id)
    match rule.condition, event:
        case "payment_disputed", Payment.PaymentReturned(kind=ReturnKind.DISPUTE):
            text = (
                f"A bank disputes {dollars(event.amount_micros)} of account {account}. Answer the "
                f"dispute {event.return_id} in Stripe's dashboard."
            )
            return Finding({"dispute": event.return_id, "account": account}, text)
        case "payment_mismatch", CardPayment.CardPaymentFailed(reason=CardFailure.MISMATCH):
            text = (
                f"Stripe received another amount or currency for the payment {event.originator_id} "
                f"of account {account}. EcoLink did not add it to the balance."
            )
            return Finding({"payment": str(event.originator_id), "account": account}, text)
        case "refund_refused", Payment.RefundFailed():
            text = (
                f"Stripe did not make the refund {event.return_id} of "
                f"{dollars(event.amount_micros)} to account {account}. The balance has the amount "
                "again."
            )
            return Finding({"refund": event.return_id, "account": account}, text)
        case _:
            return None


def _cleared(rule: Rule, event: Event) -> str | None:
    """Return the subject for which an event takes the condition back, or None."""
    match rule.condition, event:
        case "balance_low", Account.BalanceRecovered():
            return str(event.account_id)
        case (
            "balance_empty",
            Account.CreditGranted()
            | Account.ToppedUp()
            | Account.ChargeReversed()
            | Account.TopUpRestored(),
        ):
            return str(event.account_id)
        case "payment_disputed", Payment.ReturnReversed() | Payment.ReturnClosed():
            return event.return_id
        case (
            "job_paused",
            events.JobResumed() | events.JobCancelled() | events.JobFailed(),
        ):
            return str(event.originator_id)
        case _:
            return None
