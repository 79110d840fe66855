"""Evaluation of alerts: which ones fire, repeat and resolve at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from extensions.alerts.domain.cause import Cause
from extensions.alerts.domain.rule import Rule, Severity

Key = tuple[str, str]
"""Rule and group of an alert."""

LISTED_CAUSES = 10
"""Causes that the text of an alert lists. It counts further ones."""


class NoticeKind(StrEnum):
    """Reason for a message to receivers."""

    FIRED = "fired"
    REPEATED = "repeated"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class Alert:
    """An alert of a group. It is pending until it fires, and open until it is resolved.

    `notified_at` is the time of the last notice that it fires; None: no notice, for example because
    of a silence. `absent_since` is the time since which the condition no longer holds.
    """

    rule: str
    group: str
    severity: Severity
    text: str
    first_seen: datetime
    fired_at: datetime | None = None
    notified_at: datetime | None = None
    resolved_at: datetime | None = None
    absent_since: datetime | None = None

    @property
    def key(self) -> Key:
        """Rule and group."""
        return self.rule, self.group


@dataclass(frozen=True)
class Silence:
    """A period without notices for a rule, a group or both. None: all of them."""

    rule: str | None
    group: str | None
    until: datetime

    def covers(self, key: Key, now: datetime) -> bool:
        """Return True if notices of an alert are withheld at the time `now`."""
        rule, group = key
        return self.until > now and self.rule in (None, rule) and self.group in (None, group)


@dataclass(frozen=True)
class Notice:
    """A message to the receivers of an alert."""

    alert: Alert
    kind: NoticeKind
    receivers: tuple[str, ...]


@dataclass
class Changes:
    """The result of an evaluation."""

    saved: list[Alert] = field(default_factory=list[Alert])
    """New and changed alerts."""
    dropped: list[Alert] = field(default_factory=list[Alert])
    """Pending alerts whose condition ended before they fired."""
    notices: list[Notice] = field(default_factory=list[Notice])


@dataclass(frozen=True)
class Situation:
    """Everything that an evaluation depends on, except the rules and the time."""

    causes: Sequence[Cause] = ()
    open: Sequence[Alert] = ()
    """Alerts that are not resolved."""
    silences: Sequence[Silence] = ()


def evaluate(rules: Mapping[str, Rule], situation: Situation, now: datetime) -> Changes:
    """Return the alerts that change at the time `now`, and the notices to send.

    An alert fires once and resolves once. The alert of a checked condition resolves only after the
    condition did not hold for the rule's `resolve_for`, so a value around its limit fires once. A
    silence withholds the notice that an alert fires until the silence ends. If the alert resolves
    earlier, no notice is sent. An alert that a notice announced is always resolved by a notice.
    Alerts of a removed rule resolve without notices.
    """
    changes = Changes()
    active = _grouped(rules, situation.causes, now)
    opened = {alert.key: alert for alert in situation.open}
    for key in sorted(active.keys() | opened.keys()):
        rule, causes, before = rules.get(key[0]), active.get(key, []), opened.get(key)
        if rule is None or not causes:
            assert before is not None
            _end(changes, before, rule, now)
        else:
            silenced = any(silence.covers(key, now) for silence in situation.silences)
            _continue(changes, rule, causes, (before, silenced), now)
    return changes


def _grouped(
    rules: Mapping[str, Rule], causes: Iterable[Cause], now: datetime
) -> dict[Key, list[Cause]]:
    found: defaultdict[Key, list[Cause]] = defaultdict(list)
    for cause in sorted(causes, key=lambda each: (each.since, each.subject)):
        if cause.rule in rules and (cause.until is None or cause.until > now):
            found[cause.rule, cause.group].append(cause)
    return found


def _end(changes: Changes, alert: Alert, rule: Rule | None, now: datetime) -> None:
    """Resolve an alert, or drop it if it has not fired."""
    if alert.fired_at is None:
        changes.dropped.append(alert)
        return
    if rule is not None and not rule.kind.by_event:
        since = alert.absent_since or now
        if now - since < rule.resolve_for:
            if alert.absent_since is None:
                changes.saved.append(replace(alert, absent_since=since))
            return
    resolved = replace(alert, resolved_at=now)
    changes.saved.append(resolved)
    if rule is not None and alert.notified_at is not None:
        changes.notices.append(Notice(resolved, NoticeKind.RESOLVED, rule.receivers))


def _continue(
    changes: Changes,
    rule: Rule,
    causes: Sequence[Cause],
    state: tuple[Alert | None, bool],
    now: datetime,
) -> None:
    """Open an alert or update it, and decide about a notice. `state` has its silence too."""
    before, silenced = state
    alert = before or Alert(rule.name, causes[0].group, rule.severity, "", causes[0].since)
    alert = replace(alert, severity=rule.severity, text=_text(causes), absent_since=None)
    if alert.fired_at is None and now - alert.first_seen >= rule.hold:
        alert = replace(alert, fired_at=now)
    kind = _due(alert, rule, now)
    if kind is not None and rule.receivers and not silenced:
        alert = replace(alert, notified_at=now)
        changes.notices.append(Notice(alert, kind, rule.receivers))
    if alert != before:
        changes.saved.append(alert)


def _due(alert: Alert, rule: Rule, now: datetime) -> NoticeKind | None:
    """Return the notice that is due for an open alert, or None."""
    if alert.fired_at is None:
        return None
    if alert.notified_at is None:
        return NoticeKind.FIRED
    if rule.repeat is not None and now - alert.notified_at >= rule.repeat:
        return NoticeKind.REPEATED
    return None


def _text(causes: Sequence[Cause]) -> str:
    """Return the texts of causes, one a line."""
    lines = [cause.text for cause in causes[:LISTED_CAUSES]]
    more = len(causes) - len(lines)
    return "\n".join([*lines, f"There are {more:,} more."] if more else lines)
