"""Messages of events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.payment import ReturnKind
from domain.core.aggregate import Notified
from domain.core.event_log import EventLog
from domain.core.identity import auto_top_up_id
from domain.core.recorded import Recorded
from domain.core.topics import topics_of
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from domain.jobs.public_id import job_name
from domain.use_cases.returns import Returning
from extensions.notifications.domain.message import MESSAGES, SUBSCRIBED, message_of
from infrastructure.bus.consumer import recorded
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.builders.stored_examples import EXAMPLES
from tests.logs import notifications


def sent(log: EventLog) -> list[tuple[str, dict[str, Any]]]:
    """Return the type and the data of each message of the log."""
    found = (
        message_of(recorded(log, each), lambda _: "ft:tiny:1", lambda _: "x7Qa")
        for each in notifications(log)
    )
    return [(each.type, each.data) for each in found if each is not None]


def test_no_other_event_causes_a_message() -> None:
    causing = {
        each.topic
        for each in EXAMPLES
        if not isinstance(each.event, Notified) and message_of(each, str, str) is not None
    }
    assert causing <= topics_of(*MESSAGES)


def test_a_job_that_pauses_and_succeeds_sends_its_messages(history: History, log: EventLog) -> None:
    history.run_until("approved")
    history.pause()
    history.resume()
    history.allocate_segment(1)
    history.grant_lease(1)
    history.start_pod(1)
    history.start_training(1)
    history.complete(1)
    job = {"id": job_name(JOB_ID)}
    assert sent(log) == [
        ("fine_tuning.job.paused", job | {"reason": "owner"}),
        ("capacity.available", job | {"segment": 1}),
        ("fine_tuning.job.succeeded", job),
    ]


def test_failed_and_cancelled_jobs_have_the_names_of_openai(
    history: History, log: EventLog
) -> None:
    history.run_until("training")
    history.end_segment(1, SegmentEnd.CRASHED, 100, failure=FailureClass.LOSS_DIVERGED)
    other = history.another_job()
    other.approve_job()
    other.cancel()
    assert sent(log)[1:] == [
        ("fine_tuning.job.failed", {"id": job_name(JOB_ID)}),
        ("fine_tuning.job.cancelled", {"id": job_name(other.job_id)}),
    ]


def test_balances_and_deployments_send_messages(history: History, log: EventLog) -> None:
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    model = history.deploy_checkpoint(10)
    history.activate(model)
    history.fail_deployment(model)
    with history.changing_account() as account:
        account.trigger_event(Account.BalanceLow, runway_seconds=600)
        account.trigger_event(Account.BalanceDepleted, balance_micros=0)
    assert [type for type, _ in sent(log)[2:]] == [
        *("deployment.active", "deployment.failed", "balance.low", "balance.depleted")
    ]
    assert sent(log)[3][1]["code"] == "no_room"
    assert sent(log)[4][1] == {"id": str(ACCOUNT_ID), "runway_seconds": 600}


def test_a_used_budget_sends_a_message(history: History, log: EventLog) -> None:
    history.open_account(1_000_000)
    with history.changing_account() as account:
        account.set_budget(BudgetName(BudgetPeriod.MONTH), 500, 0)
        account.settle(captured_micros=400, reserved_micros=400)
    assert [data["percent"] for type, data in sent(log) if type == "budget.used"] == [50, 80]
    assert sent(log)[-1][1] == {
        "id": str(ACCOUNT_ID),
        "period": "month",
        "key_id": None,
        "key_hint": None,
        "starts_on": "2026-11-01",
        "percent": 80,
        "spent_micros": 400,
        "limit_micros": 500,
    }


def test_a_suspension_and_its_end_send_messages(history: History, log: EventLog) -> None:
    history.open_account(1_000_000)
    history.suspend()
    history.reinstate()
    assert sent(log) == [
        ("account.suspended", {"id": str(ACCOUNT_ID), "reason": "abuse"}),
        ("account.reinstated", {"id": str(ACCOUNT_ID)}),
    ]


@pytest.mark.parametrize("reason", AutoTopUpEnd)
def test_an_end_of_automatic_top_ups_sends_a_message_unless_the_owner_caused_it(
    history: History, log: EventLog, reason: AutoTopUpEnd
) -> None:
    history.open_account(1_000_000)
    history.pay_by_card()
    top_up = log.load(AutoTopUp, auto_top_up_id(ACCOUNT_ID))
    with command():
        top_up.disable(reason)
        log.commit(top_up)
    message = ("auto_top_up.disabled", {"id": str(ACCOUNT_ID), "reason": reason.value})
    assert sent(log) == ([] if reason is AutoTopUpEnd.OWNER else [message])


def test_a_refund_and_a_dispute_send_messages_once_the_money_is_returned(
    history: History, log: EventLog
) -> None:
    history.open_account(1_000_000)
    history.pay_by_card(10_000_000)  # requests a refund of a tenth
    assert sent(log) == []
    returning = Returning(log)
    with command():
        returning.take_back("pi_1", "re_1", ReturnKind.REFUND, 1_000_000)
        returning.take_back("pi_1", "dp_1", ReturnKind.DISPUTE, 9_000_000)
        returning.reverse("pi_1", "dp_1")
    account = {"id": str(ACCOUNT_ID)}
    assert sent(log) == [
        ("payment.refunded", account | {"return_id": "re_1", "amount_micros": 1_000_000}),
        ("payment.disputed", account | {"return_id": "dp_1", "amount_micros": 9_000_000}),
        ("auto_top_up.disabled", account | {"reason": "failed"}),
    ]


def test_the_id_names_the_event_and_the_order_key_its_aggregate(
    history: History, log: EventLog
) -> None:
    history.run_until("approved")
    history.pause()
    event = history.last(events.JobPaused)
    message = message_of(Recorded.of(1_000_007, event), str, str)
    assert message is not None
    assert message.id == f"evt_{JOB_ID.hex}_1000007"
    assert message.order_key == JOB_ID.hex
    assert json.loads(message.body) == {
        "id": message.id,
        "object": "event",
        "created_at": int(event.timestamp.timestamp()),
        "type": "fine_tuning.job.paused",
        "data": message.data,
    }


def test_most_events_send_nothing(history: History, log: EventLog) -> None:
    history.run_until("training")
    assert [type for type, _ in sent(log)] == ["capacity.available"]
    assert "webhook.test" not in SUBSCRIBED
