"""Alerts and silences."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.core.errors import Invalid, NotFound
from extensions.alerts import tables
from extensions.alerts.domain.durations import parse_duration
from extensions.alerts.domain.evaluation import Silence
from extensions.alerts.tables import ListedAlert
from gateway.backend import Backend
from infrastructure.postgres.store import Connection

RECENT = 50


@dataclass(frozen=True)
class AlertList:
    """The alerts that fire, those that were resolved last, and the silences in force."""

    firing: list[ListedAlert]
    resolved: list[ListedAlert]
    silences: list[Silence]

    @property
    def rules(self) -> list[str]:
        """Names of the rules of these alerts, which the form offers."""
        return sorted({each.alert.rule for each in (*self.firing, *self.resolved)})


def firing_alerts(backend: Backend) -> list[ListedAlert]:
    """Return the alerts that fire now."""
    with backend.pool.connection() as connection:
        return tables.open_alerts(connection, backend.clock.now())


def list_alerts(backend: Backend) -> AlertList:
    """Return the alerts and silences of now."""
    now = backend.clock.now()
    with backend.pool.connection() as connection:
        return AlertList(
            tables.open_alerts(connection, now),
            tables.resolved_alerts(connection, now, RECENT),
            _silences(connection, now),
        )


def silence(backend: Backend, rule: str, group: str, duration: str) -> None:
    """Withhold notices of a rule, of a group or of both. A blank text stands for all.

    Raise Invalid if both are blank, or if the duration is invalid.
    """
    if not rule and not group:
        raise Invalid("Choose a rule or enter a group.", field="rule")
    until = backend.clock.now() + _length(duration)
    with backend.pool.connection() as connection:
        tables.silence(connection, Silence(rule or None, group or None, until))


def unsilence(backend: Backend, rule: str, group: str) -> None:
    """End a silence. Raise NotFound if the rule and group are not silenced."""
    with backend.pool.connection() as connection:
        found = tables.unsilence(connection, rule or None, group or None)
    if not found:
        name = ", ".join(filter(None, (f"rule {rule!r}" if rule else "", group)))
        raise NotFound(f"There is no silence of {name or 'all alerts'}. Reload the page.")


def _silences(connection: Connection, now: datetime) -> list[Silence]:
    return [each for each in tables.silences(connection) if each.until > now]


def _length(duration: str) -> timedelta:
    try:
        return parse_duration(duration.strip())
    except ValueError as error:
        raise Invalid(f"The duration {duration!r} is invalid. {error}", field="duration") from None
