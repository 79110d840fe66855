"""Descriptions of every event for auditors, beyond those on a job's timeline."""

from __future__ import annotations

from collections.abc import Iterator

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp
from domain.billing.card_payment import CardPayment
from domain.billing.meter import SegmentEvent
from domain.billing.payment import Payment, ReturnKind
from domain.capacity.gpu_pool import ClaimEvent, GpuPool
from domain.core.aggregate import Event
from domain.core.durations import spoken
from domain.core.money import exact_dollars
from domain.core.quantities import counted
from domain.datasets.dataset import Dataset, DatasetKind
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job_request import RequestEvent
from domain.jobs.lifecycle import PauseReason
from gateway.jobs.describe import describe
from infrastructure.extensions import installed

JOB_EVENTS = (events.JobEvent, RequestEvent, SegmentEvent, ClaimEvent)


def describe_any(event: Event, model: str | None = None) -> str:
    """Describe any event in one or two sentences. `model` is the name of a deployment's model."""
    match event:
        case Deployment.Event():
            return describe(event, model).text
        case events.JobPaused(reason=PauseReason.OWNER):
            return "Paused by the account holder. Billing is stopped."
        case _ if isinstance(event, JOB_EVENTS):
            return describe(event).text
        case Account.Event():
            return _account(event) or documented(event)
        case Dataset.Event():
            return _dataset(event) or documented(event)
        case ApiKey.ApiKeyIssued(hint=hint, role=role, scopes=scopes):
            return f"API key …{hint} issued with the role {role} and scopes {', '.join(scopes)}."
        case Payment.PaymentReceived() as paid:
            amount = exact_dollars(paid.amount_micros)
            return f"Payment of {amount} received from {paid.provider}, reference {paid.reference}."
        case Payment.Event():
            return _returned(event) or documented(event)
        case AutoTopUp.Event():
            return _auto_top_up(event) or documented(event)
        case CardPayment.Event():
            return _card_payment(event) or documented(event)
        case GpuPool.GpuPoolOpened(region=region, gpu_type=gpu_type):
            return f"Pool of {gpu_type} in {region} opened."
        case GpuPool.CapacityChanged(capacity=capacity):
            return f"The pool has {capacity} GPUs now."
        case _:
            return _of_extension(event) or documented(event)


def _of_extension(event: Event) -> str | None:
    """Return the description of an extension's event, or None."""
    described: Iterator[str | None] = (
        extension.load(extension.descriptions)(event)
        for extension in installed()
        if extension.descriptions
    )
    return next(filter(None, described), None)


def documented(event: Event) -> str:
    """Return what the documentation says about this kind of event."""
    kinds = type(event).__mro__
    text = next(kind.__doc__ for kind in kinds if kind.__dict__.get("__doc__"))
    return " ".join((text or "").split())


def _returned(event: Event) -> str | None:
    match event:
        case Payment.RefundRequested(amount_micros=micros):
            return f"Refund of {exact_dollars(micros)} requested."
        case Payment.RefundFailed(amount_micros=micros):
            return f"The refund of {exact_dollars(micros)} failed."
        case Payment.PaymentReturned(kind=ReturnKind.REFUND):
            return f"{exact_dollars(event.amount_micros)} refunded, {event.return_id}."
        case Payment.PaymentReturned():
            return f"{exact_dollars(event.amount_micros)} disputed, {event.return_id}."
        case Payment.ReturnReversed(amount_micros=micros):
            return f"{event.return_id} reversed. EcoLink received {exact_dollars(micros)} back."
        case Payment.ReturnClosed(lost_micros=micros):
            return f"{event.return_id} is final. {exact_dollars(micros)} of it is lost."
        case Payment.LossRecovered(recovered_micros=micros):
            return f"The lost {exact_dollars(micros)} of {event.return_id} is recovered."
        case _:
            return None


def _auto_top_up(event: Event) -> str | None:
    match event:
        case AutoTopUp.AutoTopUpSet():
            amount, most = exact_dollars(event.amount_micros), exact_dollars(event.month_max_micros)
            below = exact_dollars(event.threshold_micros)
            return f"Automatic top-up of {amount} below {below} set, up to {most} a month."
        case AutoTopUp.AutoTopUpDisabled(reason=reason):
            return f"Automatic top-up is off: {reason.replace('_', ' ')}."
        case AutoTopUp.AutoTopUpStarted(amount_micros=micros):
            return f"Automatic top-up of {exact_dollars(micros)} started."
        case AutoTopUp.AutoTopUpEnded(paid=paid):
            return f"Automatic top-up {'paid' if paid else 'failed'}."
        case _:
            return None


def _card_payment(event: Event) -> str | None:
    match event:
        case CardPayment.CardPaymentStarted(automatic=automatic):
            amount = exact_dollars(event.amount_micros)
            return f"{'Automatic p' if automatic else 'P'}ayment of {amount} by card started."
        case CardPayment.CheckoutOpened(checkout=checkout):
            return f"Checkout page {checkout} opened."
        case CardPayment.CardPaymentConfirmed(reference=reference):
            return f"Payment by card confirmed, reference {reference}."
        case CardPayment.CardPaymentFailed(reason=reason):
            return f"Payment by card failed: {reason.replace('_', ' ')}."
        case _:
            return None


def _account(event: Event) -> str | None:
    match event:
        case Account.AccountOpened(role=role):
            return f"Account opened with the role {role}."
        case Account.CreditGranted():
            amount = exact_dollars(event.amount_micros)
            return f"Credit of {amount} granted, reference {event.reference}."
        case Account.ToppedUp():
            amount = exact_dollars(event.amount_micros)
            return f"{amount} topped up, reference {event.reference}."
        case Account.TopUpWithheld():
            amount = exact_dollars(event.amount_micros)
            return f"{amount} taken from the balance for the return of {event.reference}."
        case Account.TopUpRestored():
            amount = exact_dollars(event.amount_micros)
            return f"{amount} restored, as {event.reference} was not returned."
        case Account.UsageSettled():
            return _settled(event)
        case Account.BalanceDepleted(balance_micros=balance):
            return f"The balance of {exact_dollars(balance)} pays for less than a second."
        case Account.BalanceLow(runway_seconds=seconds):
            return f"The balance lasts for {spoken(seconds)}."
        case Account.BalanceRecovered(runway_seconds=seconds):
            lasts = (
                "no running job costs money" if seconds is None else f"it lasts {spoken(seconds)}"
            )
            return f"The balance is no longer low: {lasts}."
        case Account.BudgetSet():
            limit, spent = exact_dollars(event.limit_micros), exact_dollars(event.spent_micros)
            return f"Budget of {limit} {_scope(event)} set, with {spent} spent so far."
        case Account.BudgetRemoved():
            return f"Budget {_scope(event)} removed."
        case Account.BudgetUsed():
            spent, limit = exact_dollars(event.spent_micros), exact_dollars(event.limit_micros)
            since = "" if event.starts_on is None else f" since {event.starts_on}"
            return (
                f"{event.percent}% of the budget {_scope(event)} used{since}: {spent} of {limit}."
            )
        case Account.AccountSuspended(reason=reason):
            return f"Account suspended ({reason}). It is read-only, and its jobs pause."
        case Account.AccountReinstated():
            return "Account reinstated. Its jobs stay paused until they are resumed."
        case Account.AccountErased():
            return "Personal data of the account erased, and its files deleted."
        case Account.ChargeReversed():
            amount = exact_dollars(event.amount_micros)
            part = f"{event.from_seconds:,} s to {event.to_seconds:,} s"
            return f"{amount} credited back for {part} of launch {event.segment}."
        case _:
            return None


def _scope(event: Account.BudgetSet | Account.BudgetRemoved | Account.BudgetUsed) -> str:
    of_key = "" if event.key_id is None else f"of API key {event.key_id} "
    return of_key + ("in total" if event.period == "total" else f"for each {event.period}")


def _settled(event: Account.UsageSettled) -> str:
    parts: list[str] = []
    if event.captured_micros:
        parts.append(f"{exact_dollars(event.captured_micros)} charged")
    if event.reserved_micros > 0:
        parts.append(f"{exact_dollars(event.reserved_micros)} reserved")
    if event.reserved_micros < 0:
        parts.append(f"{exact_dollars(-event.reserved_micros)} released")
    return f"{', '.join(parts) or 'Nothing changed'}."


def _dataset(event: Event) -> str | None:
    match event:
        case Dataset.DatasetUploaded(filters=filters) if filters is not None:
            return f"Filters of another dataset applied. {' '.join(filters.sentences())}"
        case Dataset.DatasetUploaded(total_bytes=size):
            return f"File of {size:,} bytes uploaded."
        case Dataset.DatasetValidated(examples=examples, kind=kind):
            what = "preference pair" if kind is DatasetKind.PREFERENCES else "example"
            return f"The file is valid, with {counted(examples, what)}."
        case Dataset.DatasetRejected(errors=errors):
            return f"The file is invalid, with {counted(errors, 'error')}."
        case Dataset.DatasetAnalyzed(analyzed=analyzed, findings=findings):
            kinds = counted(len(findings), "kind")
            return f"{counted(analyzed, 'example')} analyzed, with findings of {kinds}."
        case Dataset.TokensCounted():
            return f"{counted(event.tokens, 'token')} counted for {event.base_model}."
        case _:
            return None
