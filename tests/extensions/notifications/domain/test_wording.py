"""Texts of notices."""

from __future__ import annotations

import pytest

from domain.billing.auto_top_up import AutoTopUpEnd
from domain.deployments.failures import ADVICE
from domain.jobs.lifecycle import PauseReason
from extensions.notifications.domain.kind import CHOSEN, TITLES, NoticeKind, kind_of
from extensions.notifications.domain.message import Data, Message, WebhookType, message_of_disabled
from extensions.notifications.domain.wording import PAUSES, TOP_UP_ENDS, Text, combined, text_of
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID

ORIGIN = "https://ecolink.example"
JOB: Data = {"id": "ftjob-1"}
BUDGET: Data = {
    "id": str(ACCOUNT_ID),
    "period": "month",
    "key_id": None,
    "key_hint": None,
    "starts_on": "2026-11-01",
    "percent": 80,
    "spent_micros": 80_000_000,
    "limit_micros": 100_000_000,
}
RETURN: Data = {"id": str(ACCOUNT_ID), "return_id": "re_1", "amount_micros": 12_500_000}
DATA: dict[NoticeKind, Data] = {
    NoticeKind.JOB_SUCCEEDED: JOB,
    NoticeKind.JOB_FAILED: JOB,
    NoticeKind.JOB_PAUSED: JOB | {"reason": "balance"},
    NoticeKind.BALANCE_LOW: {"id": str(ACCOUNT_ID), "runway_seconds": 3600},
    NoticeKind.BALANCE_DEPLETED: {"id": str(ACCOUNT_ID), "balance_micros": 0},
    NoticeKind.BUDGET_USED: BUDGET,
    NoticeKind.AUTO_TOP_UP_DISABLED: {"id": str(ACCOUNT_ID), "reason": "declined"},
    NoticeKind.PAYMENT_REFUNDED: RETURN,
    NoticeKind.PAYMENT_DISPUTED: RETURN,
    NoticeKind.ACCOUNT_SUSPENDED: {"id": str(ACCOUNT_ID), "reason": "security"},
    NoticeKind.ACCOUNT_REINSTATED: {"id": str(ACCOUNT_ID)},
    NoticeKind.DEPLOYMENT_FAILED: {"id": "x", "model": "ft:a", "code": "no_room"},
    NoticeKind.WEBHOOK_DISABLED: {"id": str(JOB_ID), "reason": "gone"},
    NoticeKind.CONFIRMATION: {"link": f"{ORIGIN}/notices/confirm/x"},
    NoticeKind.TEST: {},
}


@pytest.mark.parametrize("kind", NoticeKind)
def test_a_notice_says_what_to_do_with_a_link(kind: NoticeKind) -> None:
    text = text_of(kind, DATA[kind], ORIGIN)
    said, _, link = text.body.rpartition("\n")
    assert said.endswith(":")
    assert link.startswith(f"{ORIGIN}/")
    assert len(text.subject) < 80
    assert kind in TITLES


def test_each_reason_of_a_pause_has_a_text_except_that_of_the_owner() -> None:
    assert set(PAUSES) == set(PauseReason) - {PauseReason.OWNER}
    text = text_of(NoticeKind.JOB_PAUSED, JOB | {"reason": "max_cost"}, ORIGIN)
    assert "The job reached its maximum cost." in text.body


def test_a_suspension_shows_its_reason() -> None:
    kind = NoticeKind.ACCOUNT_SUSPENDED
    text = text_of(kind, DATA[kind], ORIGIN)
    assert text.subject == "Your account was suspended"
    assert text.body.startswith("Another person may have used it.")


def test_each_end_of_automatic_top_ups_has_a_text_except_that_of_the_owner() -> None:
    assert set(TOP_UP_ENDS) == set(AutoTopUpEnd) - {AutoTopUpEnd.OWNER}
    kind = NoticeKind.AUTO_TOP_UP_DISABLED
    text = text_of(kind, DATA[kind], ORIGIN)
    assert text.subject == "Automatic top-up is off"
    assert text.body.startswith("Your bank declined a charge.")
    assert text.body.endswith(f"\n{ORIGIN}/billing")


def test_a_refund_and_a_dispute_show_their_amount() -> None:
    refunded = text_of(NoticeKind.PAYMENT_REFUNDED, RETURN, ORIGIN)
    assert refunded.subject == "$12.50 of a payment was refunded"
    disputed = text_of(NoticeKind.PAYMENT_DISPUTED, RETURN, ORIGIN)
    assert disputed.subject == "Your bank disputes $12.50 of a payment"


def test_a_budget_shows_the_amounts() -> None:
    text = text_of(NoticeKind.BUDGET_USED, BUDGET, ORIGIN)
    assert text.subject == "80% of your monthly budget is used"
    assert "$80.00 of $100.00 is used since 2026-11-01 (UTC)." in text.body
    full = text_of(NoticeKind.BUDGET_USED, BUDGET | {"percent": 100}, ORIGIN)
    assert full.subject == "Your monthly budget is used up"
    assert "Your running jobs save" in full.body
    assert "wait for its next period" in full.body


def test_a_total_budget_of_a_key_has_no_period() -> None:
    of_key: Data = {"key_id": str(JOB_ID), "key_hint": "x7Qa"}
    of_total: Data = {"period": "total", "starts_on": None, "percent": 100}
    text = text_of(NoticeKind.BUDGET_USED, BUDGET | of_key | of_total, ORIGIN)
    assert text.subject == "The total budget of the API key eco_…x7Qa is used up"
    assert text.body.startswith("$80.00 of $100.00 is used. The running jobs of the key save")
    assert "next period" not in text.body


def test_a_failed_deployment_has_the_advice_of_its_page() -> None:
    text = text_of(NoticeKind.DEPLOYMENT_FAILED, DATA[NoticeKind.DEPLOYMENT_FAILED], ORIGIN)
    assert ADVICE["no_room"] in text.body


def test_several_notices_are_numbered_in_one_mail() -> None:
    one, two = Text("First", "a\nlink"), Text("Second", "b\nlink")
    assert combined([one]) == one
    both = combined([one, two])
    assert both.subject == "2 notices"
    assert both.body == "1. First\n\na\nlink\n\n2. Second\n\nb\nlink"


def test_a_pause_by_the_owner_and_a_new_segment_cause_no_notice() -> None:
    def message(type: WebhookType, **data: str | int) -> Message:
        return Message("evt_1", ACCOUNT_ID, type, NOW, JOB | data, "1")

    assert kind_of(message(WebhookType.JOB_PAUSED, reason="owner")) is None
    assert kind_of(message(WebhookType.CAPACITY_AVAILABLE, segment=1)) is None
    assert kind_of(message(WebhookType.JOB_PAUSED, reason="budget")) is NoticeKind.JOB_PAUSED
    disabled = message_of_disabled(ACCOUNT_ID, JOB_ID, "gone", NOW)
    assert kind_of(disabled) is NoticeKind.WEBHOOK_DISABLED
    assert all(kind in {str(type) for type in WebhookType} for kind in CHOSEN)
