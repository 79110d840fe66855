"""Events raise conditions and take them back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from domain.billing.account import Account
from domain.billing.card_payment import CardFailure, CardPayment
from domain.billing.payment import Payment, ReturnKind
from domain.core.aggregate import Event
from domain.core.topics import topics_of
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import PauseReason
from domain.training.checkpoint import RejectionReason
from extensions.alerts.domain.cause import Cause
from extensions.alerts.domain.conditions import CONDITIONS
from extensions.alerts.domain.parameters import JobFailedParameters, JobPausedParameters
from extensions.alerts.domain.signals import (
    MAX_EVENT_AGE,
    PAUSES,
    REJECTIONS,
    SIGNALS,
    Cleared,
    signals,
)
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID
from tests.builders.stored_examples import EXAMPLES
from tests.extensions.alerts.causes import rule

PAYMENT_ID = UUID(int=7)
LATER = NOW + timedelta(minutes=1)


def of_account(kind: type[Event], **fields: object) -> Event:
    return happened(kind, ACCOUNT_ID, **fields)


def of_job(kind: type[Event], **fields: object) -> Event:
    return happened(kind, JOB_ID, **fields)


def of_payment(topic: type[Event], /, **fields: object) -> Event:
    return happened(topic, PAYMENT_ID, **fields)


def happened(topic: type[Event], originator_id: UUID, /, **fields: object) -> Event:
    return topic(
        originator_id=originator_id,
        originator_version=2,
        timestamp=NOW,
        account_id=ACCOUNT_ID,
        actor="service:test",
        command_id=str(uuid4()),
        **fields,  # type: ignore[arg-type]
    )


LOW = of_account(Account.BalanceLow, runway_seconds=600)
EMPTY = of_account(Account.BalanceDepleted, balance_micros=5)
FAILED = of_job(events.JobFailed, error_class="Lost", log_ref=None, failure=FailureClass.NODE_LOST)
PAUSED = of_job(events.JobPaused, reason=PauseReason.BALANCE, step=10)
REJECTED = of_job(
    events.CheckpointRejected,
    segment=2,
    step=10,
    ref="checkpoints/1/10",
    reason=RejectionReason.CORRUPT,
    saved_in=1,
    kept_seconds=None,
)
DISPUTED = of_payment(
    Payment.PaymentReturned,
    return_id="dp_1",
    kind=ReturnKind.DISPUTE,
    amount_micros=25_000_000,
    withheld_micros=0,
)
MISMATCH = of_payment(CardPayment.CardPaymentFailed, reason=CardFailure.MISMATCH)
REFUSED = of_payment(Payment.RefundFailed, return_id="re_1", amount_micros=10_000_000)
RAISED = {
    "balance_low": LOW,
    "balance_empty": EMPTY,
    "job_failed": FAILED,
    "job_paused": PAUSED,
    "checkpoint_rejected": REJECTED,
    "payment_disputed": DISPUTED,
    "payment_mismatch": MISMATCH,
    "refund_refused": REFUSED,
}
SUBJECTS = {
    "payment_disputed": "dp_1",
    "payment_mismatch": str(PAYMENT_ID),
    "refund_refused": "re_1",
}


def test_every_condition_of_events_is_tested() -> None:
    assert set(RAISED) == {each.name for each in CONDITIONS.values() if each.by_event}


@pytest.mark.parametrize("condition", RAISED)
def test_an_event_raises_its_condition_and_no_other(condition: str) -> None:
    rules = [rule(each) for each in RAISED]
    found = signals(rules, RAISED[condition], LATER)
    (cause,) = (each for each in found if isinstance(each, Cause))
    assert (cause.rule, cause.since) == (condition, NOW)
    of_account_or_job = str(ACCOUNT_ID if condition.startswith("balance") else JOB_ID)
    subject = SUBJECTS.get(condition, of_account_or_job)
    assert cause.subject == subject
    assert subject in cause.text


@pytest.mark.parametrize(
    ("condition", "event"),
    [
        ("balance_low", of_account(Account.BalanceRecovered, runway_seconds=None)),
        ("balance_empty", of_account(Account.CreditGranted, amount_micros=1, reference="a")),
        (
            "balance_empty",
            of_account(Account.ToppedUp, amount_micros=1, provider="manual", reference="a"),
        ),
        (
            "payment_disputed",
            of_payment(
                Payment.ReturnReversed, return_id="dp_1", amount_micros=1, restored_micros=0
            ),
        ),
        (
            "payment_disputed",
            of_payment(Payment.ReturnClosed, return_id="dp_1", withheld_micros=0, lost_micros=1),
        ),
        (
            "job_paused",
            of_job(
                events.JobResumed,
                rate_micros_per_hour=1,
                catalog_version="1",
                estimate=ESTIMATE,
                guarantee=None,
                gpu_count=1,
            ),
        ),
        (
            "job_paused",
            of_job(
                events.JobCancelled,
                step=1,
                checkpoint_ref=None,
                manifest_sha256=None,
                expires_at=None,
            ),
        ),
    ],
)
def test_an_event_takes_a_condition_back(condition: str, event: Event) -> None:
    found = signals([rule(condition)], event, LATER)
    subject = getattr(event, "return_id", str(event.originator_id))
    assert found == [Cleared(condition, subject)]


def test_no_other_event_raises_or_takes_back_a_condition() -> None:
    rules = [rule(each) for each in RAISED]
    telling = {each.topic for each in EXAMPLES if signals(rules, each.event, each.event.timestamp)}
    assert telling <= topics_of(*SIGNALS)


def test_a_pause_by_the_owner_does_not_count() -> None:
    pause = of_job(events.JobPaused, reason=PauseReason.OWNER, step=10)
    assert signals([rule("job_paused")], pause, LATER) == []
    counting = rule("job_paused", parameters=JobPausedParameters(reasons=(PauseReason.OWNER,)))
    assert len(signals([counting], pause, LATER)) == 1


@pytest.mark.parametrize("reason", PauseReason)
def test_a_pause_is_explained_by_a_sentence(reason: PauseReason) -> None:
    counting = rule("job_paused", parameters=JobPausedParameters(reasons=(reason,)))
    (cause,) = signals([counting], of_job(events.JobPaused, reason=reason, step=10), LATER)
    assert isinstance(cause, Cause)
    assert f"is paused at step 10. {PAUSES[reason]}" in cause.text


def test_every_rejection_is_explained_by_a_sentence() -> None:
    assert REJECTIONS.keys() == set(RejectionReason)


def test_a_failure_counts_if_the_rule_names_its_class() -> None:
    only = JobFailedParameters(failures=(FailureClass.BAD_DATA,))
    assert signals([rule("job_failed", parameters=only)], FAILED, LATER) == []


@pytest.mark.parametrize("event", [FAILED, REJECTED])
def test_a_momentary_condition_holds_for_a_time(event: Event) -> None:
    condition = next(name for name, each in RAISED.items() if each is event)
    (cause,) = signals([rule(condition, resolve_after=timedelta(hours=2))], event, LATER)
    assert isinstance(cause, Cause)
    assert cause.until == LATER + timedelta(hours=2)


def test_an_old_event_raises_nothing() -> None:
    at: Callable[[timedelta], datetime] = NOW.__add__
    assert len(signals([rule("job_failed")], FAILED, at(MAX_EVENT_AGE))) == 1
    late = at(MAX_EVENT_AGE + timedelta(seconds=1))
    assert signals([rule("job_failed")], FAILED, late) == []


def test_a_group_can_combine_labels() -> None:
    by_failure = rule("job_failed", group_by=("account", "failure"))
    (cause,) = signals([by_failure], FAILED, LATER)
    assert isinstance(cause, Cause)
    assert cause.group == f"account={ACCOUNT_ID} failure=node_lost"
