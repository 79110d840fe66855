"""Texts of notices: what happened, what it means, and what to do, with a link to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from domain.billing.auto_top_up import AutoTopUpEnd
from domain.billing.budget import BudgetPeriod
from domain.billing.suspension import SuspensionReason
from domain.core.durations import rough
from domain.core.money import dollars
from domain.deployments.failures import ADVICE, AGAIN
from domain.jobs.lifecycle import PauseReason
from extensions.notifications.domain.kind import NoticeKind
from extensions.notifications.domain.message import Data

PAUSES: dict[str, tuple[str, str]] = {
    PauseReason.BALANCE: (
        "The balance of your account is used up.",
        "Top up your account, then resume the job",
    ),
    PauseReason.MAX_COST: (
        "The job reached its maximum cost.",
        "Raise the maximum cost to resume the job",
    ),
    PauseReason.OVERRUN: (
        "The job took far longer than estimated. You paid for the estimated time only.",
        "Check the new estimate and resume the job, or promote its last checkpoint",
    ),
    PauseReason.BUDGET: (
        "A budget of your account or of an API key is used up.",
        "Raise the budget or wait for its next period, then resume the job",
    ),
    PauseReason.CAPACITY: (
        "The region has too few usable GPUs.",
        "Resume the job later or with fewer GPUs",
    ),
    PauseReason.SUSPENDED: (
        "An operator suspended your account.",
        "Ask your operator to reinstate the account, then resume the job",
    ),
}
"""Cause of a pause, and what to do, by reason."""

TOP_UP_ENDS: dict[str, str] = {
    AutoTopUpEnd.DECLINED: "Your bank declined a charge.",
    AutoTopUpEnd.AUTHENTICATION_REQUIRED: "Your bank asks you to approve each charge.",
    AutoTopUpEnd.FAILED: "A charge failed, or a payment was refunded or disputed.",
}
"""Causes for which EcoLink turns automatic top-ups off."""

BUDGETS: dict[str, str] = {
    BudgetPeriod.DAY: "daily budget",
    BudgetPeriod.MONTH: "monthly budget",
    BudgetPeriod.TOTAL: "total budget",
}


@dataclass(frozen=True)
class Text:
    """The subject and the text of a mail, or of its part."""

    subject: str
    body: str


def text_of(kind: NoticeKind, data: Data, origin: str) -> Text:
    """Return the text of a notice. `origin` is the public URL of EcoLink."""
    name = str(data.get("id", ""))
    jobs, billing = f"{origin}/fine-tune", f"{origin}/billing"
    job = f"{jobs}/{name}"
    match kind:
        case NoticeKind.JOB_SUCCEEDED:
            return _text(
                f"Job {name} finished",
                "Its fine-tuned model is ready. You can deploy or download it:",
                job,
            )
        case NoticeKind.JOB_FAILED:
            return _text(
                f"Job {name} failed",
                "It produced no model, and costs nothing more. The reason and your options, such "
                "as the last checkpoint:",
                job,
            )
        case NoticeKind.JOB_PAUSED:
            cause, remedy = PAUSES.get(str(data.get("reason")), ("", "Resume the job"))
            return _text(
                f"Job {name} paused",
                f"{cause} The job has saved its progress, and costs nothing while it is paused. "
                f"{remedy}:".strip(),
                job,
            )
        case NoticeKind.BALANCE_LOW:
            runway = rough(int(data["runway_seconds"] or 0))
            return _text(
                "Your balance is low",
                f"At the current rate, it lasts for about {runway}. Jobs that are charged then "
                "save their progress and pause. To avoid this, top up your account:",
                billing,
            )
        case NoticeKind.BALANCE_DEPLETED:
            return _text(
                "Your balance is used up",
                "Running jobs save their progress and pause, unless the price guarantee covers "
                "them. Top up your account, then resume them:",
                billing,
            )
        case NoticeKind.BUDGET_USED:
            return _budget(data, billing)
        case NoticeKind.AUTO_TOP_UP_DISABLED:
            return _text(
                "Automatic top-up is off",
                f"{TOP_UP_ENDS[str(data['reason'])]} EcoLink no longer charges your card. Jobs "
                "that are charged pause when the balance is used up. Save another card, or turn "
                "automatic top-up on again:",
                billing,
            )
        case NoticeKind.PAYMENT_REFUNDED:
            return _text(
                f"{dollars(int(data['amount_micros'] or 0))} of a payment was refunded",
                "The money goes back to the card that paid. EcoLink took it from your balance, at "
                "most the part that was available. Your balance and ledger:",
                billing,
            )
        case NoticeKind.PAYMENT_DISPUTED:
            return _text(
                f"Your bank disputes {dollars(int(data['amount_micros'] or 0))} of a payment",
                "Until the dispute ends, EcoLink takes the amount from your available balance. If "
                "the rest is too low, your running jobs save their progress and pause. If the "
                "payment is correct, ask your bank to withdraw the dispute. Your balance and "
                "ledger:",
                billing,
            )
        case NoticeKind.ACCOUNT_SUSPENDED:
            return _text(
                "Your account was suspended",
                f"{SuspensionReason(str(data['reason'])).sentence} Your running jobs save their "
                "progress and pause, and your models stop responding. You can still read and "
                "download. To end the suspension, ask your operator. Your jobs:",
                jobs,
            )
        case NoticeKind.ACCOUNT_REINSTATED:
            return _text(
                "Your account was reinstated",
                "You can use it again, and your models respond. Your jobs stay paused until you "
                "resume them:",
                jobs,
            )
        case NoticeKind.DEPLOYMENT_FAILED:
            advice = ADVICE.get(str(data["code"]), AGAIN)
            return _text(
                f"Model {data['model']} cannot be served",
                f"The deployment failed ({data['code']}). {advice} Your models:",
                f"{origin}/models",
            )
        case NoticeKind.WEBHOOK_DISABLED:
            reason = (
                "it responded with the status 410"
                if data["reason"] == "gone"
                else "it accepted nothing for about a day"
            )
            return _text(
                "A webhook was disabled",
                f"EcoLink disabled the webhook, because {reason}. Its events wait. Correct your "
                "server, send a test event, then enable the webhook:",
                f"{origin}/webhooks/{name}",
            )
        case NoticeKind.TEST:
            return _text(
                "Test notice",
                "You requested this test. EcoLink can send notices to this address. To change "
                "what it sends:",
                f"{origin}/notices",
            )
        case NoticeKind.CONFIRMATION:
            return _text(
                "Confirm your e-mail address",
                "An account holder of EcoLink wants to receive notices at this address. If that "
                "is you, confirm it within 24 hours. Otherwise, ignore this mail: EcoLink sends "
                "nothing further. To confirm:",
                str(data["link"]),
            )
        case _:
            assert_never(kind)


def combined(texts: Sequence[Text]) -> Text:
    """Return one text for all notices of a mail."""
    if len(texts) == 1:
        return texts[0]
    parts = [f"{number}. {each.subject}\n\n{each.body}" for number, each in enumerate(texts, 1)]
    return Text(f"{len(texts)} notices", "\n\n".join(parts))


def _budget(data: Data, page: str) -> Text:
    percent = int(data["percent"] or 0)
    spent, limit = (dollars(int(data[name] or 0)) for name in ("spent_micros", "limit_micros"))
    since = f" since {data['starts_on']} (UTC)" if data["starts_on"] else ""
    amounts = f"{spent} of {limit} is used{since}."
    budget = BUDGETS[str(data["period"])]
    if hint := data.get("key_hint"):
        named, jobs = f"the {budget} of the API key eco_…{hint}", "the running jobs of the key"
    else:
        named, jobs = f"your {budget}", "your running jobs"
    if percent < 100:
        return _text(
            f"{percent}% of {named} is used",
            f"{amounts} At 100%, {jobs} that are charged save their progress and pause. Your "
            "budgets:",
            page,
        )
    next_period = "" if data["period"] == BudgetPeriod.TOTAL else ", or wait for its next period"
    return _text(
        f"{named[0].upper()}{named[1:]} is used up",
        f"{amounts} {jobs[0].upper()}{jobs[1:]} save their progress and pause, unless the price "
        f"guarantee covers them. Raise the budget{next_period}. Then resume them:",
        page,
    )


def _text(subject: str, said: str, link: str) -> Text:
    return Text(subject, f"{said}\n{link}")
