"""Messages about alerts."""

from __future__ import annotations

from domain.core.durations import spoken
from extensions.alerts.domain.cause import ALL
from extensions.alerts.domain.conditions import CONDITIONS
from extensions.alerts.domain.evaluation import NoticeKind
from extensions.alerts.domain.rule import Rule
from extensions.alerts.receivers import Message
from extensions.alerts.tables import PendingNotice


def message_of(notice: PendingNotice, rule: Rule | None) -> Message:
    """Return the message for a notice. Without its rule, the title has only the rule's name."""
    alert = notice.alert
    name = alert.rule if rule is None else CONDITIONS[rule.condition].title
    state = "resolved" if notice.kind is NoticeKind.RESOLVED else alert.severity
    about = "" if alert.group == ALL else f" ({alert.group})"
    return Message(
        title=f"[{state}] {name}{about}",
        body="\n".join([alert.text, *_facts(notice)]),
        kind=notice.kind,
        severity=alert.severity,
        incident=f"ecolink-{alert.rule}-{alert.first_seen:%Y%m%d%H%M%S}-{notice.alert_id}",
    )


def _facts(notice: PendingNotice) -> list[str]:
    alert = notice.alert
    facts = [f"Rule: {alert.rule}", f"First seen: {alert.first_seen:%Y-%m-%d %H:%M:%S} UTC"]
    if notice.kind is NoticeKind.RESOLVED and alert.resolved_at is not None:
        lasted = spoken((alert.resolved_at - alert.first_seen).total_seconds())
        facts.append(f"Resolved: {alert.resolved_at:%Y-%m-%d %H:%M:%S} UTC, after {lasted}")
    return facts
