"""Alert rules."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from domain.core.value import Value
from extensions.alerts.domain.conditions import CONDITIONS, Condition
from extensions.alerts.domain.parameters import Parameters


class Severity(StrEnum):
    """Severity of an alert."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Rule(Value):
    """A rule: when an alert fires, how alerts are grouped, and who receives them."""

    name: str
    condition: str
    parameters: Parameters
    severity: Severity
    group_by: tuple[str, ...]
    """Labels with one alert for each combination. Without labels, the rule has one alert."""
    hold: timedelta
    """Time for which the condition must hold before the alert fires. A file calls it `for`."""
    repeat: timedelta | None
    """Time after which a firing alert is sent again; None: never."""
    resolve_for: timedelta
    """Time for which a checked condition must not hold before the alert resolves."""
    resolve_after: timedelta
    """Time after which a momentary condition no longer holds."""
    receivers: tuple[str, ...]

    @property
    def kind(self) -> Condition:
        """The condition with its labels."""
        return CONDITIONS[self.condition]
